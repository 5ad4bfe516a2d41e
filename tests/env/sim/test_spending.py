"""Whose decision the rent of starts, drains and sleep was."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from poolpilot.env.contract import NO_DECISION, ScalingCost
from poolpilot.env.ledger import joined
from poolpilot.env.scenario import Fault
from poolpilot.env.sim.clusters import SimulatedClusters, TickOutcome
from poolpilot.env.sim.state import NO_TICK
from poolpilot.tests.env.sim.worlds import APool, a_law, a_world, an_action, requests_at, steady

NOTHING = requests_at()
USD_PER_S = 3.6 / 3600.0


def told(outcomes: Sequence[TickOutcome]) -> tuple[ScalingCost, ...]:
    return joined([outcome.scaling for outcome in outcomes]).rows(("p0", "p1"))


def run(clusters: SimulatedClusters, replicas: Sequence[float]) -> list[TickOutcome]:
    return [clusters.advance(an_action(clusters, replicas=count)) for count in replicas]


def test_world_and_bill_say_alike_that_nobody_decided() -> None:
    assert NO_TICK == NO_DECISION  # the kernel's own constant: compiled code is kept by the sources that it came from


def test_a_cold_start_is_paid_for_by_the_tick_that_asked() -> None:
    clusters = SimulatedClusters([a_world(NOTHING, [APool(a_law(), start=1, cold_start_s=25.0)])], tick_s=10.0)
    outcomes = run(clusters, [1, 1, 2, 2, 3, 3, 3, 3])
    assert told(outcomes) == (
        ScalingCost(2, "p0", "cold_start", pytest.approx(25.0 * USD_PER_S)),
        ScalingCost(4, "p0", "cold_start", pytest.approx(25.0 * USD_PER_S)),
    )


def test_a_drain_is_paid_for_by_the_tick_that_began_it_once_nothing_runs() -> None:
    # An endless answer on the only replica, drained at tick 2: busy until it is empty, which is not idle.
    clusters = SimulatedClusters([a_world(requests_at((1.0, 100, 2000, 0)), [APool(a_law())])], tick_s=10.0)
    outcomes = run(clusters, [1, 1, 0, 0, 0, 0, 0])
    assert told(outcomes) == ()
    assert sum(float(o.bill.idle_part_usd("drain")[0]) for o in outcomes) == 0.0


def test_a_machine_lost_before_it_served_is_on_the_account_of_who_asked_for_it() -> None:
    world = a_world(
        NOTHING,
        [APool(a_law(), start=0, cold_start_s=100.0, preemptions_per_hr=1e-9)],
        faults=(Fault(kind="preempt", pool="p0", at_s=25.0),),
    )
    clusters = SimulatedClusters([world], tick_s=10.0)
    outcomes = run(clusters, [0, 1, 1, 0])
    assert told(outcomes) == (ScalingCost(1, "p0", "cold_start", pytest.approx(15.0 * USD_PER_S)),)


def test_what_the_world_did_is_on_nobodys_account() -> None:
    # Told to go while it serves, with nothing in flight: it is gone at once; with an answer under way it works on.
    world = a_world(
        steady(0.2, 100.0),
        [APool(a_law(), start=2, preemptions_per_hr=1e-9, notice_s=30.0)],
        faults=(Fault(kind="preempt", pool="p0", at_s=15.0),),
    )
    clusters = SimulatedClusters([world], tick_s=10.0)
    outcomes = run(clusters, [2, 2, 1, 1, 1])
    assert {row.tick for row in told(outcomes)} <= {NO_DECISION}


def test_a_cancelled_start_costs_what_it_was_rented() -> None:
    clusters = SimulatedClusters([a_world(NOTHING, [APool(a_law(), start=1, cold_start_s=100.0)])], tick_s=10.0)
    outcomes = run(clusters, [3, 3, 1, 1])
    (row,) = told(outcomes)
    assert (row.tick, row.part) == (0, "cold_start")
    assert row.usd == pytest.approx(2 * 20.0 * USD_PER_S)


def test_sleep_is_on_the_account_of_who_sent_it_there() -> None:
    pool = APool(a_law(), start=2, sleep_max=2, fall_asleep_s=4.0, wake_s=6.0)
    clusters = SimulatedClusters([a_world(NOTHING, [pool])], tick_s=10.0)
    outcomes = run(clusters, [2, 1, 1, 1, 2, 2])
    rows = {(row.tick, row.part): row.usd / USD_PER_S for row in told(outcomes)}
    assert rows == pytest.approx({(1, "drain"): 4.0, (1, "asleep"): 26.0, (4, "cold_start"): 6.0})
