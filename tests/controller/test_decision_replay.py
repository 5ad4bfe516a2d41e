from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.controller.decision_log import DecisionLog, read_log
from poolpilot.controller.decision_replay import Difference, replay
from poolpilot.env.contract import Cluster, Decision, Mode, Policy

from .ticks import a_sitting, policies, sat_through


def logged_policy(decision: Decision, cluster: Cluster) -> Policy:
    return policies(cluster)[decision.policy_name]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", range(3))
def test_a_log_decides_the_same_again(tmp_path: Path, seed: int, mode: Mode) -> None:
    sitting = a_sitting()
    with DecisionLog(tmp_path / "log.jsonl", sitting) as log:
        for record in sat_through(sitting, 12, seed, mode):
            log.append(record)
    records = list(read_log(tmp_path / "log.jsonl"))
    assert sum(record.fell_back for record in records) == 4
    outcome = replay(records, logged_policy)
    assert (outcome.ticks, outcome.differences) == (12, ())


def test_a_changed_figure_is_found_and_named() -> None:
    records = list(sat_through(a_sitting(), 2, seed=0))
    decision = records[1].decision
    replicas = decision.applied.replicas.copy()
    replicas[2] = np.nextafter(replicas[2], 99.0)
    changed = replace(decision, applied=replace(decision.applied, replicas=replicas), expected_usd_per_hr=0.0)
    outcome = replay([records[0], replace(records[1], decision=changed)], logged_policy)
    assert [(d.tick, d.field) for d in outcome.differences] == [
        (1, "applied.replicas[2]"),
        (1, "expected_usd_per_hr"),
    ]
    assert outcome.differences[0].logged == repr(float(replicas[2]))


def test_another_policy_shows_where_it_would_have_differed() -> None:
    records = list(sat_through(a_sitting(), 6, seed=0))
    records = [replace(record, memory={}) for record in records]
    outcome = replay(records, lambda decision, cluster: policies(cluster)["careful"])
    assert {d.field.split(".")[0].split("[")[0] for d in outcome.differences} >= {"proposed", "applied"}


def test_a_policy_that_fails_is_a_difference() -> None:
    records = [r for r in sat_through(a_sitting(), 3, seed=0) if r.fell_back]
    outcome = replay(records, lambda decision, cluster: policies(cluster)["fragile"])
    assert outcome.differences == (Difference(2, "proposed", "an action", "ZeroDivisionError: no load"),)
