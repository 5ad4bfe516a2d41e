"""The fleets that are followed beside the real one: the rule's, and the policy's where it only advises."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.controller.comparing import Courses, begun, compared
from poolpilot.controller.deciding import Proposed, conclude
from poolpilot.env.contract import BILL_LAYERS, IDLE_PARTS, Action, Bill, Mode, Snapshot, blank_snapshot
from poolpilot.env.counterfactual import Comparison
from poolpilot.env.guard import first_state

from .ticks import a_plan, a_reach, a_sitting

SITTING = a_sitting()
CLUSTER = SITTING.cluster
PLAN = a_plan(CLUSTER)
N_CLASSES, N_POOLS = CLUSTER.serves.shape
TICK_S = 5.0
START = replace(first_state(PLAN, CLUSTER).applied, replicas=np.full(N_POOLS, 2.0))


def seen(time_s: float, cold_start_s: float = 20.0) -> Snapshot:
    """Two replicas of each pool, a little load."""
    snapshot = blank_snapshot(time_s, N_CLASSES, N_POOLS)
    snapshot.arrival_rate_per_s[:] = 0.5
    for column, value in (("ready", 2.0), ("target", 2.0), ("starting", 0.0), ("draining", 0.0)):
        getattr(snapshot, column)[:] = value
    snapshot.usd_per_hr[:] = 1.0
    snapshot.telemetry_age_s[:] = 0.0
    snapshot.cold_start_s[:] = cold_start_s
    return snapshot


def billed(usd_per_pool: float) -> Bill:
    """Half busy, half idle."""
    usd = np.zeros((N_POOLS, N_CLASSES, len(BILL_LAYERS)))
    usd[:, :, 0] = usd[:, :, 2] = usd_per_pool / 2 / N_CLASSES
    return Bill(usd, np.zeros((N_POOLS, N_CLASSES, len(IDLE_PARTS))))


def through(
    n_ticks: int, rule: Action, policy: Action, mode: Mode = Mode.ACTIVE
) -> tuple[list[Comparison], list[Courses]]:
    courses, told, states = begun(START), [], []
    state = replace(first_state(PLAN, CLUSTER), applied=START)
    for tick in range(n_ticks):
        snapshot = seen(tick * TICK_S)
        proposed = Proposed(policy, "p", "", rule)
        decision, state = conclude(
            proposed, snapshot, PLAN, CLUSTER, SITTING.limits, state, tick, a_reach(CLUSTER, mode, rule)
        )
        usd = billed(2.0 * TICK_S / 3600.0)
        comparison, courses = compared(courses, proposed, decision, snapshot, PLAN, CLUSTER, SITTING.limits, START, usd)
        told.append(comparison)
        states.append(courses)
    return told, states


def test_who_does_the_same_costs_the_same() -> None:
    told, _ = through(8, START, START)
    for comparison in told[1:]:
        assert comparison.rule_usd == pytest.approx(comparison.policy_usd)
        assert comparison.rule_usd.sum() == pytest.approx(comparison.usd.sum())
    assert told[0].rule_usd.sum() == 0.0  # no span before the first tick


def test_the_rule_pays_for_what_it_starts_before_it_serves() -> None:
    grown = replace(START, replicas=START.replicas + 1.0)
    told, _ = through(8, grown, START)
    at_once, later = told[1], told[7]
    grows = (CLUSTER.max_replicas > 2).sum()
    rent_usd = grows * 1.0 * TICK_S / 3600.0
    assert at_once.rule_usd.sum() - at_once.policy_usd.sum() == pytest.approx(rent_usd)
    assert at_once.rule_up.tolist() == START.replicas.tolist()
    assert later.rule_up.tolist() == np.minimum(grown.replicas, CLUSTER.max_replicas).tolist()
    assert (later.rule_attainment >= later.policy_attainment).all()


def test_the_rules_fleet_grows_on_from_where_it_stands_and_not_from_where_the_policy_does() -> None:
    high = replace(START, replicas=np.minimum(CLUSTER.max_replicas, 8.0))
    told, _ = through(20, high, START)
    wanted = told[-1].rule.replicas
    assert (wanted <= CLUSTER.max_replicas).all()
    assert (wanted > START.replicas + 2.0).any()  # two steps and more, though the world stands still
    assert (np.diff([c.rule.replicas.max() for c in told]) <= 2.0).all()  # the guard's step


def test_an_adviser_is_charged_for_its_advice_and_not_for_what_stands() -> None:
    shrunk = replace(START, replicas=START.replicas - 1.0)
    advised, _ = through(30, START, shrunk, Mode.ADVISE)
    last = advised[-1]
    assert last.policy_usd.sum() < last.rule_usd.sum()
    assert last.usd.sum() == pytest.approx(last.rule_usd.sum())  # what stands is what the rule would have


def test_one_that_acts_is_charged_for_what_was_applied() -> None:
    shrunk = replace(START, replicas=START.replicas - 1.0)
    told, states = through(3, START, shrunk, Mode.ACTIVE)
    assert states[0].policy.state.applied.replicas.tolist() == (START.replicas - 1.0).tolist()
    assert told[1].policy_usd.sum() < told[1].rule_usd.sum()
