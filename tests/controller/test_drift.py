import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.deciding import Proposed, conclude
from poolpilot.controller.decision_log import DecisionLog
from poolpilot.controller.decision_replay import replay
from poolpilot.controller.drift import Drift, drifted
from poolpilot.controller.reach import trusted
from poolpilot.controller.twin_watch import TwinWatch
from poolpilot.env.contract import Action, Mode, ReasonCode
from poolpilot.env.guard import first_state
from poolpilot.env.scenario.control import Drifting
from poolpilot.telemetry.record import Reach, TickRecord, read_log
from poolpilot.telemetry.twin_report import FILE, TwinReport, write_twin_report

from .ticks import a_plan, a_sitting, a_snapshot, policies

LIMITS = Drifting()
UNKNOWN = math.nan


def after(outside: list[float], twin_error: float = UNKNOWN, tick_s: float = 10.0) -> Drift:
    drift = Drift()
    for n, share in enumerate(outside):
        drift = drifted(drift, n * tick_s, share, ("rate",), twin_error, LIMITS)
    return drift


def test_a_policy_is_trusted_where_nothing_is_known() -> None:
    assert after([UNKNOWN] * 100).trust == 1.0
    assert after([UNKNOWN] * 100).in_words() == ""


def test_one_odd_tick_is_no_drift_and_a_lasting_one_is() -> None:
    assert after([1.0]).trust == 1.0
    assert after([0.0] * 50 + [0.4]).trust == 1.0
    lasting = after([0.3] * 1000)
    assert lasting.trust == 0.0
    assert lasting.outside_frac == pytest.approx(0.3, rel=1e-3)


def test_trust_falls_in_a_straight_line_between_the_thresholds() -> None:
    assert after([0.05] * 2000).trust == 1.0
    assert after([0.125] * 2000).trust == pytest.approx(0.5, abs=1e-3)
    assert after([0.2] * 2000).trust == pytest.approx(0.0, abs=1e-3)


def test_the_twins_error_lowers_trust_too_and_the_lower_counts() -> None:
    assert after([0.0], twin_error=0.4).trust == 1.0
    assert after([0.0], twin_error=0.7).trust == pytest.approx(0.5)
    assert after([0.125] * 2000, twin_error=0.85).trust == pytest.approx(0.25)


def test_what_is_wrong_is_said_with_what_helps() -> None:
    said = after([0.125] * 2000, twin_error=0.5).in_words()
    assert "12% of what the policy sees is outside the range it was trained on (rate)" in said
    assert "the twin is off by 50% of what counts as bad" in said
    assert "the fallback rule has 50% of every decision" in said
    assert "poolpilot finetune refit" in said


@given(st.lists(st.floats(0.0, 1.0) | st.just(UNKNOWN), max_size=60), st.floats(0.0, 5.0) | st.just(UNKNOWN))
def test_trust_is_a_share_whatever_is_seen(outside: list[float], twin_error: float) -> None:
    drift = after(outside, twin_error)
    assert 0.0 <= drift.trust <= 1.0
    assert math.isnan(drift.outside_frac) or 0.0 <= drift.outside_frac <= 1.0


def an_action(route: float, replicas: float) -> Action:
    return Action(
        route=np.array([[route, 1.0 - route]]),
        admit=np.ones(1),
        batch_cap=np.full(2, 10.0 * replicas),
        token_budget=np.full(2, 2048.0),
        replicas=np.full(2, replicas),
    )


def test_what_is_not_trusted_is_the_rules() -> None:
    wanted, rest = an_action(1.0, 5.0), an_action(0.0, 2.0)
    for trust, route, replicas in ((1.0, 1.0, 5.0), (0.5, 0.5, 4.0), (0.0, 0.0, 2.0)):
        reach = Reach(Mode.ACTIVE, np.array(0.0), np.zeros(2, dtype=np.bool_), rest, trust)
        got = trusted(wanted, reach)
        assert got.route[0, 0] == pytest.approx(route)
        assert got.replicas.tolist() == [replicas, replicas]
        assert got.route.sum() == pytest.approx(1.0)


def test_a_decision_that_was_trusted_in_part_says_why_and_is_decided_again(tmp_path: Path) -> None:
    sitting = a_sitting()
    cluster, plan = sitting.cluster, a_plan(sitting.cluster)
    snapshot = a_snapshot(cluster, 0.0, np.random.default_rng(4))
    state = first_state(plan, cluster)
    policy = policies(cluster)["fragile"]
    action, _ = policy.decide(snapshot, plan, {})
    other = replace(action, replicas=action.replicas + 4.0)
    reach = Reach(Mode.ACTIVE, np.array(0.0), np.zeros(len(cluster.pool_names), dtype=np.bool_), other, 0.25)
    decision, _ = conclude(
        Proposed(action, "fragile", "abc123", other), snapshot, plan, cluster, sitting.limits, state, 0, reach
    )
    assert ReasonCode.DRIFT in {reason.code for reason in decision.reasons}
    with DecisionLog(tmp_path / "log.jsonl", sitting) as log:
        log.append(TickRecord(sitting, snapshot, plan, {}, state, reach, decision))
    outcome = replay(read_log(tmp_path / "log.jsonl"), lambda decision, sitting: policies(sitting.cluster)["fragile"])
    assert (outcome.ticks, outcome.differences) == (1, ())


def test_the_newest_error_of_the_twin_is_known_as_soon_as_it_is_told(tmp_path: Path) -> None:
    watch = TwinWatch(tmp_path)
    assert math.isnan(watch.error())
    write_twin_report(tmp_path, TwinReport(0.7, 0.1, 1.8e9))
    assert watch.error() == 0.7
    write_twin_report(tmp_path, TwinReport(0.2, 0.1, 1.8e9))
    assert watch.error() == 0.2
    (tmp_path / FILE).write_text('{"kind": "something"}')
    assert math.isnan(watch.error()), "a file that is none of ours is none"
    (tmp_path / FILE).unlink()
    assert math.isnan(watch.error())
