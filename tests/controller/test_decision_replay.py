from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.controller.choosing import FALLBACK, PolicyChoice
from poolpilot.controller.decision_log import DecisionLog
from poolpilot.controller.decision_replay import Difference, ReplayError, replay
from poolpilot.env.contract import Decision, Mode, Policy
from poolpilot.telemetry.record import Sitting, TickRecord, entry_of, read_entries, read_log

from .ticks import a_sitting, policies, sat_through


def that_policy(decision: Decision, sitting: Sitting) -> Policy:
    return policies(sitting.cluster)[decision.policy_name]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", range(3))
def test_a_log_decides_the_same_again(tmp_path: Path, seed: int, mode: Mode) -> None:
    sitting = a_sitting()
    with DecisionLog(tmp_path / "log.jsonl", sitting) as log:
        for record in sat_through(sitting, 12, seed, mode):
            log.append(record)
    records = list(read_log(tmp_path / "log.jsonl"))
    assert sum(record.fell_back for record in records) == 4
    outcome = replay(records, that_policy)
    assert (outcome.ticks, outcome.differences) == (12, ())
    assert (outcome.decided, outcome.fell_back) == ({"fragile abc123": 8, "careful": 4}, 4)


def test_a_changed_figure_is_found_and_named() -> None:
    records = list(sat_through(a_sitting(), 2, seed=0))
    decision = records[1].decision
    replicas = decision.applied.replicas.copy()
    replicas[2] = np.nextafter(replicas[2], 99.0)
    changed = replace(decision, applied=replace(decision.applied, replicas=replicas), expected_usd_per_hr=0.0)
    outcome = replay([records[0], replace(records[1], decision=changed)], that_policy)
    assert [(d.tick, d.field) for d in outcome.differences] == [
        (1, "applied.replicas[2]"),
        (1, "expected_usd_per_hr"),
    ]
    assert outcome.differences[0].logged == repr(float(replicas[2]))


def test_another_policy_shows_where_it_would_have_differed() -> None:
    records = list(sat_through(a_sitting(), 6, seed=0))
    records = [replace(record, memory={}) for record in records]
    outcome = replay(records, lambda decision, sitting: policies(sitting.cluster)["careful"])
    assert {d.field.split(".")[0].split("[")[0] for d in outcome.differences} >= {"proposed", "applied"}


def test_a_policy_that_fails_is_a_difference() -> None:
    records = [r for r in sat_through(a_sitting(), 3, seed=0) if r.fell_back]
    outcome = replay(records, lambda decision, sitting: policies(sitting.cluster)["fragile"])
    assert outcome.differences == (Difference(2, "proposed", "an action", "ZeroDivisionError: no load"),)


CHOICES = [
    PolicyChoice("plan-tracking", knobs={"headroom": 1.3}),
    PolicyChoice("saturation"),
    PolicyChoice("static-round-robin", setting=(2.0, 1.0, 3.0)),
    PolicyChoice("steady-hand"),
    PolicyChoice("steady-hand", miss_price=0.5),
]


def chosen(choice: PolicyChoice, n_ticks: int) -> list[TickRecord]:
    """Ticks decided by a policy that can be chosen on the command line."""
    sitting = a_sitting()
    policy = choice.make(sitting.cluster)
    fallback = FALLBACK.make(sitting.cluster)
    sitting = replace(sitting, policies=(choice.sat(policy), FALLBACK.sat(fallback)))
    return list(sat_through(sitting, n_ticks, 5, deciding=(policy, fallback)))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: f"{choice.name} {choice.knobs}{choice.miss_price}")
def test_a_log_tells_how_to_make_whoever_decided(tmp_path: Path, choice: PolicyChoice) -> None:
    records = chosen(choice, 6)
    with DecisionLog(tmp_path / "log.jsonl", records[0].sitting) as log:
        for record in records:
            log.append(record)
    outcome = replay(read_log(tmp_path / "log.jsonl"))
    assert (outcome.ticks, outcome.differences, outcome.fell_back) == (6, (), 0)
    assert all(len(who.split()[-1]) == 16 for who in outcome.decided)
    streamed = [(f"stream {n}", entry_of(record)) for n, record in enumerate(records)]
    assert replay(read_entries(streamed)).differences == ()


def test_other_knobs_are_another_policy() -> None:
    cluster = a_sitting().cluster
    hashes = [
        PolicyChoice("plan-tracking", knobs=knobs).make(cluster).policy_hash for knobs in ({}, {"headroom": 1.31}, {})
    ]
    assert hashes[0] == hashes[2] != hashes[1]
    spelled_out = PolicyChoice("plan-tracking").settled()
    assert spelled_out.make(cluster).policy_hash == hashes[0]


def test_a_policy_that_is_not_what_it_was_is_refused() -> None:
    (record,) = chosen(CHOICES[0], 1)
    policy = record.sitting.policies[0]
    retuned = replace(policy, chosen=PolicyChoice("plan-tracking", knobs={"headroom": 1.4}))
    with pytest.raises(
        ReplayError, match=f"tick 0 was decided by plan-tracking {policy.policy_hash}, and plan-tracking is"
    ):
        replay([replace(record, sitting=replace(record.sitting, policies=(retuned,)))])
    with pytest.raises(ReplayError, match="the log tells only how to make nobody"):
        replay([replace(record, sitting=replace(record.sitting, policies=()))])
