"""What becomes of requests: latency, pools and replicas, refusal and retry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env import window
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.scenario import Fault
from poolpilot.env.sim import chance
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.routing import bucket_of
from poolpilot.env.window import ARRIVED, FINISHED, LOST, MET, SHED
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


def test_a_lone_request_takes_what_its_pools_law_says() -> None:
    world = a_world(requests_at((1.0, 100, 11, 0)), [APool(a_law(0.05, 1e-4))])
    clusters = SimulatedClusters([world], tick_s=10.0)
    clusters.advance(an_action(clusters))
    snapshot = clusters.snapshot()
    assert snapshot.ttft_p50_s[0, 0] == pytest.approx(0.05 + 100 * 1e-4, rel=0.07)  # buckets are 12.6 % wide
    assert snapshot.tpot_p50_s[0, 0] == pytest.approx(0.05 + 1e-4, rel=0.07)


def test_swapping_laws_swaps_latencies() -> None:
    workload = requests_at(*((0.5 * i, 200, 40, i % 2) for i in range(200)), n_classes=2)
    classes = [AClass(ttft_s=1.0, pools=(0,)), AClass(ttft_s=1.0, pools=(1,))]
    slow, fast = APool(a_law(0.08)), APool(a_law(0.01))
    clusters = SimulatedClusters(
        [a_world(workload, [slow, fast], classes), a_world(workload, [fast, slow], classes)], tick_s=60.0
    )
    clusters.advance(an_action(clusters))
    tpot_s = clusters.snapshot().tpot_p50_s
    assert tpot_s[0, 0] > 4 * tpot_s[0, 1]
    np.testing.assert_allclose(tpot_s[0], tpot_s[1, ::-1], rtol=0.15)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (AClass(ttft_s=0.1), 1),
        (AClass(ttft_s=0.01), 0),
        (AClass(tpot_s=0.021), 1),
        (AClass(tpot_s=0.019), 0),
        (AClass(ttft_s=0.1, tpot_s=0.019), 0),
        (AClass(e2e_s=0.3), 1),
        (AClass(e2e_s=0.2), 0),
        (AClass(deadline_s=0.3), 1),
        (AClass(deadline_s=0.2), 0),
    ],
)
def test_a_request_meets_its_target_only_if_it_meets_all(target: AClass, met: int) -> None:
    clusters = SimulatedClusters([a_world(requests_at((1.0, 100, 11, 0)), classes=[target])], tick_s=10.0)
    outcome = clusters.advance(an_action(clusters))
    assert outcome.tally[0, 0, FINISHED] == 1
    assert outcome.tally[0, 0, MET] == met
    assert outcome.tally[0, 0, window.MET_OUTPUT_SUM] == 11 * met


def test_end_to_end_latencies_are_counted_as_they_are_summed() -> None:
    clusters = SimulatedClusters([a_world(requests_at((1.0, 100, 11, 0), (4.0, 100, 400, 0)))], tick_s=60.0)
    tally = clusters.advance(an_action(clusters)).tally[0, 0]
    buckets = tally[window.E2E : window.TALLY_WIDTH]
    assert buckets.sum() == tally[FINISHED] == 2
    shortest, longest = (float(window.percentile_s(buckets, share)) for share in (0.5, 1.0))
    assert shortest + longest == pytest.approx(tally[window.E2E_SUM_S], rel=0.13)


def test_prefill_only_requests_finish_with_their_prefill() -> None:
    clusters = SimulatedClusters([a_world(requests_at((1.0, 100, 0, 0)))], tick_s=10.0)
    outcome = clusters.advance(an_action(clusters))
    assert outcome.tally[0, 0, window.E2E_SUM_S] == pytest.approx(0.02 + 100 * 1e-5)
    assert outcome.tally[0, 0, window.TPOT : window.WINDOW_WIDTH].sum() == 0
    assert outcome.meter.egress_bytes.sum() == 0


def test_weights_split_the_requests() -> None:
    pools = [APool(a_law(0.01)), APool(a_law(0.01))]
    clusters = SimulatedClusters([a_world(steady(20.0, 100.0, output=2), pools)], tick_s=100.0)
    outcome = clusters.advance(an_action(clusters, route=[[3.0, 1.0]]))
    assert outcome.meter.class_work[0, 0, 0] / outcome.meter.class_work.sum() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("route", "shares"),
    [
        ([0.5, 0.3, 0.2], [0.0, 0.6, 0.4]),
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0]),
    ],
    ids=["its share goes to the others in proportion", "without weights the first takes all", "not missed"],
)
def test_a_pool_that_is_not_ready_at_a_tick_is_left_out(route: list[float], shares: list[float]) -> None:
    pools = [APool(a_law(0.001), start=0), APool(a_law(0.001)), APool(a_law(0.001))]
    clusters = SimulatedClusters([a_world(steady(20.0, 100.0, output=2), pools)], tick_s=101.0)
    outcome = clusters.advance(an_action(clusters, replicas=[0, 1, 1], route=[route]))
    assert outcome.tally[0, 0, [SHED, LOST]].sum() == 0
    work = outcome.meter.class_work[0, :, 0]
    assert work / work.sum() == pytest.approx(shares, abs=0.04)


@pytest.mark.parametrize(
    ("route", "heir"),
    [([0.5, 0.4, 0.1], 1), ([0.5, 0.1, 0.4], 2), ([0.3, 0.2, 0.5], 1), ([0.1, 0.5, 0.4], 1), ([0.4, 0.4, 0.2], 1)],
    ids=[
        "the next lighter",
        "by weight, not by place",
        "after it, not before",
        "the last: the heaviest",
        "a tie: place",
    ],
)
def test_a_pool_that_dies_between_ticks_hands_on_to_the_next_in_the_chain(route: list[float], heir: int) -> None:
    pools = [APool(a_law(0.001)) for _ in route]
    faults = (Fault(kind="crash", pool="p0", at_s=0.1),)
    clusters = SimulatedClusters([a_world(steady(20.0, 100.0, output=2), pools, faults=faults)], tick_s=101.0)
    outcome = clusters.advance(an_action(clusters, replicas=[1, 1, 1], route=[route]))
    expected = np.array(route)
    expected[heir] += expected[0]
    expected[0] = 0.0
    work = outcome.meter.class_work[0, :, 0]
    assert work / work.sum() == pytest.approx(expected, abs=0.04)


def test_a_class_never_reaches_a_pool_that_cannot_serve_it() -> None:
    pools = [APool(a_law()), APool(a_law())]
    clusters = SimulatedClusters([a_world(steady(2.0, 50.0), pools, [AClass(pools=(1,))])], tick_s=60.0)
    outcome = clusters.advance(an_action(clusters, route=[[1.0, 0.0]]))
    assert outcome.meter.class_work[0, 0, 0] == 0
    assert outcome.tally[0, 0, FINISHED] == outcome.tally[0, 0, ARRIVED]


def test_the_less_loaded_of_two_replicas_drawn_is_chosen() -> None:
    # 40 long answers fill the first replica before the second is there; each makes its iterations 5 ms longer.
    law = IterationLaw(TOKENS_GRID, 0.01 + 0.0 * TOKENS_GRID, 0.0, 0.0, 0.005)
    long_ones = [(0.01 * i, 10, 8000, 0) for i in range(40)]
    short_ones = [(10.0 + 0.2 * i, 10, 5, 1) for i in range(200)]
    world = a_world(
        requests_at(*long_ones, *short_ones, n_classes=2),
        [APool(law, cold_start_s=5.0, kv_tokens=400_000)],
        [AClass(deadline_s=1e4), AClass(tpot_s=0.1)],
    )
    clusters = SimulatedClusters([world], tick_s=60.0)
    tally = clusters.advance(an_action(clusters, replicas=2)).tally[0, 1]
    # Both draws hit the loaded one a quarter of the time; a random choice would go there half of the time.
    assert tally[MET] / tally[FINISHED] == pytest.approx(0.75, abs=0.1)


def test_with_nothing_ready_clients_come_back() -> None:
    world = a_world(requests_at((1.0, 100, 5, 0)), [APool(a_law(), start=0, cold_start_s=12.0)], retry_after_s=5.0)
    clusters = SimulatedClusters([world], tick_s=10.0)
    first = clusters.advance(an_action(clusters))
    assert first.tally[0, 0, [ARRIVED, SHED]].tolist() == [2, 2]
    assert clusters.backing_off.tolist() == [[1]]
    second = clusters.advance(an_action(clusters))
    assert second.tally[0, 0, [ARRIVED, SHED, FINISHED]].tolist() == [2, 1, 1]
    # It knocked at 1, 6, 11 and 16 s, and the replica served from 12 s on: latency counts from the first knock.
    assert second.tally[0, 0, window.E2E_SUM_S] == pytest.approx(15.0, abs=0.2)


@pytest.mark.parametrize(("give_up_s", "knocks"), [(4.0, 1), (12.0, 3), (1000.0, 12)])
def test_a_client_turned_away_too_long_is_lost(give_up_s: float, knocks: int) -> None:
    world = a_world(requests_at((1.0, 100, 5, 0)), classes=[AClass(ttft_s=1.0, give_up_after_s=give_up_s)])
    clusters = SimulatedClusters([world], tick_s=10.0)
    outcomes = run_ticks(clusters, an_action(clusters, admit=0.0), 6)
    assert total(outcomes, ARRIVED)[0, 0] == total(outcomes, SHED)[0, 0] == knocks
    assert total(outcomes, LOST)[0, 0] + clusters.backing_off[0, 0] == 1


def test_the_admitted_share_gets_in() -> None:
    clusters = SimulatedClusters([a_world(steady(20.0, 100.0, output=2), retry_after_s=500.0)], tick_s=100.0)
    tally = clusters.advance(an_action(clusters, admit=0.3)).tally[0, 0]
    assert tally[SHED] / tally[ARRIVED] == pytest.approx(0.7, abs=0.03)


@given(st.floats(0.0, 1e5))
def test_buckets_are_those_of_the_window(seconds: float) -> None:
    assert bucket_of(seconds) == window.bucket_of(np.array([seconds]))[0]


def test_chance_is_even_and_told_apart_by_everything_it_is_drawn_for() -> None:
    def draws(seed: int, purpose: int, attempt: int) -> np.ndarray:
        return np.array([chance.uniform(seed, purpose, subject, attempt) for subject in range(4000)])

    base = draws(1, chance.ADMIT, 0)
    assert np.histogram(base, bins=10, range=(0, 1))[0] == pytest.approx(400, abs=90)
    for other in (draws(2, chance.ADMIT, 0), draws(1, chance.POOL, 0), draws(1, chance.ADMIT, 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.06
    assert abs(np.corrcoef(base[1:], base[:-1])[0, 1]) < 0.06


@pytest.mark.parametrize("spread", [0.0, 0.2, 0.6])
def test_log_normal_delays_have_the_asked_mean_and_spread(spread: float) -> None:
    drawn = np.array([chance.log_normal(50.0, spread, 3, chance.PROVISION, i, 0) for i in range(20000)])
    assert drawn.mean() == pytest.approx(50.0, rel=0.02)
    assert drawn.std() == pytest.approx(50.0 * spread, rel=0.08, abs=1e-9)
