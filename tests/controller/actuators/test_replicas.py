import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.actuators.replicas import (
    CausedSeconds,
    Causes,
    PoolReplicas,
    RentedSeconds,
    RentMeter,
    Replica,
    Stage,
    Step,
    StepKind,
    backoff_s,
    reconcile,
)
from poolpilot.env.contract import NO_DECISION

STAGES = {
    "w": Stage.WAITING,
    "p": Stage.PROVISIONING,
    "l": Stage.LOADING,
    "r": Stage.READY,
    "d": Stage.DRAINING,
    "s": Stage.STOPPING,
    "f": Stage.FALLING_ASLEEP,
    "z": Stage.ASLEEP,
    "k": Stage.WAKING,
}
LETTERS = {stage: letter for letter, stage in STAGES.items()}


def pool(stages: str, name: str = "a") -> list[Replica]:
    return [Replica(f"{name}{i}", name, STAGES[letter]) for i, letter in enumerate(stages)]


def written(steps: tuple[Step, ...]) -> str:
    return " ".join(f"{step.kind}:{step.subject}" for step in steps)


@pytest.mark.parametrize(
    ("stages", "target", "load", "expected"),
    [
        ("", 0, {}, ""),
        ("", 2, {}, "start:a start:a"),
        ("rr", 2, {}, ""),
        ("rl", 2, {}, ""),
        ("wp", 2, {}, ""),
        ("rd", 1, {}, ""),
        ("rd", 2, {}, "revive:a1"),
        ("ddd", 2, {}, "revive:a2 revive:a1"),
        ("rd", 4, {}, "revive:a1 start:a start:a"),
        ("rs", 2, {}, "start:a"),
        ("ds", 2, {}, "revive:a0 start:a"),
        ("rr", 1, {}, "drain:a1"),
        ("rrr", 1, {"a0": 0, "a1": 5, "a2": 3}, "drain:a0 drain:a2"),
        ("rrr", 2, {"a1": 4}, "drain:a1"),
        ("rlpw", 2, {}, "cancel:a3 cancel:a2"),
        ("rlpw", 0, {"a0": 0}, "cancel:a3 cancel:a2 cancel:a1 drain:a0"),
        ("ds", 0, {}, ""),
        ("rzz", 1, {}, ""),
        ("rzz", 2, {}, "wake:a1"),
        ("dzf", 4, {}, "revive:a0 wake:a1 start:a start:a"),
        ("rkz", 1, {}, "cancel:a1"),
    ],
    ids=[
        "nothing of nothing",
        "from nothing",
        "there already",
        "a start counts",
        "a start held back counts",
        "one that leaves does not count",
        "called back before it is stopped",
        "the last to leave comes back first",
        "called back, and the rest started",
        "none that was told to stop comes back",
        "called back and started, none that was told to stop",
        "the newest goes in a tie",
        "the least busy go first",
        "one that does not say how busy it is goes last",
        "starts furthest from serving are given up first",
        "all, starts first",
        "those that leave are left alone",
        "one that sleeps is not wanted",
        "the first that sleeps is woken up",
        "called back, woken up, and the rest started",
        "one that wakes up may go back to sleep",
    ],
)
def test_steps_to_a_count(stages: str, target: int, load: dict[str, float], expected: str) -> None:
    assert written(reconcile(pool(stages), {"a": target}, load)) == expected


def test_a_pool_that_is_not_named_stays_as_it_is() -> None:
    assert reconcile([*pool("rr", "a"), *pool("r", "b")], {"b": 0}, {}) == (Step(StepKind.DRAIN, "b0"),)


def done(replicas: list[Replica], steps: tuple[Step, ...]) -> list[Replica]:
    """The replicas after the steps; a start that was given up is told to stop or is gone."""
    after = {r.name: r for r in replicas}
    for i, step in enumerate(steps):
        if step.kind == StepKind.START:
            after[f"new{i}"] = Replica(f"new{i}", step.subject, Stage.PROVISIONING)
            continue
        old = after[step.subject]
        becomes = {
            StepKind.REVIVE: Stage.READY,
            StepKind.WAKE: Stage.WAKING,
            StepKind.DRAIN: Stage.DRAINING,
            StepKind.CANCEL: Stage.STOPPING,
        }
        after[step.subject] = Replica(old.name, old.pool, becomes[step.kind])
    return list(after.values())


@given(
    st.text("wplrdsfzk", max_size=8), st.text("wplrdsfzk", max_size=8), st.integers(0, 6), st.dictionaries(
        st.sampled_from([f"a{i}" for i in range(8)]), st.floats(0, 100)
    )
)  # fmt: skip
def test_the_steps_reach_the_count_once_and_then_there_is_nothing_to_do(
    stages: str, other: str, target: int, load: dict[str, float]
) -> None:
    before = [*pool(stages), *pool(other, "b")]
    steps = reconcile(before, {"a": target}, load)
    after = done(before, steps)
    own = PoolReplicas(tuple(r for r in after if r.pool == "a"), 0, "", math.nan)
    assert own.ready + own.starting == target
    assert reconcile(after, {"a": target}, load) == ()
    assert [r for r in after if r.pool == "b"] == pool(other, "b")
    touched = {s.subject for s in steps}
    assert not touched & {r.name for r in before if r.stage == Stage.STOPPING}


def test_only_ready_replicas_are_listed() -> None:
    replicas = tuple(
        Replica(f"a{i}", "a", stage, Endpoint("127.0.0.1", 8000 + i) if i > 1 else None)
        for i, stage in enumerate(STAGES.values())
    )
    states = PoolReplicas(replicas, 0, "", math.nan)
    assert (states.starting, states.ready, states.draining, states.asleep) == (4, 1, 3, 1)
    assert states.endpoints == (Endpoint("127.0.0.1", 8003),)


@pytest.mark.parametrize(("failures", "expected"), [(0, 0.0), (1, 2.0), (2, 4.0), (4, 16.0), (5, 20.0), (5000, 20.0)])
def test_backoff_doubles_up_to_a_limit(failures: int, expected: float) -> None:
    assert backoff_s(failures, 2.0, 20.0) == expected


def test_rent_is_the_sum_of_the_time_in_each_stage() -> None:
    now_s = [100.0]
    meter = RentMeter(lambda: now_s[0])
    life = [
        *(Stage.WAITING, Stage.PROVISIONING, Stage.LOADING, Stage.READY, Stage.DRAINING, Stage.FALLING_ASLEEP),
        *(Stage.ASLEEP, Stage.WAKING, Stage.READY, Stage.DRAINING, Stage.STOPPING, None),
    ]
    spans_s = [5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0, 31.0, 37.0, 41.0]
    meter.move("a", None, life[0])
    for (left, entered), span_s in zip(itertools.pairwise(life), spans_s, strict=True):
        now_s[0] += span_s
        meter.move("a", left, entered)
    now_s[0] += 1000.0
    assert meter.read() == {"a": RentedSeconds(starting_s=47.0, ready_s=44.0, draining_s=114.0, asleep_s=23.0)}


def test_rent_of_a_replica_counts_while_it_lasts() -> None:
    now_s = [0.0]
    meter = RentMeter(lambda: now_s[0])
    meter.move("a", None, Stage.READY)
    now_s[0] = 10.0
    meter.move("a", None, Stage.READY)
    meter.move("b", None, Stage.LOADING)
    now_s[0] = 13.0
    assert meter.read() == {"a": RentedSeconds(ready_s=16.0), "b": RentedSeconds(starting_s=3.0)}
    assert meter.read()["a"].total_s == 16.0


def test_starting_and_draining_are_told_by_the_decision_behind_them() -> None:
    now_s = [0.0]
    meter = RentMeter(lambda: now_s[0])
    causes = Causes(started=3)
    meter.move("a", None, Stage.PROVISIONING, causes)
    meter.move("a", None, Stage.READY)
    now_s[0] = 10.0
    meter.move("a", Stage.PROVISIONING, Stage.READY, causes)
    causes = replace(causes, stopped=7)
    now_s[0] = 15.0
    meter.move("a", Stage.READY, Stage.DRAINING, causes)
    now_s[0] = 18.0
    meter.read()
    assert meter.caused() == (CausedSeconds("a", "starting_s", 3, 10.0), CausedSeconds("a", "draining_s", 7, 3.0))
    assert meter.caused() == ()
    now_s[0] = 20.0
    meter.move("a", Stage.DRAINING, None, causes)
    rented = meter.read()["a"]
    assert meter.caused() == (CausedSeconds("a", "draining_s", 7, 2.0),)
    assert (rented.starting_s, rented.draining_s, rented.ready_s) == (10.0, 5.0, 25.0)


def test_what_nobody_decided_is_told_as_such() -> None:
    now_s = [0.0]
    meter = RentMeter(lambda: now_s[0])
    meter.move("a", None, Stage.LOADING)
    now_s[0] = 4.0
    meter.read()
    assert meter.caused() == (CausedSeconds("a", "starting_s", NO_DECISION, 4.0),)
