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
from poolpilot.env.contract import Action, Memory, Mode, Plan, Reason, ReasonCode, Snapshot
from poolpilot.env.guard import GuardState, first_state
from poolpilot.telemetry.record import Reach

from .ticks import a_plan, a_reach, a_sitting, a_snapshot

SITTING = a_sitting()
CLUSTER = SITTING.cluster
PLAN = a_plan(CLUSTER)
SEEN = a_snapshot(CLUSTER, 10.0, np.random.default_rng(3))
RULE = PlanTracking(CLUSTER)
MINDS = Minds(policy={"own": np.array(1.0)}, fallback={})


def reach(mode: Mode) -> Reach:
    return a_reach(CLUSTER, mode, first_state(PLAN, CLUSTER).applied)


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
        proposed, SEEN, PLAN, CLUSTER, SITTING.limits, first_state(PLAN, CLUSTER), tick=7, reach=reach(Mode.ACTIVE)
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
        Proposed(action, "rule", "", action),
        seen,
        PLAN,
        CLUSTER,
        SITTING.limits,
        first_state(PLAN, CLUSTER),
        0,
        reach(Mode.ADVISE),
    )
    expected = decision.expected_attainment
    assert np.all((expected >= 0.0) & (expected <= CLUSTER.targets.attainment + 1e-12))
    assert decision.expected_usd_per_hr >= 0.0


def troubled(code: ReasonCode) -> Proposed:
    """The rule stands in, and wants otherwise than what is in force."""
    action, _ = RULE.decide(SEEN, PLAN, {})
    wishes = replace(action, route=np.roll(action.route, 1, axis=1), replicas=action.replicas + 1.0)
    return Proposed(wishes, "rule", "", wishes, Reason(code, "h100", 31.0, 30.0, "looked for it"))


def concluded(proposed: Proposed, mode: Mode = Mode.ACTIVE) -> tuple[Action, GuardState]:
    state = first_state(PLAN, CLUSTER)
    decision, after = conclude(proposed, SEEN, PLAN, CLUSTER, SITTING.limits, state, 3, reach(mode))
    return decision.applied, after


@pytest.mark.parametrize("code", [ReasonCode.MISSING_TELEMETRY, ReasonCode.STALE_TELEMETRY])
def test_without_telemetry_the_last_good_weights_stay_and_the_rule_decides_the_rest(code: ReasonCode) -> None:
    proposed = troubled(code)
    applied, _ = concluded(proposed)
    last_good = first_state(PLAN, CLUSTER).applied
    np.testing.assert_array_equal(applied.route, last_good.route)
    np.testing.assert_array_equal(applied.admit, last_good.admit)
    ruled, _ = concluded(replace(proposed, trouble=None))
    np.testing.assert_array_equal(applied.batch_cap, ruled.batch_cap)
    assert not np.array_equal(proposed.action.route, last_good.route)


def test_a_sidecar_that_has_seen_nothing_yet_leaves_everything_as_it_is() -> None:
    state = first_state(PLAN, CLUSTER)
    up = replace(SEEN, pools=SEEN.pools.copy())
    up.target[:] = state.applied.replicas
    up.ready[:] = state.applied.replicas
    up.gpu_temp_c[:] = 50.0
    up.classes[:] = np.nan
    decision, _ = conclude(
        troubled(ReasonCode.RESUMING), up, PLAN, CLUSTER, SITTING.limits, state, 0, reach(Mode.ACTIVE)
    )
    for field in fields(Action):
        np.testing.assert_array_equal(getattr(decision.applied, field.name), getattr(state.applied, field.name))


def test_an_adviser_decides_as_if_it_acted_and_the_guard_remembers_that_it_did_not() -> None:
    action, _ = RULE.decide(SEEN, PLAN, {})
    proposed = Proposed(replace(action, replicas=action.replicas + 1.0), "rule", "", action)
    applied, state = concluded(proposed, Mode.ADVISE)
    acted, after = concluded(proposed, Mode.ACTIVE)
    for field in fields(Action):
        np.testing.assert_array_equal(getattr(applied, field.name), getattr(acted, field.name))
    assert state.applied is not applied
    np.testing.assert_array_equal(state.applied.replicas, first_state(PLAN, CLUSTER).applied.replicas)
    assert after.applied is acted


def test_news_come_last_among_the_reasons() -> None:
    action, _ = RULE.decide(SEEN, PLAN, {})
    news = Reason(ReasonCode.STEPPED_BACK, "canary", 2.0, 1.0, "chat: too few")
    decision, _ = conclude(
        Proposed(action, "rule", "", action),
        SEEN,
        PLAN,
        CLUSTER,
        SITTING.limits,
        first_state(PLAN, CLUSTER),
        0,
        reach(Mode.CANARY),
        (news,),
    )
    assert decision.reasons[-1] is news
