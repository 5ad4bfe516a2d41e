"""The life of replicas: start, drain, loss, and that no request is forgotten on the way."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.env.scenario import Fault
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.power import Thermal
from poolpilot.env.sim.state import NO_TICK
from poolpilot.env.window import FINISHED, LOST, SHED
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

NOTHING = requests_at()


def counts(clusters: SimulatedClusters) -> tuple[float, float, float]:
    """Ready, starting and draining replicas of the first pool."""
    snapshot = clusters.snapshot()
    return float(snapshot.ready[0, 0]), float(snapshot.starting[0, 0]), float(snapshot.draining[0, 0])


def test_a_new_replica_serves_after_its_cold_start() -> None:
    clusters = SimulatedClusters([a_world(NOTHING, [APool(a_law(), start=1, cold_start_s=25.0)])], tick_s=10.0)
    grow = an_action(clusters, replicas=3)
    seen = []
    for _ in range(4):
        clusters.advance(grow)
        seen.append(counts(clusters))
    assert seen == [(1, 2, 0), (1, 2, 0), (3, 0, 0), (3, 0, 0)]


def test_cold_starts_are_drawn_and_the_same_for_every_policy() -> None:
    pool = APool(a_law(), start=0, most=30, cold_start_s=50.0, cold_spread_frac=0.3)

    def ready_after(tick_s: float, ticks: int) -> float:
        clusters = SimulatedClusters([a_world(NOTHING, [pool])], tick_s)
        run_ticks(clusters, an_action(clusters, replicas=30), ticks)
        return counts(clusters)[0]

    assert 5 < ready_after(50.0, 1) < 25
    assert ready_after(50.0, 1) == ready_after(10.0, 5)


def test_scaling_down_cancels_starts_first() -> None:
    clusters = SimulatedClusters([a_world(NOTHING, [APool(a_law(), cold_start_s=100.0)])], tick_s=10.0)
    clusters.advance(an_action(clusters, replicas=4))
    assert counts(clusters) == (1, 3, 0)
    clusters.advance(an_action(clusters, replicas=2))
    assert counts(clusters) == (1, 1, 0)


def test_draining_keeps_requests_and_ends_when_empty() -> None:
    # One answer of 1,000 tokens at 20 ms each: it ends at about 21 s.
    clusters = SimulatedClusters([a_world(requests_at((1.0, 100, 1000, 0)))], tick_s=10.0)
    clusters.advance(an_action(clusters, replicas=1))
    away = an_action(clusters, replicas=0)
    outcomes = [clusters.advance(away)]
    assert counts(clusters) == (0, 0, 1)
    outcomes += run_ticks(clusters, away, 2)
    assert counts(clusters) == (0, 0, 0)
    assert total(outcomes, FINISHED)[0, 0] == 1
    # The rent ends with the last token, not with the tick.
    meters = [o.meter for o in outcomes]
    rented_s = [float((m.useful_s + m.wasted_s + m.waiting_s + m.draining_s).sum()) for m in meters]
    assert rented_s == pytest.approx([10.0, 1.0 + 1000 * 0.02001 + 0.00099 - 20.0, 0.0], abs=1e-3)


def test_growing_again_revives_draining_replicas() -> None:
    clusters = SimulatedClusters([a_world(requests_at((1.0, 100, 3000, 0)), [APool(a_law(), start=1)])], tick_s=10.0)
    for replicas, expected in ((1, (1, 0, 0)), (0, (0, 0, 1)), (1, (1, 0, 0))):
        clusters.advance(an_action(clusters, replicas=replicas))
        assert counts(clusters) == expected


@pytest.mark.parametrize("at_s", [2.5, 5.0, 9.0], ids=["in the first prefill", "in the second", "while decoding"])
@pytest.mark.parametrize(
    ("asked", "lost"),
    [(AClass(ttft_s=1.0), 6), (AClass(deadline_s=300.0), 0)],
    ids=["streams break: their headers had left", "plain answers come from the other pool"],
)
def test_a_crash_breaks_streams_and_moves_plain_answers(at_s: float, asked: AClass, lost: int) -> None:
    # A prompt takes 2 s. The first computes alone, until 3 s; the next two share an iteration, until 7.1 s.
    law = a_law(0.0001, 0.002)
    workload = requests_at(*((1.0 + 0.001 * i, 1000, 100, 0) for i in range(6)))
    world = a_world(
        workload,
        [APool(law, start=1, kv_tokens=64000), APool(law, start=1, kv_tokens=64000)],
        [asked],
        faults=(Fault(kind="crash", pool="p0", at_s=at_s),),
    )
    clusters = SimulatedClusters([world], tick_s=60.0)
    outcome = clusters.advance(an_action(clusters, replicas=[1, 1], route=[[1.0, 0.0]]))
    tally = outcome.tally[0, 0]
    assert tally[LOST] == lost
    assert tally[FINISHED] == 6 - lost
    assert tally[SHED] == 0


def test_a_crash_of_the_only_replica_sends_clients_away_for_a_while() -> None:
    world = a_world(
        requests_at((1.0, 2000, 10, 0)),
        [APool(a_law(1.0, 0.01), cold_start_s=30.0)],
        [AClass(deadline_s=300.0)],
        faults=(Fault(kind="crash", pool="p0", at_s=5.0),),
    )
    clusters = SimulatedClusters([world], tick_s=10.0)
    outcomes = run_ticks(clusters, an_action(clusters), 9)
    assert total(outcomes, FINISHED)[0, 0] == 1
    assert total(outcomes, LOST)[0, 0] == 0
    assert total(outcomes, SHED)[0, 0] > 0


def test_while_sold_out_the_wish_stays() -> None:
    faults = (Fault(kind="stock_out", pool="p0", at_s=5.0, duration_s=30.0),)
    clusters = SimulatedClusters([a_world(NOTHING, [APool(a_law(), cold_start_s=5.0)], faults=faults)], tick_s=10.0)
    seen = [counts(clusters)]
    for replicas in (1, 3, 3, 3, 3):
        clusters.advance(an_action(clusters, replicas=replicas))
        seen.append(counts(clusters))
        assert clusters.snapshot().target[0, 0] == replicas
    assert [ready for ready, _, _ in seen] == [1, 1, 1, 1, 1, 3]


def test_a_preempted_machine_drains_until_its_notice_is_over() -> None:
    # One short and one endless answer on the machine when it is told at 5 s to go at 25 s.
    world = a_world(
        requests_at((1.0, 100, 500, 0), (1.0, 100, 5000, 0)),
        [APool(a_law(), preemptions_per_hr=1e-9, notice_s=20.0)],
        faults=(Fault(kind="preempt", pool="p0", at_s=5.0),),
    )
    clusters = SimulatedClusters([world], tick_s=10.0)
    stay = an_action(clusters, replicas=1)
    outcomes, seen = [], []
    for _ in range(4):
        outcomes.append(clusters.advance(stay))
        seen.append(counts(clusters))
    assert seen == [(0, 0, 1), (0, 1, 1), (0, 1, 0), (0, 1, 0)]
    assert total(outcomes, FINISHED)[0, 0] == 1
    assert total(outcomes, LOST)[0, 0] == 1


def test_spot_machines_are_taken_at_their_rate() -> None:
    pool = APool(a_law(), start=40, most=40, preemptions_per_hr=2.0, notice_s=0.0, cold_start_s=0.0)
    clusters = SimulatedClusters([a_world(NOTHING, [pool])], tick_s=10.0)
    keep = an_action(clusters, replicas=40)
    taken = 0.0
    for _ in range(90):
        clusters.advance(keep)
        taken += 40 - counts(clusters)[0]
    # 40 machines for a quarter of an hour at 2 an hour; each that goes is missed at the end of its tick.
    assert taken == pytest.approx(20, abs=14)


def test_while_all_slots_drain_the_wish_waits() -> None:
    # A pool of at most one has two slots. Both machines are told to go within 100 s while they answer without end.
    endless = requests_at((0.5, 10, 8000, 0), (11.0, 10, 8000, 0))
    pool = APool(a_law(), most=1, cold_start_s=0.0, preemptions_per_hr=1e-9, notice_s=95.0)
    faults = tuple(Fault(kind="preempt", pool="p0", at_s=at_s) for at_s in (1.0, 12.0))
    clusters = SimulatedClusters([a_world(endless, [pool], faults=faults)], tick_s=10.0)
    seen = []
    for _ in range(11):
        clusters.advance(an_action(clusters, replicas=1))
        seen.append(counts(clusters))
    assert seen == [(0, 0, 1), *[(0, 0, 2)] * 8, (0, 0, 1), (1, 0, 0)]


def test_lower_caps_apply_from_the_next_iteration() -> None:
    clusters = SimulatedClusters([a_world(steady(20.0, 100.0, 200, 200))], tick_s=10.0)
    clusters.advance(an_action(clusters, batch_cap=64))
    clusters.advance(an_action(clusters, batch_cap=4))
    run_ticks(clusters, an_action(clusters, batch_cap=4), 3)
    snapshot = clusters.snapshot()
    assert snapshot.running[0, 0] <= 4
    assert snapshot.waiting[0, 0] > 0
    assert snapshot.batch_cap[0, 0] == 4


def test_a_hot_gpu_is_slowed_and_recovers() -> None:
    pool = APool(a_law(), kv_tokens=64000, thermal=Thermal(time_constant_s=20.0))
    world = a_world(steady(8.0, 300.0, 600, 200), [pool], room=[(0.0, 60.0)])
    clusters = SimulatedClusters([world], tick_s=10.0)
    action = an_action(clusters)
    clusters.advance(action)
    cool_tpot_s = float(clusters.snapshot().tpot_p50_s[0, 0])
    seen = []
    for _ in range(59):
        clusters.advance(action)
        snapshot = clusters.snapshot()
        seen.append((float(snapshot.gpu_temp_c[0, 0]), float(snapshot.throttled[0, 0]), snapshot.tpot_p50_s[0, 0]))
    temp_c, throttled, tpot_s = np.array(seen).T
    assert throttled.max() == 1.0
    assert throttled[temp_c > 90.0].all()
    assert tpot_s[throttled.argmax() + 8] > 1.15 * cool_tpot_s
    assert throttled[-1] == 0.0
    assert temp_c[-1] < 75.0


def test_each_start_and_drain_names_the_tick_whose_action_caused_it() -> None:
    endless = requests_at((1.0, 10, 8000, 0), (1.5, 10, 8000, 0), (2.0, 10, 8000, 0))
    clusters = SimulatedClusters([a_world(endless, [APool(a_law(), cold_start_s=5.0)])], tick_s=10.0)
    for replicas in (1, 3, 3, 1):
        clusters.advance(an_action(clusters, replicas=replicas))
    slots = clusters._every.slots[0]
    assert slots["started_by_tick"][:3].tolist() == [NO_TICK, 1, 1]
    # The first replica holds all requests, so the two that came later are missed least.
    assert slots["drained_by_tick"][:3].tolist() == [NO_TICK, 3, 3]
