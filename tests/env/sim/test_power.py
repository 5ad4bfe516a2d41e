"""Watts and degrees of a cluster's GPUs: bounded, with hysteresis, and never less for more work."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolpilot.env.perf.power import drawn_j
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.power import Thermal, warmed_c
from poolpilot.env.sim.world import WorldSpec
from poolpilot.tests.env.sim.worlds import (
    A_DRAW,
    APool,
    a_law,
    a_world,
    an_action,
    requests_at,
    run_ticks,
    steady,
)

NOTHING = requests_at()


@given(st.floats(20.0, 100.0), st.floats(20.0, 100.0), st.floats(0.0, 500.0), st.floats(0.0, 500.0))
def test_warming_in_two_spans_is_warming_in_one(temp_c: float, steady_c: float, first_s: float, then_s: float) -> None:
    halfway = warmed_c(temp_c, steady_c, first_s, 60.0)
    assert warmed_c(halfway, steady_c, then_s, 60.0) == pytest.approx(
        warmed_c(temp_c, steady_c, first_s + then_s, 60.0)
    )
    assert min(temp_c, steady_c) - 1e-9 <= halfway <= max(temp_c, steady_c) + 1e-9


def test_an_idle_replica_draws_idle_power_and_warms_a_little() -> None:
    clusters = SimulatedClusters([a_world(NOTHING, [APool(a_law(), start=2)])], tick_s=10.0)
    before = clusters.snapshot()
    assert not before.known("gpu_temp_c").any()
    assert not before.known("power_w").any()
    outcomes = run_ticks(clusters, an_action(clusters, replicas=2), 60)
    snapshot = clusters.snapshot()
    assert snapshot.power_w[0, 0] == pytest.approx(2 * A_DRAW.idle_w)
    assert snapshot.gpu_temp_c[0, 0] == pytest.approx(25.0 + 55.0 * A_DRAW.idle_w / A_DRAW.tdp_w, abs=0.01)
    assert outcomes[-1].meter.energy_j[0, 0] == pytest.approx(20.0 * A_DRAW.idle_w)


def test_energy_is_what_the_draw_says_of_the_work_done() -> None:
    # One request at a time, each alone: 1 prompt iteration and 99 more; every joule is known.
    world = a_world(requests_at((0.5, 100, 100, 0), (20.5, 100, 100, 0)))
    clusters = SimulatedClusters([world], tick_s=60.0)
    outcome = clusters.advance(an_action(clusters))
    meter = outcome.meter
    busy_s = float(meter.useful_s[0, 0] + meter.wasted_s[0, 0])
    law = a_law()
    useful_s = float(meter.useful_s[0, 0])
    attention_s = max(useful_s - law.best_token_s * 400, 0.0)
    expected_j = drawn_j(A_DRAW, 60.0, busy_s, 200, 400, attention_s)
    assert float(meter.energy_j[0, 0]) == pytest.approx(expected_j, rel=1e-6)


def test_each_gpu_of_a_split_replica_draws() -> None:
    world = a_world(NOTHING)
    clusters = SimulatedClusters([replace(world, draws=((replace(A_DRAW, gpus=4),),))], tick_s=10.0)
    outcome = clusters.advance(an_action(clusters))
    assert outcome.meter.energy_j[0, 0] == pytest.approx(4 * 10.0 * A_DRAW.idle_w)


def test_unlike_gpus_draw_together_and_the_hottest_counts() -> None:
    cool, hot = (replace(A_DRAW, idle_w=watts, tdp_w=100.0) for watts in (10.0, 90.0))
    for draws in ((cool, replace(hot, gpus=2)), (replace(hot, gpus=2), cool)):
        world = replace(a_world(NOTHING), draws=(draws,))
        clusters = SimulatedClusters([world], tick_s=10.0)
        outcomes = run_ticks(clusters, an_action(clusters), 60)
        assert outcomes[-1].meter.energy_j[0, 0] == pytest.approx(10.0 * (10.0 + 2 * 90.0))
        assert clusters.snapshot().gpu_temp_c[0, 0] == pytest.approx(25.0 + 55.0 * 0.9, abs=0.01)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=25),
    st.lists(st.tuples(st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=25),
)
def test_requests_behind_a_queue_never_lower_energy_or_bill(
    first: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    # Exactly true where requests queue first come first served on one replica: those before are served as they were.
    # (In general, one more request may delay another into a fuller, cheaper batch.)
    def spent(shapes: list[tuple[int, int]]) -> tuple[float, float]:
        requests = requests_at(*((0.0, prompt, output, 0) for prompt, output in shapes))
        # `requests_at` sorts rows: keep the order by arriving a nanosecond apart.
        requests = replace(
            requests,
            arrival_s=np.arange(len(shapes)) * 1e-9,
            prompt_tokens=np.array([p for p, _ in shapes]),
            output_tokens=np.array([o for _, o in shapes]),
        )
        tariff = replace(a_world(NOTHING).tariff, usd_per_kwh=np.array(0.2), pue=np.array(1.3))
        world = a_world(requests, [APool(a_law(), kv_tokens=200_000, batch_cap=256)], tariff=tariff)
        clusters = SimulatedClusters([world], tick_s=300.0)
        outcome = clusters.advance(an_action(clusters, batch_cap=256))
        return float(outcome.meter.energy_j.sum()), float(outcome.bill.total_usd[0])

    few, many = spent(first), spent(first + more)
    assert many[0] >= few[0] * (1 - 1e-12)
    assert many[1] >= few[1] * (1 - 1e-12)


def test_more_traffic_takes_more_energy_and_the_rent_of_a_fixed_fleet_stays() -> None:
    energy_j, rented_s = [], []
    for rate_per_s in (0.5, 1.0, 2.0, 4.0, 8.0):
        world = a_world(steady(rate_per_s, 280.0), [APool(a_law(), start=2)])
        clusters = SimulatedClusters([world], tick_s=300.0)
        energy_j.append(float(clusters.advance(an_action(clusters, replicas=2)).meter.energy_j.sum()))
        rented_s.append(float(clusters.rented_s.sum()))
    assert energy_j == sorted(energy_j)
    assert set(rented_s) == {600.0}


def hot_world(*, time_constant_s: float = 30.0, room: tuple[tuple[float, float], ...]) -> WorldSpec:
    """One replica, always busy."""
    pool = APool(a_law(), kv_tokens=64000, thermal=Thermal(time_constant_s=time_constant_s))
    return a_world(steady(12.0, 600.0, 400, 200), [pool], room=room)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(-20.0, 60.0), st.floats(-20.0, 60.0), st.floats(1.0, 300.0))
def test_temperature_stays_between_the_room_and_the_rise_at_tdp(cool_c: float, hot_c: float, tau_s: float) -> None:
    clusters = SimulatedClusters([hot_world(time_constant_s=tau_s, room=((0.0, cool_c), (100.0, hot_c)))], tick_s=10.0)
    action = an_action(clusters)
    for _ in range(30):
        clusters.advance(action)
        temp_c = float(clusters.snapshot().gpu_temp_c[0, 0])
        assert min(cool_c, hot_c) - 1e-9 <= temp_c <= max(cool_c, hot_c) + 55.0 + 1e-9


def test_a_hot_room_slows_gpus_until_they_are_clearly_cooler() -> None:
    clusters = SimulatedClusters([hot_world(room=((0.0, 25.0), (100.0, 58.0), (400.0, 25.0)))], tick_s=10.0)
    action = an_action(clusters)
    seen = []
    for _ in range(60):
        clusters.advance(action)
        snapshot = clusters.snapshot()
        seen.append((float(snapshot.gpu_temp_c[0, 0]), bool(snapshot.throttled[0, 0])))
    slowed = [slow for _, slow in seen]
    assert not any(slowed[:10])
    assert any(slowed[10:40])
    assert not any(slowed[45:])
    for (_, was), (temp_c, slow) in itertools.pairwise(seen):
        if temp_c > 90.0:
            assert slow
        elif temp_c <= 85.0:
            assert not slow
        else:
            assert slow == was


def test_a_throttled_gpu_takes_longer_at_once_and_draws_less() -> None:
    def after(room_c: float) -> tuple[float, float]:
        clusters = SimulatedClusters([hot_world(time_constant_s=1.0, room=((0.0, room_c),))], tick_s=10.0)
        run_ticks(clusters, an_action(clusters), 8)
        snapshot = clusters.snapshot()
        return float(snapshot.tpot_p50_s[0, 0]), float(snapshot.power_w[0, 0])

    (cool_tpot_s, cool_w), (hot_tpot_s, hot_w) = after(25.0), after(60.0)
    assert hot_tpot_s > 1.1 * cool_tpot_s
    assert hot_w < cool_w


def test_a_new_machine_starts_at_room_temperature() -> None:
    pool = APool(a_law(), start=1, most=1, cold_start_s=0.0, kv_tokens=64000)
    clusters = SimulatedClusters([a_world(steady(10.0, 100.0), [pool])], tick_s=10.0)
    run_ticks(clusters, an_action(clusters), 10)
    assert clusters.snapshot().gpu_temp_c[0, 0] > 45.0
    run_ticks(clusters, an_action(clusters, replicas=0), 3)
    assert not clusters.snapshot().known("gpu_temp_c")[0, 0]
    clusters.advance(an_action(clusters))
    assert clusters.snapshot().gpu_temp_c[0, 0] < 30.0


def test_power_and_heat_are_the_same_on_any_number_of_threads() -> None:
    specs = [hot_world(room=((0.0, 25.0), (50.0, 58.0))) for _ in range(3)]
    specs += [a_world(steady(3.0, 200.0, seed=s), [APool(a_law(), start=2)], seed=s) for s in range(5)]
    readings = []
    for threads in (1, 3):
        clusters = SimulatedClusters(specs, tick_s=10.0, threads=threads)
        action = an_action(clusters, replicas=1)
        outcomes = run_ticks(clusters, action, 15)
        readings.append((clusters.snapshot().pools, outcomes[-1].meter.energy_j))
    assert np.array_equal(readings[0][0], readings[1][0], equal_nan=True)
    assert np.array_equal(readings[0][1], readings[1][1], equal_nan=True)
