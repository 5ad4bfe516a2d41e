"""What holds for every cluster, tick and batch: nothing is lost, the bill adds up, place and threads do not matter."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env import forecast
from poolpilot.env.contract import BILL_LAYERS, IDLE_PARTS, POOL_COLUMNS, SCALING_PARTS, Action
from poolpilot.env.coverage import CalibratedRanges
from poolpilot.env.ledger import Tariff
from poolpilot.env.scenario import Fault
from poolpilot.env.sim.clusters import SimulatedClusters, TickOutcome
from poolpilot.env.sim.state import FAR_PS, GONE, SPANS
from poolpilot.env.sim.world import WorldSpec
from poolpilot.env.window import ARRIVED, FINISHED, LOST, SHED
from poolpilot.env.workload.requests import Workload
from poolpilot.tests.env.sim.worlds import (
    AClass,
    APool,
    a_law,
    a_world,
    an_action,
    requests_at,
    run_ticks,
    steady,
    total,
)

PAID = Tariff(usd_per_kwh=np.array(0.2), pue=np.array(1.3), egress_usd_per_gb=np.array(5.0))


def a_busy_world(seed: int, faults: bool = True, n_pools: int = 3, rate_per_s: float = 4.0) -> WorldSpec:
    """Two classes on unlike pools, one of them spot, with everything that can go wrong."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate_per_s * 200)
    workload = Workload(
        np.sort(rng.uniform(0, 200, count)),
        rng.integers(1, 1500, count),
        rng.integers(0, 400, count),
        rng.integers(0, 2, count),
        ("c0", "c1"),
    )
    unlike: list[dict[str, Any]] = [
        {"sleep_max": 2, "wake_s": 3.0, "fall_asleep_s": 4.0, "keep_asleep_s": 45.0, "asleep_rent_frac": 0.3},
        {"preemptions_per_hr": 60.0, "spot": True, "sleep_max": 1, "wake_s": 12.0},
        {"stuck_start_frac": 0.4, "stuck_s": 15.0, "give_up_s": 42.0, "crashes_per_hr": 60.0, "load_s": 5.0},
    ]
    pools = [
        APool(a_law(0.01 * (i + 1)), most=3, cold_spread_frac=0.3, **unlike[i % len(unlike)]) for i in range(n_pools)
    ]
    classes = [AClass(ttft_s=1.0, tpot_s=0.05, give_up_after_s=40.0), AClass(deadline_s=60.0)]
    struck = (
        Fault(kind="crash", pool="p0", at_s=40.0),
        Fault(kind="stock_out", pool="p1", at_s=50.0, duration_s=60.0),
        Fault(kind="preempt", pool="p1", at_s=33.0, count=2),
        Fault(kind="stock_out", pool="p0", at_s=70.0, duration_s=50.0, left=1),
        *(Fault(kind="capacity", pool="p1", at_s=at_s, count=n) for at_s, n in ((20.0, 3), (62.0, 1), (140.0, 2))),
        Fault(kind="capacity", pool="p2", at_s=90.0, count=1),
    )
    kinds = ("preempt", "crash", "stock_out", "capacity")
    struck += tuple(
        Fault(
            kind=kinds[rng.integers(4)],
            pool=f"p{rng.integers(n_pools)}",
            at_s=float(rng.uniform(0, 200)),
            count=int(rng.integers(1, 4)),
            duration_s=float(rng.uniform(0, 50)),
        )
        for _ in range(rng.integers(0, 8))
    )
    return a_world(workload, pools, classes, seed, 200.0, struck if faults else (), PAID)


def an_odd_action(clusters: SimulatedClusters, rng: np.random.Generator, tick: int) -> Action:
    """Any replicas, routing, admission and caps, the same for every cluster."""
    action = an_action(clusters)
    p = action.replicas.shape[1]
    route = rng.random(action.route.shape[1:]) * clusters.cluster.serves[0]
    return Action(
        route=np.broadcast_to(route / route.sum(axis=-1, keepdims=True), action.route.shape).copy(),
        admit=action.admit * (1.0 if tick % 3 else rng.random()),
        batch_cap=np.broadcast_to(np.rint(rng.uniform(1, 64, p)), action.batch_cap.shape).copy(),
        token_budget=np.broadcast_to(np.rint(rng.uniform(64, 2048, p)), action.batch_cap.shape).copy(),
        replicas=np.broadcast_to(rng.integers(0, 4, p), action.replicas.shape).astype(np.float64),
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), tick_s=st.sampled_from([1.7, 5.0, 10.0, 37.0]))
def test_every_request_and_every_second_is_accounted_for(seed: int, tick_s: float) -> None:
    world = a_busy_world(seed)
    clusters = SimulatedClusters([world], tick_s)
    rng = np.random.default_rng(seed)
    outcomes: list[TickOutcome] = []
    while clusters.now_s[0] < 330.0:
        before_s = clusters.now_s[0]
        settled = clusters.now_s[0] >= 200.0
        action = an_action(clusters, replicas=2) if settled else an_odd_action(clusters, rng, len(outcomes))
        outcomes.append(clusters.advance(action))
        assert clusters.now_s[0] == pytest.approx(before_s + tick_s, abs=1e-9)
        assert_bill_adds_up(clusters, outcomes[-1], world)
        snapshot = clusters.snapshot().check(clusters.cluster)
        arrived = np.bincount(world.workload.class_index[world.workload.arrival_s < clusters.now_s[0]], minlength=2)
        done, lost, shed, knocked = (total(outcomes, c)[0] for c in (FINISHED, LOST, SHED, ARRIVED))
        np.testing.assert_array_equal(arrived, done + lost + snapshot.in_flight[0] + clusters.backing_off[0])
        assert (knocked - shed <= done + lost + snapshot.in_flight[0]).all()
        assert snapshot.in_flight.sum() == snapshot.running.sum() + snapshot.waiting.sum()
        assert_replicas_add_up(clusters, world, action)
    assert clusters.backing_off.sum() == 0


def assert_bill_adds_up(clusters: SimulatedClusters, outcome: TickOutcome, world: WorldSpec) -> None:
    """Layers sum to price times rented time, energy and bytes; rent is counted apart from what it was for."""
    rented_s = clusters.rented_s
    meter = outcome.meter
    parts = (
        meter.useful_s,
        meter.wasted_s,
        meter.starting_s,
        meter.waiting_s,
        meter.draining_s,
        meter.asleep_s,
    )
    assert all((part >= 0).all() for part in parts)
    np.testing.assert_allclose(sum(parts), rented_s, rtol=1e-12, atol=1e-9)
    rent = (rented_s * world.cluster.usd_per_hr / 3600.0).sum()
    np.testing.assert_allclose(
        sum(outcome.bill.layer_usd(layer)[0] for layer in BILL_LAYERS[:3]), rent, rtol=1e-9, atol=1e-12
    )
    idle_usd = outcome.bill.idle_usd
    np.testing.assert_allclose(idle_usd.sum(axis=-1), outcome.bill.usd[..., BILL_LAYERS.index("idle")], rtol=1e-12)
    scaling = outcome.scaling
    by_part = np.zeros((idle_usd.shape[1], len(IDLE_PARTS)))
    np.add.at(by_part, (scaling.of.pool, scaling.of.part), scaling.usd)
    caused = [IDLE_PARTS.index(part) for part in SCALING_PARTS]
    np.testing.assert_allclose(by_part[:, caused], idle_usd[0].sum(axis=1)[:, caused], rtol=1e-9, atol=1e-15)
    assert not by_part[:, IDLE_PARTS.index("waiting")].any()
    tariff = world.tariff
    energy = meter.energy_j.sum() / 3.6e6 * float(tariff.usd_per_kwh * tariff.pue)
    network = meter.egress_bytes.sum() / 1e9 * float(tariff.egress_usd_per_gb)
    assert outcome.bill.total_usd[0] == pytest.approx(rent + energy + network, rel=1e-9, abs=1e-12)


def assert_replicas_add_up(clusters: SimulatedClusters, world: WorldSpec, action: Action) -> None:
    """Every replica is in one state and every picosecond of it in one span; no limit on their number is crossed."""
    sim, snapshot = clusters._every, clusters.snapshot()
    for rows in (sim.slots, sim.pools):
        np.testing.assert_array_equal(rows["rented_ps"], sum(rows[span] for span in SPANS[1:]))
        assert all((rows[span] >= 0).all() for span in SPANS)
    for span in SPANS:
        by_pool = np.bincount(sim.slots["pool"][0], weights=sim.slots[span][0], minlength=len(world.law_rows))
        np.testing.assert_array_equal(by_pool, sim.pools[span][0])
    here = sim.slots["state"][0] != GONE
    counted = snapshot.ready + snapshot.starting + snapshot.draining + snapshot.asleep
    np.testing.assert_array_equal(np.bincount(sim.slots["pool"][0][here], minlength=3), counted[0])
    assert (snapshot.ready + snapshot.starting <= action.replicas).all()
    assert (snapshot.asleep[0] <= world.supply.sleep_max).all()
    staying = here & (sim.slots["reclaim_ps"][0] == FAR_PS)
    of_spot = np.bincount(sim.slots["pool"][0][staying], minlength=3)[1]
    assert of_spot <= sim.pools["capacity"][0, 1]
    busy = sim.engine.replicas["running"][0] + sim.engine.replicas["waiting"][0] > 0
    assert not busy[~here].any()


def test_a_fixed_fleet_is_rented_for_exactly_the_tick() -> None:
    clusters = SimulatedClusters([a_world(steady(3.0, 100.0), [APool(a_law(), start=3)])], tick_s=7.0)
    for outcome in run_ticks(clusters, an_action(clusters, replicas=3), 14):
        assert clusters.rented_s[0, 0] == pytest.approx(21.0, abs=1e-9)
        assert outcome.bill.total_usd[0] == pytest.approx(21.0 * 3.6 / 3600.0)


def test_tokens_processed_are_those_of_the_requests() -> None:
    world = a_busy_world(3, faults=False, n_pools=1)
    clusters = SimulatedClusters([world], tick_s=5.0)
    outcomes = run_ticks(clusters, an_action(clusters, replicas=3), 80)
    assert total(outcomes, FINISHED).sum() == len(world.workload)
    for c in range(2):
        mine = world.workload.class_index == c
        processed = sum(o.meter.class_work[0, :, c].sum() for o in outcomes)
        sent_bytes = sum(o.meter.egress_bytes[0, :, c].sum() for o in outcomes)
        output = world.workload.output_tokens[mine].sum()
        assert processed == world.workload.prompt_tokens[mine].sum() + output
        assert sent_bytes == pytest.approx(output * world.bytes_per_token)


def test_every_dollar_goes_to_a_class_that_could_use_the_pool() -> None:
    world = a_world(steady(1.0, 100.0), [APool(a_law()), APool(a_law())], [AClass(pools=(0,))], tariff=PAID)
    clusters = SimulatedClusters([world, world], tick_s=10.0, max_classes=3, max_pools=4)
    usd = clusters.advance(an_action(clusters)).bill.usd
    assert usd[:, 0, 0].sum() > 0
    assert usd[:, 0, 1:].sum() == 0
    assert usd[:, 2:].sum() == 0
    assert usd[:, 1].sum() > 0  # rented by the user, though no class may use it


def histories(clusters: SimulatedClusters, seed: int, ticks: int) -> list[tuple[Any, ...]]:
    """All arrays that come out of a run."""
    rng = np.random.default_rng(seed)
    rows = []
    for tick in range(ticks):
        outcome = clusters.advance(an_odd_action(clusters, rng, tick))
        snapshot = clusters.snapshot()
        meter = [getattr(outcome.meter, field.name) for field in fields(outcome.meter)]
        rows.append(
            (outcome.bill.usd, outcome.tally, *meter, snapshot.classes, snapshot.pools, snapshot.forecast_per_s)
        )
    return rows


def assert_same_history(ours: list[tuple[Any, ...]], a: int, theirs: list[tuple[Any, ...]], b: int) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for left, right in zip(mine, other, strict=True):
            np.testing.assert_array_equal(left[a], right[b])


def test_place_in_the_batch_and_threads_do_not_matter() -> None:
    worlds = [a_busy_world(seed, rate_per_s=2.0 + seed) for seed in range(5)]
    together = histories(SimulatedClusters(worlds, 10.0, threads=1), 1, 20)
    threaded = histories(SimulatedClusters(worlds, 10.0, threads=3), 1, 20)
    for b, world in enumerate(worlds):
        alone = histories(SimulatedClusters([world], 10.0), 1, 20)
        assert_same_history(alone, 0, together, b)
        assert_same_history(threaded, b, together, b)


def test_other_seeds_give_other_histories() -> None:
    world = a_busy_world(1)
    clusters = SimulatedClusters([world, replace(world, seed=world.seed + 1)], 10.0)
    tallies = histories(clusters, 1, 20)[-1][1]
    assert (tallies[0] != tallies[1]).any()


def test_replace_is_a_fresh_start_and_leaves_the_others_alone() -> None:
    first, second, later = a_busy_world(1), a_busy_world(2), a_busy_world(3, rate_per_s=9.0)
    batch, untouched = SimulatedClusters([first, second], 10.0), SimulatedClusters([first, second], 10.0)
    histories(batch, 5, 7)
    histories(untouched, 5, 7)
    batch.replace(np.array([1]), [later])
    assert batch.now_s.tolist() == [70.0, 0.0]
    fresh = histories(SimulatedClusters([later], 10.0), 6, 20)
    replaced, undisturbed = histories(batch, 6, 20), histories(untouched, 6, 20)
    assert_same_history(replaced, 1, fresh, 0)
    assert_same_history(replaced, 0, undisturbed, 0)


def test_the_forecast_is_the_one_of_the_arrivals_since_the_world_began() -> None:
    """As the sidecar makes it: known from the first tick on, at the start and after another world took the place."""
    clusters = SimulatedClusters([a_busy_world(1), a_busy_world(2)], 10.0)
    assert np.isnan(clusters.snapshot().forecast_per_s).all()
    state = forecast.start(*clusters.cluster.class_mask.shape)
    for tick in range(12):
        if tick == 6:
            clusters.replace(np.array([1]), [a_busy_world(3)])
            state = forecast.forget(state, np.array([1]))
        arrived = clusters.advance(an_action(clusters)).tally[..., ARRIVED]
        state = forecast.observe(state, arrived / 10.0, 10.0)
        seen, known = clusters.snapshot().forecast_per_s, clusters.cluster.class_mask
        assert np.isfinite(seen[known]).all()
        np.testing.assert_array_equal(seen[known], forecast.predict(state)[known])


def test_a_larger_world_may_replace_a_smaller_one() -> None:
    small = a_world(requests_at((1.0, 10, 10, 0)))
    large = a_busy_world(4)
    clusters = SimulatedClusters([small, small], 10.0, max_classes=2, max_pools=3)
    clusters.advance(an_action(clusters))
    clusters.replace(np.array([0]), [large])
    alone = SimulatedClusters([large], 10.0)
    for _ in range(10):
        mine, theirs = clusters.advance(an_action(clusters)), alone.advance(an_action(alone))
        np.testing.assert_array_equal(mine.tally[0], theirs.tally[0])
    with pytest.raises(ValueError, match="2 classes and 3 pools, wanted at most 1 and 1"):
        SimulatedClusters([small], 10.0).replace(np.array([0]), [large])


def test_padding_is_unknown_and_free() -> None:
    clusters = SimulatedClusters([a_world(steady(2.0, 50.0))], 10.0, max_classes=3, max_pools=5)
    outcome = clusters.advance(an_action(clusters, replicas=2))
    snapshot = clusters.snapshot()
    assert clusters.cluster.class_mask.tolist() == [[True, False, False]]
    assert np.isnan(snapshot.classes[0, 1:]).all()
    assert np.isnan(snapshot.pools[0, 1:]).all()
    unknown = [c.name for c in POOL_COLUMNS if not snapshot.known(c.name)[0, 0]]
    assert unknown == ["coverage_frac"]  # what the law of a made-up pool rests on, nobody told
    assert outcome.bill.usd[0, 1:].sum() == 0


def test_the_episode_ends_by_time() -> None:
    worlds = [a_world(steady(1.0, 20.0), duration_s=duration_s) for duration_s in (20.0, 35.0)]
    clusters = SimulatedClusters(worlds, 10.0)
    done = [o.done.tolist() for o in run_ticks(clusters, an_action(clusters), 4)]
    assert done == [[False, False], [True, False], [True, False], [True, True]]


def test_prices_follow_their_steps() -> None:
    world = a_world(requests_at(), prices=[(0.0, 1.0), (15.0, 3.0)])
    clusters = SimulatedClusters([world], 10.0)
    bills = [float(o.bill.total_usd[0]) for o in run_ticks(clusters, an_action(clusters), 3)]
    assert bills == pytest.approx([0.01, 0.01, 0.03])
    assert clusters.snapshot().usd_per_hr[0, 0] == pytest.approx(10.8)


def test_the_window_forgets() -> None:
    clusters = SimulatedClusters([a_world(steady(5.0, 30.0, output=5))], 10.0, window_s=20.0)
    rates = []
    for _ in range(6):
        clusters.advance(an_action(clusters))
        rates.append(float(clusters.snapshot().arrival_rate_per_s[0, 0]))
    assert rates[2] == pytest.approx(5.0, abs=1.5)
    assert rates[3] < rates[2]
    assert rates[4:] == [0.0, 0.0]


@pytest.mark.parametrize("span_s", [20.0, 30.0, 14.3])
def test_a_step_of_any_length_is_one_of_a_batch_whose_ticks_are_so_long(span_s: float) -> None:
    world = a_busy_world(2)
    held, long = SimulatedClusters([world], 10.0), SimulatedClusters([world], span_s)
    for _ in range(4):
        action = an_action(held, replicas=2)
        mine, theirs = held.advance(action, span_s), long.advance(action)
        np.testing.assert_array_equal(mine.tally, theirs.tally)
        np.testing.assert_array_equal(mine.bill.usd, theirs.bill.usd)
        np.testing.assert_array_equal(held.snapshot().pools, long.snapshot().pools)
        np.testing.assert_array_equal(held.snapshot().forecast_per_s, long.snapshot().forecast_per_s)
    assert held.now_s.tolist() == pytest.approx([4 * span_s])


def test_the_window_has_the_steps_that_ended_within_it_however_long_they_were() -> None:
    """As the sidecar's."""
    clusters = SimulatedClusters([a_world(steady(5.0, 500.0, output=5))], 10.0)
    ends_s, spans_s, arrived = np.zeros(0), np.zeros(0), np.zeros(0)
    for slots in (1, 1, 3, 1, 1, 2, 1, 4, 1, 9, 1, 1, 2, 1, 1, 1, 1, 1, 1):
        span_s = slots * 10.0
        outcome = clusters.advance(an_action(clusters), span_s)
        ends_s = np.append(ends_s, clusters.now_s[0])
        spans_s, arrived = np.append(spans_s, span_s), np.append(arrived, outcome.tally[0, 0, ARRIVED])
        inside = ends_s > ends_s[-1] - 60.0
        seen = clusters.snapshot().arrival_rate_per_s[0, 0]
        assert seen == pytest.approx(arrived[inside].sum() / spans_s[inside].sum())


@pytest.mark.parametrize("span_s", [0.0, -10.0, np.nan, np.inf])
def test_time_does_not_stand_still(span_s: float) -> None:
    clusters = SimulatedClusters([a_world(requests_at())], 10.0)
    with pytest.raises(ValueError, match="wanted seconds above 0"):
        clusters.advance(an_action(clusters), span_s)


def test_busy_gpus_draw_more() -> None:
    idle, busy = a_world(requests_at()), a_world(steady(10.0, 100.0))
    clusters = SimulatedClusters([idle, busy], 10.0)
    clusters.advance(an_action(clusters))
    snapshot = clusters.snapshot()
    assert snapshot.power_w[0, 0] == pytest.approx(60.0)
    assert 0.6 * 400 < snapshot.power_w[1, 0] < 400
    assert snapshot.gpu_util_frac[0, 0] == 0.0
    assert snapshot.gpu_util_frac[1, 0] > 0.9
    assert snapshot.gpu_temp_c[1, 0] > snapshot.gpu_temp_c[0, 0]


def test_the_share_of_calibrated_traffic_is_that_of_batch_and_budget_as_they_were() -> None:
    world = a_world(steady(10.0, 100.0, prompt=400, output=100))

    def share(world: WorldSpec) -> float:
        clusters = SimulatedClusters([world, a_busy_world(1)], 10.0)
        assert np.isnan(clusters.snapshot().coverage_frac).all()  # nothing ran yet
        clusters.advance(an_action(clusters))
        snapshot = clusters.snapshot()
        assert snapshot.running[0, 0] > 2
        assert np.isnan(snapshot.coverage_frac[0, 1:]).all()  # padding
        assert np.isnan(snapshot.coverage_frac[1]).all()  # nobody knows what its laws rest on
        return float(snapshot.coverage_frac[0, 0])

    ranges = CalibratedRanges(
        calibrated=np.array([True]),
        tokens=np.array([[1.0, 4096.0]]),
        sequences=np.array([[1.0, 256.0]]),
        context_tokens=np.array([[16.0, 4096.0]]),
        kv_tokens=world.kv_tokens,
    )
    assert share(replace(world, ranges=ranges)) == 1.0
    assert 0.05 < share(replace(world, ranges=replace(ranges, tokens=np.array([[1.0, 256.0]])))) < 0.5
    assert 0.5 < share(replace(world, ranges=replace(ranges, sequences=np.array([[1.0, 1.5]])))) < 0.95
    assert share(replace(world, ranges=replace(ranges, calibrated=np.array([False])))) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"admit": np.ones((1, 2))}, r"action.admit: shape \(1, 2\), wanted \(1, 1\)"),
        ({"replicas": np.full((1, 1), np.nan)}, "action.replicas: .* finite"),
    ],
)
def test_an_unusable_action_is_refused(change: dict[str, Any], message: str) -> None:
    clusters = SimulatedClusters([a_world(requests_at())], 10.0)
    with pytest.raises(ValueError, match=message):
        clusters.advance(replace(an_action(clusters), **change))


def test_starts_take_as_long_as_one_is_told_and_others_go_on() -> None:
    world = a_world(steady(1.0, 100.0), [APool(a_law(0.01), most=5, cold_spread_frac=0.3, load_s=30.0)] * 2)
    clusters = SimulatedClusters([world], 1.0)
    action = an_action(clusters)
    ready = []
    for tick in range(40):
        clusters.have_starts_take(np.array([[5.5 if tick < 2 else 20.5, 7.5]]))
        replicas = np.full_like(action.replicas, 2.0 if tick < 2 else 3.0)
        clusters.advance(replace(action, replicas=replicas))
        ready.append(clusters.snapshot().ready[0])
    first = [[int(np.argmax(np.array(ready)[:, p] >= n)) for n in (2, 3)] for p in (0, 1)]
    assert first == [[5, 22], [7, 9]], "what was asked for before keeps its time"


@pytest.mark.parametrize("seconds", [[[1.0]], [[1.0, -1.0]], [[1.0, np.nan]]])
def test_a_time_that_no_start_can_take_is_refused(seconds: list[list[float]]) -> None:
    clusters = SimulatedClusters([a_world(steady(1.0, 10.0), [APool(a_law(0.01))] * 2)], 1.0)
    with pytest.raises(ValueError, match="wanted"):
        clusters.have_starts_take(np.array(seconds))
