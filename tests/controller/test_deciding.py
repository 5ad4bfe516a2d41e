"""Whatever a policy does, the tick ends in a decision; the record says who decided and why."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.controller.deciding import Minds, Proposed, conclude, expected_attainment, propose
from poolpilot.env.contract import Action, Memory, Mode, Plan, ReasonCode, Snapshot
from poolpilot.env.guard import first_state

from .ticks import a_plan, a_sitting, a_snapshot

SITTING = a_sitting()
CLUSTER = SITTING.cluster
PLAN = a_plan(CLUSTER)
SEEN = a_snapshot(CLUSTER, 10.0, np.random.default_rng(3))
RULE = PlanTracking(CLUSTER)
MINDS = Minds(policy={"own": np.array(1.0)}, fallback={})


class Odd:
    """A policy that hands out what it is told to."""

    name, policy_hash = "odd", "0dd"

    def __init__(self, answer: Callable[[Action], Any]) -> None:
        self.answer = answer

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule's action, made odd."""
        action, _ = RULE.decide(snapshot, plan, {})
        return self.answer(action), {"own": memory["own"] + 1.0}


def raising(action: Action) -> Action:
    raise ZeroDivisionError("float division by zero")


def without(name: str, value: float) -> Callable[[Action], Action]:
    def spoilt(action: Action) -> Action:
        values = np.array(getattr(action, name))
        values.flat[0] = value
        return replace(action, **{name: values})

    return spoilt


ODDITIES = [
    pytest.param(raising, ReasonCode.POLICY_ERROR, "ZeroDivisionError: float division by zero", id="raises"),
    pytest.param(lambda a: None, ReasonCode.POLICY_ERROR, "NoneType", id="no action"),
    pytest.param(lambda a: "scale up", ReasonCode.POLICY_ERROR, "str", id="words"),
    *(
        pytest.param(without(f.name, np.nan), ReasonCode.NOT_FINITE, "fallback", id=f"{f.name} NaN")
        for f in fields(Action)
    ),
    pytest.param(without("replicas", np.inf), ReasonCode.NOT_FINITE, "fallback", id="infinite replicas"),
    pytest.param(
        lambda a: replace(a, replicas=a.replicas[:-1]),
        ReasonCode.POLICY_ERROR,
        "replicas has shape",
        id="too few pools",
    ),
    pytest.param(
        lambda a: replace(a, route=a.route[:, 1:]), ReasonCode.POLICY_ERROR, "route has shape", id="a pool forgotten"
    ),
    pytest.param(lambda a: replace(a, admit=a.admit[None]), ReasonCode.POLICY_ERROR, "admit has shape", id="a batch"),
    pytest.param(
        lambda a: replace(a, batch_cap=np.float64(3.0)), ReasonCode.POLICY_ERROR, "batch_cap has shape", id="one number"
    ),
]


@pytest.mark.parametrize(("answer", "code", "words"), ODDITIES)
def test_the_fallback_decides_where_the_policy_cannot(
    answer: Callable[[Action], Any], code: ReasonCode, words: str
) -> None:
    proposed, minds = propose(Odd(answer), RULE, SEEN, PLAN, MINDS)
    assert proposed.trouble is not None
    assert (proposed.trouble.code, proposed.trouble.subject) == (code, "odd")
    assert words in proposed.trouble.detail
    assert proposed.policy_name == RULE.name
    expected, remembered = RULE.decide(SEEN, PLAN, {})
    for field in fields(Action):
        np.testing.assert_array_equal(getattr(proposed.action, field.name), getattr(expected, field.name))
    # A policy that failed has seen nothing; the fallback knows the recent past when it must step in.
    assert minds.policy is MINDS.policy
    assert minds.fallback.keys() == remembered.keys()
    decision, _ = conclude(
        proposed, SEEN, PLAN, CLUSTER, SITTING.limits, first_state(PLAN, CLUSTER), tick=7, mode=Mode.ACTIVE
    )
    assert decision.reasons[0] is proposed.trouble
    assert (decision.policy_name, decision.tick, decision.mode) == (RULE.name, 7, Mode.ACTIVE)


def test_a_sound_policy_decides_itself() -> None:
    proposed, minds = propose(Odd(lambda action: action), RULE, SEEN, PLAN, MINDS)
    assert (proposed.policy_name, proposed.policy_hash, proposed.trouble) == ("odd", "0dd", None)
    assert float(minds.policy["own"]) == 2.0
    assert minds.fallback.keys() == RULE.decide(SEEN, PLAN, {})[1].keys()


@pytest.mark.parametrize(
    ("rate", "replicas", "expected_of_wanted"),
    [(0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (4.0, 1.0, 0.25), (1.0, 0.0, 0.0), (4.0, 9.0, 1.0)],
    ids=["nothing to carry", "just carried", "half", "a quarter", "no replica", "plenty"],
)
def test_expected_attainment_is_the_share_that_the_wanted_replicas_carry(
    rate: float, replicas: float, expected_of_wanted: float
) -> None:
    classes, pools = CLUSTER.serves.shape
    serving = int(np.flatnonzero(CLUSTER.serves.all(axis=0))[0])
    route = np.zeros((classes, pools))
    route[:, serving] = 1.0
    seen = replace(SEEN, classes=SEEN.classes.copy())
    seen.arrival_rate_per_s[:] = 0.0
    seen.arrival_rate_per_s[0] = rate
    plan = replace(PLAN, capacity_per_s=np.ones((classes, pools)))
    action = replace(RULE.decide(SEEN, PLAN, {})[0], route=route, replicas=np.full(pools, replicas))
    expected = expected_attainment(seen, plan, action, CLUSTER)
    np.testing.assert_allclose(expected, CLUSTER.targets.attainment * expected_of_wanted)


@given(seed=st.integers(0, 2**32 - 1), unknown=st.sampled_from([0.0, 0.3, 1.0]))
def test_expected_attainment_stays_between_nothing_and_the_wanted(seed: int, unknown: float) -> None:
    rng = np.random.default_rng(seed)
    seen = a_snapshot(CLUSTER, 10.0, rng)
    seen.classes[rng.random(seen.classes.shape) < unknown] = np.nan
    action, _ = RULE.decide(seen, PLAN, {})
    decision, _ = conclude(
        Proposed(action, "rule", ""), seen, PLAN, CLUSTER, SITTING.limits, first_state(PLAN, CLUSTER), 0, Mode.ADVISE
    )
    expected = decision.expected_attainment
    assert np.all((expected >= 0.0) & (expected <= CLUSTER.targets.attainment + 1e-12))
    assert decision.expected_usd_per_hr >= 0.0
