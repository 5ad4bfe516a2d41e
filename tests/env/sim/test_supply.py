"""Machines that come late or not at all, run short, are taken away, die, or sleep; and what that is charged to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from poolpilot.env.contract import FloatArray
from poolpilot.env.scenario import Fault, Scenario, load_scenario
from poolpilot.env.scenario.delays import EmpiricalDelay
from poolpilot.env.scenario.market import Price, PriceSeries, StockOuts
from poolpilot.env.scenario.pools import ColdStart, Sleep
from poolpilot.env.sim.clusters import SimulatedClusters, TickOutcome
from poolpilot.env.sim.state import EVENTS, HANG, LOAD, MEAN_S, NO_TICK, PROVISION, WAKE
from poolpilot.env.sim.supply import supply_of
from poolpilot.env.sim.world import world_from_scenario
from poolpilot.env.window import FINISHED, LOST
from poolpilot.tests.env.sim.worlds import APool, a_law, a_world, an_action, requests_at, run_ticks, total

NOTHING = requests_at()


def counts(clusters: SimulatedClusters) -> tuple[float, float, float, float]:
    """Ready, starting, draining and asleep replicas of the first pool."""
    seen = clusters.snapshot()
    return tuple(float(column[0, 0]) for column in (seen.ready, seen.starting, seen.draining, seen.asleep))


def happened(outcomes: list[TickOutcome], event: str) -> FloatArray:
    """`[P]` how often over the ticks, in the first cluster."""
    return np.sum([outcome.events[0, :, EVENTS.index(event)] for outcome in outcomes], axis=0)


def a_cluster(pool: APool, *faults: Fault, workload=NOTHING, tick_s: float = 10.0) -> SimulatedClusters:
    return SimulatedClusters([a_world(workload, [pool], faults=faults)], tick_s)


def test_a_start_waits_for_its_machine_and_then_for_its_model() -> None:
    clusters = a_cluster(APool(a_law(), cold_start_s=12.0, load_s=16.0))
    seen = []
    for _ in range(4):
        clusters.advance(an_action(clusters, replicas=2))
        seen.append(counts(clusters))
    assert seen == [(1, 1, 0, 0), (1, 1, 0, 0), (2, 0, 0, 0), (2, 0, 0, 0)]
    assert clusters.snapshot().cold_start_s[0, 0] == 28.0


def test_a_stuck_start_hangs_its_time_and_is_paid_for() -> None:
    clusters = a_cluster(APool(a_law(), start=0, cold_start_s=10.0, stuck_start_frac=1.0, stuck_s=25.0))
    outcomes = run_ticks(clusters, an_action(clusters, replicas=1), 4)
    assert counts(clusters) == (1, 0, 0, 0)
    assert sum(o.meter.starting_s[0, 0] for o in outcomes) == pytest.approx(35.0)
    assert happened(outcomes, "given_up")[0] == 0


def test_a_start_that_never_serves_is_given_up_and_replaced() -> None:
    clusters = a_cluster(APool(a_law(), start=0, cold_start_s=10.0, stuck_start_frac=1.0, give_up_s=25.0))
    outcomes = run_ticks(clusters, an_action(clusters, replicas=1), 9)
    # Given up at 25, asked for again at 30; given up at 55, again at 60; given up at 85.
    assert happened(outcomes, "given_up")[0] == 3
    assert happened(outcomes, "started")[0] == 3
    assert sum(o.meter.starting_s[0, 0] for o in outcomes) == pytest.approx(75.0)


@pytest.mark.parametrize("parts", [{"cold_start_s": 1e9}, {"cold_start_s": 1e9, "load_s": 1e12}, {"load_s": 1e308}])
def test_a_start_of_ages_does_not_end(parts: dict[str, float]) -> None:
    clusters = a_cluster(APool(a_law(), start=0, stuck_start_frac=1.0, **parts))
    outcomes = run_ticks(clusters, an_action(clusters, replicas=1), 3)
    assert counts(clusters) == (0, 1, 0, 0)
    assert sum(o.meter.starting_s[0, 0] for o in outcomes) == pytest.approx(30.0)


def test_the_share_of_stuck_starts_is_what_was_asked_for() -> None:
    clusters = a_cluster(APool(a_law(), start=0, most=400, cold_start_s=5.0, stuck_start_frac=0.3))
    run_ticks(clusters, an_action(clusters, replicas=400), 1)
    ready, starting, _, _ = counts(clusters)
    assert ready + starting == 400
    assert starting / 400 == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize(("left", "ready"), [(0, 1), (2, 3), (9, 4)])
def test_while_machines_run_short_only_those_left_can_be_had(left: int, ready: int) -> None:
    short = Fault(kind="stock_out", pool="p0", at_s=0.0, duration_s=45.0, left=left)
    clusters = a_cluster(APool(a_law(), cold_start_s=1.0), short)
    clusters.advance(an_action(clusters))
    outcomes = run_ticks(clusters, an_action(clusters, replicas=4), 4)
    assert counts(clusters)[0] == ready
    assert happened(outcomes, "refused")[0] == (4 if ready < 4 else 0)
    run_ticks(clusters, an_action(clusters, replicas=4), 2)
    assert counts(clusters)[0] == 4


def test_a_shorter_stock_out_does_not_end_a_longer_one() -> None:
    shorts = [Fault(kind="stock_out", pool="p0", at_s=at_s, duration_s=s) for at_s, s in ((0.0, 60.0), (5.0, 10.0))]
    clusters = a_cluster(APool(a_law(), cold_start_s=1.0), *shorts)
    clusters.advance(an_action(clusters))
    run_ticks(clusters, an_action(clusters, replicas=2), 5)
    assert counts(clusters)[0] == 1


def capacity(*steps: tuple[float, int]) -> list[Fault]:
    return [Fault(kind="capacity", pool="p0", at_s=at_s, count=count) for at_s, count in steps]


def test_spot_machines_beyond_what_is_to_be_had_go_with_notice_and_come_back_later() -> None:
    pool = APool(a_law(), start=4, spot=True, notice_s=20.0, cold_start_s=5.0)
    endless = requests_at(*((0.5, 10, 8000, 0) for _ in range(40)))
    clusters = a_cluster(pool, *capacity((0.0, 4), (5.0, 1), (45.0, 3)), workload=endless)
    keep = an_action(clusters, replicas=4)
    seen, outcomes = [], []
    for _ in range(6):
        outcomes.append(clusters.advance(keep))
        seen.append(counts(clusters)[:3])
    assert seen == [(1, 0, 3), (1, 0, 3), (1, 0, 0), (1, 0, 0), (1, 0, 0), (3, 0, 0)]
    assert happened(outcomes, "preempted")[0] == 3
    assert happened(outcomes, "refused")[0] == 5


def test_on_demand_machines_stay_when_no_more_are_to_be_had() -> None:
    clusters = a_cluster(APool(a_law(), start=3, cold_start_s=1.0), *capacity((5.0, 1)))
    run_ticks(clusters, an_action(clusters, replicas=3), 2)
    assert counts(clusters)[0] == 3
    run_ticks(clusters, an_action(clusters, replicas=1), 1)
    run_ticks(clusters, an_action(clusters, replicas=4), 2)
    assert counts(clusters)[0] == 1


def test_a_pool_opens_with_no_more_machines_than_there_are() -> None:
    clusters = a_cluster(APool(a_law(), start=3, spot=True), *capacity((0.0, 2)))
    assert counts(clusters)[0] == 2


def test_replicas_crash_at_their_rate_and_are_started_again() -> None:
    clusters = a_cluster(APool(a_law(), start=40, most=40, crashes_per_hr=2.0, cold_start_s=0.0))
    outcomes = run_ticks(clusters, an_action(clusters, replicas=40), 90)
    crashed = happened(outcomes, "crashed")[0]
    assert crashed == pytest.approx(20, abs=14)
    assert happened(outcomes, "started")[0] == pytest.approx(crashed, abs=1)


SLEEPY = APool(a_law(), start=3, cold_start_s=60.0, sleep_max=2, wake_s=3.0, fall_asleep_s=4.0)


def test_what_is_not_needed_sleeps_and_wakes_before_anything_is_rented() -> None:
    clusters = a_cluster(SLEEPY)
    seen, outcomes = [], []
    for replicas in (3, 1, 1, 3, 4, 4):
        outcomes.append(clusters.advance(an_action(clusters, replicas=replicas)))
        seen.append(counts(clusters))
    assert seen == [(3, 0, 0, 0), (1, 0, 0, 2), (1, 0, 0, 2), (3, 0, 0, 0), (3, 1, 0, 0), (3, 1, 0, 0)]
    assert [happened(outcomes, event)[0] for event in ("woken", "started")] == [2, 1]
    # Two fall asleep in the second tick, and wake up in the fourth.
    spans = clusters._every.pools[0, 0]
    assert [float(o.asleep_s[0, 0]) for o in outcomes] == pytest.approx([0, 12, 20, 0, 0, 0])
    assert float(outcomes[3].meter.starting_s[0, 0]) == pytest.approx(6.0)
    assert spans["asleep_ps"] == 0


def test_beyond_the_sleepers_replicas_stop() -> None:
    clusters = a_cluster(APool(a_law(), start=3, sleep_max=1, fall_asleep_s=1.0))
    run_ticks(clusters, an_action(clusters, replicas=0), 1)
    assert counts(clusters) == (0, 0, 0, 1)


def test_one_with_requests_drains_before_it_sleeps() -> None:
    pool = APool(a_law(), sleep_max=1, fall_asleep_s=2.0, wake_s=1.0)
    clusters = a_cluster(pool, workload=requests_at((1.0, 100, 1000, 0)))
    clusters.advance(an_action(clusters, replicas=1))
    outcomes = [clusters.advance(an_action(clusters, replicas=0))]
    assert counts(clusters) == (0, 0, 1, 0)
    outcomes += run_ticks(clusters, an_action(clusters, replicas=0), 1)
    assert counts(clusters) == (0, 0, 0, 1)
    assert total(outcomes, FINISHED)[0, 0] == 1
    ended_s = 1.0 + 1000 * 0.02001 + 0.00099
    assert float(outcomes[-1].asleep_s[0, 0]) == pytest.approx(30.0 - ended_s - 2.0, abs=1e-3)
    assert int(clusters._every.pools["drain_ps"][0, 0]) / 1e12 == pytest.approx(2.0)


def test_one_that_wakes_up_for_nothing_sleeps_on() -> None:
    clusters = a_cluster(APool(a_law(), start=1, sleep_max=1, wake_s=15.0, fall_asleep_s=1.0))
    seen = []
    for replicas in (0, 1, 0, 1, 1):
        clusters.advance(an_action(clusters, replicas=replicas))
        seen.append(counts(clusters))
    assert seen == [(0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0), (1, 0, 0, 0)]


def test_sleep_costs_its_share_of_the_rent_and_ends_when_it_was_kept_long_enough() -> None:
    pool = APool(a_law(), start=1, sleep_max=1, fall_asleep_s=5.0, keep_asleep_s=20.0, asleep_rent_frac=0.25)
    clusters = a_cluster(pool)
    outcomes = run_ticks(clusters, an_action(clusters, replicas=0), 4)
    usd = sum(float(o.bill.total_usd[0]) for o in outcomes)
    assert usd == pytest.approx((5.0 + 0.25 * 20.0) * 3.6 / 3600.0)
    assert counts(clusters) == (0, 0, 0, 0)


def test_a_sleeping_spot_machine_is_taken_away_too() -> None:
    pool = APool(a_law(), start=2, spot=True, sleep_max=2, notice_s=20.0)
    clusters = a_cluster(pool, *capacity((0.0, 2), (15.0, 0)))
    clusters.advance(an_action(clusters, replicas=0))
    assert counts(clusters) == (0, 0, 0, 2)
    outcome = clusters.advance(an_action(clusters, replicas=0))
    assert counts(clusters) == (0, 0, 0, 0)
    assert float(outcome.asleep_s[0, 0]) == pytest.approx(10.0)
    assert happened([outcome], "preempted")[0] == 2


def test_waking_and_sleeping_name_the_tick_whose_action_caused_them() -> None:
    clusters = a_cluster(SLEEPY)
    for replicas in (3, 1, 1, 3):
        clusters.advance(an_action(clusters, replicas=replicas))
        if replicas == 1:
            assert sorted(clusters._every.slots["drained_by_tick"][0, :3].tolist()) == [NO_TICK, 1, 1]
    assert sorted(clusters._every.slots["started_by_tick"][0, :3].tolist()) == [NO_TICK, 3, 3]
    assert set(clusters._every.slots["drained_by_tick"][0, :3].tolist()) == {NO_TICK}


def test_a_crash_of_a_sleeper_loses_nobody() -> None:
    clusters = a_cluster(APool(a_law(), sleep_max=1), Fault(kind="crash", pool="p0", at_s=15.0))
    outcomes = run_ticks(clusters, an_action(clusters, replicas=0), 2)
    assert counts(clusters) == (0, 0, 0, 0)
    assert total(outcomes, LOST)[0, 0] == 0


def changed(scenario: Scenario, pool: str, **changes: object) -> Scenario:
    """With other fields of one pool."""
    pools = {**scenario.pools, pool: scenario.pools[pool].model_copy(update=changes)}
    return scenario.model_copy(update={"pools": pools})


STORM = load_scenario("spot-storm")


def test_true_delays_and_rates_stray_from_the_believed_ones_as_far_as_the_scenario_says() -> None:
    world = STORM.world
    supplies = [supply_of(STORM, seed) for seed in range(80)]
    provision_s = np.array([supply.delays[:, PROVISION, MEAN_S] for supply in supplies])
    believed_s = np.array([STORM.cold_start(name).provision.mean_s for name in STORM.pool_names])
    slower = provision_s / believed_s
    assert np.abs(slower - 1.0).max() <= world.cold_start_error_frac
    assert (np.ptp(slower, axis=0) > 1.5 * world.cold_start_error_frac).all()
    loads = np.array([supply.delays[:, LOAD, MEAN_S] for supply in supplies])
    np.testing.assert_allclose(loads / [STORM.cold_start(name).load.mean_s for name in STORM.pool_names], slower)
    spot = STORM.pool_names.index("a100-spot")
    riskier = np.array([supply.preemptions_per_hr[spot] for supply in supplies]) / 1.0
    assert np.abs(riskier - 1.0).max() <= world.preemption_error_frac
    assert np.ptp(riskier) > 1.5 * world.preemption_error_frac
    assert {float(supply.believed_preemptions_per_hr[spot]) for supply in supplies} == {1.0}


def test_a_pool_draws_the_same_whatever_the_other_pools_are() -> None:
    alone = STORM.model_copy(update={"pools": {"a100-spot": STORM.pools["a100-spot"]}, "faults": ()})
    ours, theirs = supply_of(STORM, 5), supply_of(alone, 5)
    spot = STORM.pool_names.index("a100-spot")
    np.testing.assert_array_equal(ours.delays[spot], theirs.delays[0])
    assert ours.preemptions_per_hr[spot] == theirs.preemptions_per_hr[0]


def test_what_a_scenario_says_of_delays_reaches_the_world() -> None:
    still = STORM.world.model_copy(update={"cold_start_error_frac": 0.0})
    quantiles = EmpiricalDelay(quantiles=((0.0, 10.0), (0.5, 20.0), (1.0, 60.0)))
    cold = ColdStart(provision=quantiles, load_s=7.0, stuck_start_frac=0.1, give_up_s=300.0)
    scenario = changed(
        STORM.model_copy(update={"world": still}), "h100", cold_start=cold, sleep=Sleep(max=2, wake=4.0, keep_s=600.0)
    )
    supply, h100 = supply_of(scenario, 1), scenario.pool_names.index("h100")
    means_s = supply.delays[h100, :, MEAN_S]
    assert means_s[[PROVISION, LOAD, WAKE]].tolist() == pytest.approx([27.5, 7.0, 4.0])
    assert np.isinf(means_s[HANG])
    assert (supply.stuck_start_frac[h100], supply.give_up_s[h100]) == (0.1, 300.0)
    assert (supply.sleep_max[h100], supply.keep_asleep_s[h100], supply.asleep_rent_frac[h100]) == (2.0, 600.0, 1.0)
    assert scenario.cluster().cold_start_s[h100] == pytest.approx(34.5)


def test_stock_outs_come_at_their_rate_and_do_not_overlap() -> None:
    scenario = changed(STORM, "l40s", stock_outs=StockOuts(per_hr=6.0, duration=120.0, left=1))
    found = [
        [f for f in supply_of(scenario, seed).faults if f.pool == "l40s" and f.kind == "stock_out"]
        for seed in range(60)
    ]
    # One begins every 600 s after the 120 s of the one before: five in an hour.
    assert np.mean([len(faults) for faults in found]) == pytest.approx(5.0, abs=0.9)
    for faults in found:
        assert all(later.at_s >= first.at_s + 120.0 for first, later in pairwise(faults))
        assert all((fault.duration_s, fault.left) == (120.0, 1) for fault in faults)


def test_a_price_series_reaches_snapshot_and_bill() -> None:
    price = Price(usd_per_hr=2.0, kind="spot", series=PriceSeries(steps=((0.0, 2.0), (15.0, 5.0)), scale=0.5))
    world = world_from_scenario(changed(STORM, "a100-spot", price=price), 1)
    clusters = SimulatedClusters([world], 10.0)
    spot = STORM.pool_names.index("a100-spot")
    seen = [float(clusters.snapshot().usd_per_hr[0, spot])]
    for _ in range(2):
        clusters.advance(an_action(clusters, replicas=0))
        seen.append(float(clusters.snapshot().usd_per_hr[0, spot]))
    assert seen == [1.0, 1.0, 2.5]
    assert clusters.cluster.usd_per_hr[0, spot] == 2.0
