"""The variant without rules: outputs are counts and routes."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from poolpilot.agents.blend import rules_of
from poolpilot.agents.portfolio import make_rule, portfolio_of
from poolpilot.env.batch import ClusterBatch
from poolpilot.env.codec import CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS, Outputs
from poolpilot.env.scenario import load_scenario
from poolpilot.training.free import FreeActing
from poolpilot.training.worlds import episode_of


def a_look():  # type: ignore[no-untyped-def]
    scenario = load_scenario("two-models")
    batch = ClusterBatch([episode_of(scenario, 3, 1.0, quickly=True)], scenario.tick_s)
    acting = FreeActing(batch.cluster, rules_of(portfolio_of(), make_rule)(batch.cluster))
    look, _ = acting.look(batch.snapshot(), batch.plan, {}, np.ones(1))
    return acting, look, batch.cluster


ACTING, LOOK, CLUSTER = a_look()
C, P = CLUSTER.serves.shape[1:]


def outputs(by_class: np.ndarray, by_pool: np.ndarray) -> Outputs:
    return Outputs(by_class[None], by_pool[None], np.zeros((1, WHOLE_OUTPUTS)))


def test_zeros_are_half_of_every_pool_and_an_even_split() -> None:
    action = ACTING.act(outputs(np.zeros((C, CLASS_OUTPUTS)), np.zeros((P, POOL_OUTPUTS))), LOOK)
    middle = (CLUSTER.min_replicas + CLUSTER.max_replicas) / 2.0
    assert (np.abs(action.replicas - middle) <= 0.5).all()
    even = CLUSTER.serves / CLUSTER.serves.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(action.route, even)


@given(
    arrays(np.float64, (C, CLASS_OUTPUTS), elements=st.floats(-3, 3)),
    arrays(np.float64, (P, POOL_OUTPUTS), elements=st.floats(-3, 3)),
)
def test_whatever_comes_out_can_be_done(by_class: np.ndarray, by_pool: np.ndarray) -> None:
    action = ACTING.act(outputs(by_class, by_pool), LOOK)
    assert (action.replicas >= CLUSTER.min_replicas).all()
    assert (action.replicas <= CLUSTER.max_replicas).all()
    assert (action.replicas == np.round(action.replicas)).all()
    np.testing.assert_allclose(action.route.sum(axis=-1), 1.0)
    assert (action.route[~CLUSTER.serves] == 0).all()
    assert ((action.admit >= 0) & (action.admit <= 1)).all()
    assert (action.batch_cap >= 1).all()
    assert (action.batch_cap <= CLUSTER.max_batch_cap).all()


def test_full_outputs_reach_the_pools_limits(tmp_path: Path) -> None:
    for value, limit in ((-1.0, CLUSTER.min_replicas), (1.0, CLUSTER.max_replicas)):
        action = ACTING.act(outputs(np.zeros((C, CLASS_OUTPUTS)), np.full((P, POOL_OUTPUTS), value)), LOOK)
        assert (action.replicas == limit).all()
