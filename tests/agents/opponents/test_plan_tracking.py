"""The rule follows the plan's mix at the size that load, forecast and queues ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env.codec import whole_replicas
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


def test_need_is_load_over_capacity_with_headroom_for_bursts() -> None:
    cluster, _ = small()
    rule = PlanTracking(cluster)
    # 4/s of the first class and half of 6/s of the second on the first pool: 4 and 1.5 replicas; 1.5 on the second.
    bare = np.array([[4.0, 0.0], [1.5, 1.5]])
    size = bare.sum(axis=0)
    expected = bare * (rule.headroom + rule.burst / np.sqrt(size))
    assert need_of(told(arrival_rate_per_s=[4.0, 6.0])) == pytest.approx(expected)


def test_counts_are_the_need_rounded_up_within_the_limits() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    for rate in (0.0, 0.3, 2.0, 9.0, 50.0):
        proposal, _ = rule.propose(told(arrival_rate_per_s=[rate, rate], ready=0.0), plan, {})
        wanted = np.clip(whole_replicas(proposal.need.sum(axis=0)), cluster.min_replicas, cluster.max_replicas)
        assert proposal.action.replicas.tolist() == wanted.tolist()


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
    assert need_of(snapshot, **targets) == pytest.approx(need_of(plain))


def test_a_queue_adds_what_drains_it_in_time() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    empty, queued = told(arrival_rate_per_s=[4.0, 6.0]), told(arrival_rate_per_s=[4.0, 6.0], waiting=[70.0, 0.0])
    before = rule.propose(empty, plan, {})[0].need.sum(axis=0)
    after = rule.propose(queued, plan, {})[0].need.sum(axis=0)
    # The first pool serves 7/s with what it needs; 70 waiting within `backlog_drain_s` is that much on top.
    assert after[0] == pytest.approx(before[0] * (1.0 + 70.0 / 7.0 / rule.backlog_drain_s))
    assert after[1] == pytest.approx(before[1])


def test_a_passed_load_fades_and_a_higher_one_counts_at_once() -> None:
    cluster, plan = small()
    rule = PlanTracking(cluster)
    _, memory = rule.propose(told(0.0, arrival_rate_per_s=[8.0, 8.0]), plan, {})
    held = [need_of(told(t, arrival_rate_per_s=[1.0, 1.0]), memory).sum() for t in (10.0, 60.0, 120.0, 3600.0)]
    full, low = need_of(told(arrival_rate_per_s=8.0)).sum(), need_of(told(arrival_rate_per_s=1.0)).sum()
    assert full > held[0] > held[1] > held[2] > held[3]
    assert held[3] == pytest.approx(low)
    faded = need_of(told(arrival_rate_per_s=8.0 * np.exp(-60.0 / rule.hold_s))).sum()
    assert held[1] == pytest.approx(faded)
    assert need_of(told(10.0, arrival_rate_per_s=20.0), memory) == pytest.approx(need_of(told(arrival_rate_per_s=20.0)))


def test_a_clock_that_goes_back_holds_the_load() -> None:
    cluster, plan = small()
    _, memory = PlanTracking(cluster).propose(told(100.0, arrival_rate_per_s=8.0), plan, {})
    assert need_of(told(50.0, arrival_rate_per_s=1.0), memory) == pytest.approx(need_of(told(arrival_rate_per_s=8.0)))


def route_with(**columns: Any) -> FloatArray:
    cluster, plan = small()
    return PlanTracking(cluster).decide(told(arrival_rate_per_s=[2.0, 2.0], **columns), plan, {})[0].route


def test_routing_is_the_plans_while_its_replicas_are_ready() -> None:
    assert route_with() == pytest.approx(np.array([[1.0, 0.0], [0.5, 0.5]]))


def test_routing_follows_ready_replicas() -> None:
    assert route_with(ready=[0.0, 9.0]) == pytest.approx(np.array([[0.0, 1.0], [0.0, 1.0]]))
    partly = route_with(ready=[1.0, 9.0])
    assert 0 < partly[0, 0] < 1
    assert partly[1, 1] > 0.5
    more = route_with(ready=[2.0, 9.0])
    assert (more[:, 0] > partly[:, 0]).all()


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
