"""The rule keeps the cheapest fleet that carries what load, forecast, queues and measured latency ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.parts.fleet import DRAIN_S
from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env.contract import Cluster, FloatArray, Memory, Plan, Snapshot, blank_snapshot
from poolpilot.env.wire import memory_from_json, memory_to_json
from poolpilot.tests.env.clusters import SEEDS, Situation, a_cluster, a_plan, row, same, situations, with_columns

from .decisions import check_actions_of_some_ticks

NAN = np.nan


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    check_actions_of_some_ticks(at, PlanTracking, seed)


def small(**targets: list[float]) -> tuple[Cluster, Plan]:
    """Two interactive classes on two pools; the first class all on the first pool, the second half and half."""
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 2, 2)
    cluster = replace(
        row(batch, 0),
        serves=np.ones((2, 2), dtype=np.bool_),
        min_replicas=np.array([1.0, 0.0]),
        max_replicas=np.full(2, 20.0),
        max_batch_cap=np.full(2, 64.0),
        usd_per_hr=np.ones(2),
    )
    wanted = {"ttft_s": [1.0, 1.0], "deadline_s": [NAN, NAN]} | targets
    cluster = replace(
        cluster, targets=replace(cluster.targets, **{name: np.array(value) for name, value in wanted.items()})
    )
    plan = replace(
        row(a_plan(rng, batch), 0),
        replicas=np.array([2.0, 1.0]),
        route=np.array([[1.0, 0.0], [0.5, 0.5]]),
        capacity_per_s=np.array([[1.0, 4.0], [2.0, 2.0]]),
        load_per_s=np.array([1.0, 2.0]),
        batch_cap=np.full(2, 48.0),
    )
    return cluster, plan


def told(time_s: float = 0.0, ahead: Any = NAN, **columns: Any) -> Snapshot:
    """Plenty of ready replicas and no queue, unless said otherwise."""
    usual = {"ready": 20.0, "waiting": 0.0}
    snapshot = with_columns(blank_snapshot(time_s, 2, 2), **{**usual, **columns})
    snapshot.forecast_per_s[:] = ahead
    return snapshot


def need_of(snapshot: Snapshot, memory: Memory | None = None, **targets: list[float]) -> FloatArray:
    """`[C, P]`"""
    cluster, plan = small(**targets)
    return PlanTracking(cluster).propose(snapshot, plan, memory or {})[0].need


def work_of(need: FloatArray, plan: Plan) -> FloatArray:
    """`[C]` requests/s that a need serves."""
    served: FloatArray = (need * plan.capacity_per_s).sum(axis=-1)
    return served


@pytest.mark.parametrize(
    ("snapshot", "targets", "as_if_per_s"),
    [
        (told(arrival_rate_per_s=[4.0, 6.0], ahead=1.0), {}, [4.0, 6.0]),
        (told(arrival_rate_per_s=[4.0, 6.0], ahead=8.0), {}, [8.0, 8.0]),
        (told(ahead=8.0), {}, [8.0, 8.0]),
        (told(arrival_rate_per_s=[NAN, 6.0]), {}, [1.0, 6.0]),
        (told(), {}, [1.0, 2.0]),
        (
            told(arrival_rate_per_s=[4.0, 9.0], ahead=[[4.0] * 5, [9.0] * 4 + [3.0]]),
            {"deadline_s": [NAN, 600.0], "ttft_s": [1.0, NAN]},
            [4.0, 3.0],
        ),
    ],
    ids=["what is seen", "what is expected", "only the forecast known", "one class unknown: as planned",
         "nothing known: as planned", "what may wait is carried at its mean"],
)  # fmt: skip
def test_which_load_is_needed_for(
    snapshot: Snapshot, targets: dict[str, list[float]], as_if_per_s: list[float]
) -> None:
    plain = told(arrival_rate_per_s=as_if_per_s)
    assert need_of(snapshot, **targets) == pytest.approx(need_of(plain, **targets))


def test_need_is_load_with_headroom_for_bursts() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    load = np.array([4.0, 6.0])
    # One replica serves up to 4/s of the first class and 2/s of the second: 1 and 3 replicas of load meet in the pools.
    expected = load * (rule.headroom + rule.burst / np.sqrt(4.0))
    assert work_of(need_of(told(arrival_rate_per_s=load)), plan) == pytest.approx(expected)


def test_counts_are_the_cheapest_that_carry_the_need() -> None:
    cluster, plan = small()
    for rate in (0.3, 2.0, 9.0, 20.0):
        proposal, _ = PlanTracking(cluster).propose(
            told(arrival_rate_per_s=[rate, rate], ready=0.0, target=0.0), plan, {}
        )
        counts, need = proposal.action.replicas, proposal.need.sum(axis=0)
        assert (need <= counts * 1.1 + 1e-6).all()
        assert counts.sum() - need.sum() < 1.0 + cluster.min_replicas.sum()


def test_too_much_load_takes_all_there_is() -> None:
    cluster, plan = small()
    action, _ = PlanTracking(cluster).decide(told(arrival_rate_per_s=500.0, ready=0.0, target=0.0), plan, {})
    assert action.replicas.tolist() == cluster.max_replicas.tolist()


def test_a_fleet_that_carries_the_load_is_kept_until_another_is_worth_its_cold_starts() -> None:
    cluster, plan = small()
    dearer = replace(cluster, usd_per_hr=np.array([1.0, 0.95]), cold_start_s=np.full(2, 100.0))
    seen = told(arrival_rate_per_s=[0.0, 4.0], ready=[3.0, 0.0], starting=0.0, target=[3.0, 0.0])
    kept, _ = PlanTracking(dearer).decide(seen, plan, {})
    assert kept.replicas.tolist() == [3.0, 0.0]
    much = replace(cluster, usd_per_hr=np.array([1.0, 0.2]), cold_start_s=np.full(2, 100.0))
    swapped, _ = PlanTracking(much).decide(seen, plan, {})
    assert swapped.replicas[1] >= 2.0
    assert swapped.replicas[0] == 3.0, "nobody else is ready yet"
    served = told(10.0, arrival_rate_per_s=[0.0, 4.0], ready=[3.0, 3.0], starting=0.0, target=[3.0, 3.0])
    gone, _ = PlanTracking(much).decide(served, plan, {})
    assert gone.replicas[0] == 1.0, "the minimum"


def test_a_smaller_fleet_waits_for_the_next_review_and_a_larger_one_does_not() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster, hold_s=1.0)
    fleet = {"ready": [9.0, 0.0], "starting": 0.0, "target": [9.0, 0.0]}
    first, memory = rule.decide(told(0.0, arrival_rate_per_s=[0.0, 8.0], **fleet), plan, {})
    less = told(10.0, arrival_rate_per_s=[0.0, 2.0], **fleet)
    assert same(rule.decide(less, plan, memory)[0].replicas, first.replicas)
    later = replace(less, time_s=np.array(45.0))
    assert rule.decide(later, plan, memory)[0].replicas.sum() < first.replicas.sum()
    more = told(10.0, arrival_rate_per_s=[0.0, 16.0], **fleet)
    assert rule.decide(more, plan, memory)[0].replicas.sum() > first.replicas.sum()


def test_it_does_not_defend_what_others_added_to_its_counts() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    seen = told(0.0, arrival_rate_per_s=[0.0, 8.0], ready=[6.0, 0.0], starting=0.0, target=[6.0, 0.0])
    first, memory = rule.decide(seen, plan, {})
    bent = told(10.0, arrival_rate_per_s=[0.0, 8.0], ready=[7.0, 0.0], starting=0.0, target=[7.0, 0.0])
    assert same(rule.decide(bent, plan, memory)[0].replicas, first.replicas)


def test_a_pool_that_does_not_answer_is_left_alone_for_a_while() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    short = told(0.0, arrival_rate_per_s=[0.0, 8.0], ready=[1.0, 1.0], starting=0.0, target=[1.0, 6.0])
    action, memory = rule.decide(short, plan, {})
    assert action.replicas[1] == 1.0
    assert action.replicas[0] > 3.0
    still = told(rule.memory_s - 20.0, arrival_rate_per_s=[0.0, 60.0], ready=[1.0, 1.0], starting=0.0, target=1.0)
    assert rule.decide(still, plan, memory)[0].replicas[1] == 1.0
    after = replace(still, time_s=np.array(rule.memory_s + 20.0))
    assert rule.decide(after, plan, memory)[0].replicas[1] > 1.0


def test_spot_pools_share_the_work() -> None:
    cluster, plan = small()
    spot = replace(cluster, spot=np.ones(2, dtype=np.bool_), min_replicas=np.zeros(2), usd_per_hr=np.array([1.0, 1.1]))
    seen = told(arrival_rate_per_s=[0.0, 16.0], ready=0.0, target=0.0)
    together = PlanTracking(spot, zone_share=1.0).decide(seen, plan, {})[0].replicas
    spread = PlanTracking(spot, zone_share=0.6).decide(seen, plan, {})[0].replicas
    assert together.min() == 0.0
    assert spread.min() >= 4.0


def test_latency_beyond_its_target_at_a_load_that_should_fit_is_answered_with_more() -> None:
    cluster, plan = small(tpot_s=[0.1, 0.1], ttft_s=[NAN, NAN])
    rule = PlanTracking(cluster)
    memory: Memory = {}
    needs = []
    for tick in range(6):
        seen = told(
            10.0 * tick, arrival_rate_per_s=[4.0, 6.0], ready=4.0, starting=0.0, target=4.0, tpot_p95_s=[0.13, 0.08]
        )
        proposal, memory = rule.propose(seen, plan, memory)
        needs.append(work_of(proposal.need, plan))
    assert (np.diff(needs, axis=0)[:, 0] > 0).all()
    assert np.diff(needs, axis=0)[:, 1] == pytest.approx(0.0)
    for tick in range(6, 100):
        seen = told(
            10.0 * tick, arrival_rate_per_s=[4.0, 6.0], ready=4.0, starting=0.0, target=4.0, tpot_p95_s=[0.3, 0.08]
        )
        proposal, memory = rule.propose(seen, plan, memory)
    assert memory["slow"].tolist() == [rule.correction, 0.0]


def test_misses_at_a_load_that_should_fit_are_answered_with_more() -> None:
    cluster, plan = small(attainment=[0.99, 0.9])
    rule = PlanTracking(cluster)
    memory: Memory = {}
    for tick in range(60):
        columns = {"ready": 4.0, "starting": 0.0, "target": 4.0, "attainment": [0.9, 0.9]}
        _, memory = rule.propose(told(10.0 * tick, arrival_rate_per_s=[4.0, 6.0], **columns), plan, memory)
    assert memory["slow"].tolist() == [rule.correction, 0.0]


def test_latency_far_within_at_a_busy_fleet_is_answered_with_less() -> None:
    cluster, plan = small(tpot_s=[0.1, 0.1], ttft_s=[NAN, NAN])
    rule = PlanTracking(cluster)
    memory: Memory = {}
    for tick in range(100):
        seen = told(10.0 * tick, arrival_rate_per_s=[4.0, 6.0], ready=2.4, starting=0.0, target=3.0, tpot_p95_s=0.05)
        _, memory = rule.propose(seen, plan, memory)
    assert memory["slow"].tolist() == [-0.5 * rule.correction] * 2


def test_a_queue_adds_what_drains_it_in_time() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    seen = {"arrival_rate_per_s": [4.0, 6.0]}
    _, memory = rule.propose(told(0.0, **seen), plan, {})
    before = work_of(rule.propose(told(0.0, **seen), plan, memory)[0].need, plan)
    after = work_of(rule.propose(told(0.0, waiting=[720.0, 0.0], **seen), plan, memory)[0].need, plan)
    assert (after - before).sum() == pytest.approx(720.0 / DRAIN_S, rel=0.1)  # need stays a little below whole counts


def test_a_passed_load_fades_and_a_higher_one_counts_at_once() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    _, memory = rule.propose(told(0.0, arrival_rate_per_s=[8.0, 8.0]), plan, {})
    held = [need_of(told(t, arrival_rate_per_s=[1.0, 1.0]), memory).sum() for t in (10.0, 60.0, 120.0, 3600.0)]
    low = need_of(told(arrival_rate_per_s=1.0))
    assert held[0] > held[1] > held[2] > held[3]
    assert held[3] == pytest.approx(low.sum())
    faded = work_of(need_of(told(arrival_rate_per_s=8.0 * np.exp(-60.0 / rule.hold_s))), plan)
    assert work_of(need_of(told(60.0, arrival_rate_per_s=[1.0, 1.0]), memory), plan) == pytest.approx(faded)


def test_rows_of_memory_that_are_zero_mean_that_nothing_was_seen() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    seen = told(0.0, arrival_rate_per_s=[4.0, 6.0], waiting=0.0)
    first, memory = rule.decide(seen, plan, {})
    zeroed = {name: np.zeros_like(value) for name, value in memory.items()}
    assert same(rule.decide(seen, plan, zeroed)[0], first)


def test_a_clock_that_goes_back_holds_the_load() -> None:
    cluster, plan = small()
    _, memory = PlanTracking(cluster).propose(told(100.0, arrival_rate_per_s=8.0), plan, {})
    held = work_of(need_of(told(50.0, arrival_rate_per_s=1.0), memory), plan)
    assert held == pytest.approx(work_of(need_of(told(arrival_rate_per_s=8.0)), plan))


def route_with(**columns: Any) -> FloatArray:
    cluster, plan = small()
    return PlanTracking(cluster).decide(told(arrival_rate_per_s=[2.0, 2.0], **columns), plan, {})[0].route


def test_ready_replicas_are_filled_alike() -> None:
    _, plan = small()
    for ready in ([2.0, 2.0], [1.0, 5.0], [4.0, 1.0]):
        work = (2.0 * route_with(ready=ready) / plan.capacity_per_s).sum(axis=0)
        full = work / np.array(ready)
        assert full[0] == pytest.approx(full[1], rel=0.15)


def test_nothing_is_routed_where_nobody_is_ready() -> None:
    assert route_with(ready=[0.0, 9.0]) == pytest.approx(np.array([[0.0, 1.0], [0.0, 1.0]]))


def test_a_pool_with_a_queue_gets_less() -> None:
    assert (route_with(ready=3.0, waiting=[60.0, 0.0])[:, 0] < route_with(ready=3.0)[:, 0]).all()


def test_without_a_ready_replica_the_plan_is_routed() -> None:
    assert route_with(ready=0.0) == pytest.approx(np.array([[1.0, 0.0], [0.5, 0.5]]))


def test_unknown_replicas_count_as_planned() -> None:
    assert same(route_with(ready=NAN), route_with(ready=[2.0, 1.0]))


def test_caps_and_admission_are_the_plans_and_all() -> None:
    cluster, plan = small()
    action, _ = PlanTracking(cluster).decide(told(), plan, {})
    assert action.batch_cap.tolist() == [48.0, 48.0]
    assert action.token_budget.tolist() == cluster.max_token_budget.tolist()
    assert (action.admit == 1).all()


def test_its_memory_survives_json() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    memory: Memory = {}
    for tick, rate in enumerate([9.0, 1.0, 0.1, 7.0]):
        snapshot = told(10.0 * tick, arrival_rate_per_s=rate)
        back = memory_from_json(json.loads(json.dumps(memory_to_json(memory), allow_nan=False)))
        action, memory = rule.decide(snapshot, plan, memory)
        assert same(rule.decide(snapshot, plan, back)[0], action)
