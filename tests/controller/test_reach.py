"""Whatever a policy wants, a canary does not go beyond its share or its pools."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.controller.reach import held_back, within
from poolpilot.env.contract import Action, Cluster, Mode, ReasonCode
from poolpilot.telemetry.record import Reach

from .ticks import a_sitting

CLUSTER = a_sitting().cluster
N_CLASSES, N_POOLS = CLUSTER.serves.shape


def an_action(seed: int, cluster: Cluster = CLUSTER) -> Action:
    """Random, and within what the guard lets through."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(1.0, cluster.serves.shape) * cluster.serves
    return Action(
        route=weights / weights.sum(axis=1, keepdims=True),
        admit=rng.random(N_CLASSES),
        batch_cap=rng.integers(1, 200, N_POOLS).astype(float),
        token_budget=rng.integers(64, 8192, N_POOLS).astype(float),
        replicas=rng.integers(0, 5, N_POOLS).astype(float),
    )


def by_share(share: float, rest: Action) -> Reach:
    return Reach(Mode.CANARY, np.array(share), np.zeros(N_POOLS, dtype=np.bool_), rest)


def by_pools(pools: list[int], rest: Action) -> Reach:
    return Reach(Mode.CANARY, np.array(0.0), np.isin(np.arange(N_POOLS), pools), rest)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.001, 0.999))
def test_by_share_no_more_of_any_class_moves_and_nothing_is_scaled_or_capped(seed: int, share: float) -> None:
    wanted, rest = an_action(seed), an_action(seed + 1)
    applied = within(wanted, by_share(share, rest), CLUSTER)
    moved = np.abs(applied.route - rest.route).sum(axis=1) / 2.0
    assert (moved <= share + 1e-12).all()
    np.testing.assert_allclose(applied.route.sum(axis=1), 1.0)
    assert (applied.route >= 0).all()
    for name in ("batch_cap", "token_budget", "replicas"):
        np.testing.assert_array_equal(getattr(applied, name), getattr(rest, name))
    assert (np.abs(applied.admit - rest.admit) <= share + 1e-12).all()
    # Nothing is sent where nothing is up but what was sent there already.
    gone = rest.replicas == 0
    assert (applied.route[:, gone] <= rest.route[:, gone] + 1e-12).all()


def test_by_share_what_is_wanted_comes_about_as_far_as_the_share_goes() -> None:
    wanted, rest = an_action(1), replace(an_action(2), replicas=np.ones(N_POOLS))
    applied = within(wanted, by_share(0.25, rest), CLUSTER)
    np.testing.assert_allclose(applied.route, 0.25 * wanted.route + 0.75 * rest.route)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), pools=st.sets(st.integers(0, N_POOLS - 1), min_size=1))
def test_by_pools_the_others_keep_everything_and_each_class_its_total(seed: int, pools: set[int]) -> None:
    wanted, rest = an_action(seed), an_action(seed + 1)
    applied = within(wanted, by_pools(sorted(pools), rest), CLUSTER)
    others = [p for p in range(N_POOLS) if p not in pools]
    for name in ("batch_cap", "token_budget", "replicas"):
        np.testing.assert_array_equal(getattr(applied, name)[others], getattr(rest, name)[others])
        np.testing.assert_array_equal(getattr(applied, name)[sorted(pools)], getattr(wanted, name)[sorted(pools)])
    np.testing.assert_array_equal(applied.route[:, others], rest.route[:, others])
    np.testing.assert_allclose(applied.route.sum(axis=1), 1.0)
    inside, theirs = applied.route[:, sorted(pools)], wanted.route[:, sorted(pools)]
    for c in np.flatnonzero((theirs.sum(axis=1) > 1e-9) & (inside.sum(axis=1) > 1e-9)):
        np.testing.assert_allclose(inside[c] / inside[c].sum(), theirs[c] / theirs[c].sum())


@pytest.mark.parametrize("mode", [Mode.ADVISE, Mode.ACTIVE])
def test_other_modes_change_nothing(mode: Mode) -> None:
    wanted = an_action(1)
    reach = replace(by_share(0.1, an_action(2)), mode=mode)
    assert within(wanted, reach, CLUSTER) is wanted


def test_what_was_held_back_has_its_reason() -> None:
    rest = an_action(2)
    wanted = replace(rest, replicas=rest.replicas + np.eye(N_POOLS)[1], route=np.roll(rest.route, 1, axis=1))
    found = held_back(wanted, within(wanted, by_share(0.05, rest), CLUSTER), CLUSTER)
    assert {r.code for r in found} == {ReasonCode.CANARY}
    scaled = [r for r in found if r.detail == "replicas"]
    assert [(r.subject, r.wanted, r.applied) for r in scaled] == [
        (CLUSTER.pool_names[1], rest.replicas[1] + 1.0, rest.replicas[1])
    ]
    assert {r.subject for r in found if r.detail == "route"} == set(CLUSTER.class_names)
    assert held_back(rest, within(rest, by_share(0.05, rest), CLUSTER), CLUSTER) == ()


def test_every_part_of_an_action_is_limited() -> None:
    # A part that is added to Action must be given a rule here.
    assert [f.name for f in fields(Action)] == ["route", "admit", "batch_cap", "token_budget", "replicas"]
