"""Spot replicas with some to spare over trusted zones; on-demand ones for as long as spot is short."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.spot_fallback import SPEC, SpotFallback
from poolpilot.env.contract import Cluster, FloatArray, Memory, Plan, Snapshot, blank_snapshot
from poolpilot.tests.env.clusters import SEEDS, Situation, a_cluster, a_plan, row, situations, with_columns

from .decisions import check_actions_of_some_ticks

NAN = np.nan


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    check_actions_of_some_ticks(at, SpotFallback, seed)


def zones(**changes: Any) -> tuple[Cluster, Plan]:
    """One class; two spot zones at 1 $/h, on-demand at 3 $/h; a replica of any serves 1/s."""
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 1, 3)
    base = row(batch, 0)
    cluster = replace(
        base,
        serves=np.ones((1, 3), dtype=np.bool_),
        spot=np.array([True, True, False]),
        min_replicas=np.zeros(3),
        max_replicas=np.full(3, 20.0),
        max_batch_cap=np.full(3, 64.0),
        usd_per_hr=np.array([1.0, 1.0, 3.0]),
        cold_start_s=np.full(3, 60.0),
        targets=replace(base.targets, ttft_s=np.array([1.0]), deadline_s=np.array([NAN])),
    )
    plan = replace(row(a_plan(rng, batch), 0), capacity_per_s=np.ones((1, 3)), load_per_s=np.array([8.0]))
    return replace(cluster, **changes), plan


def told(time_s: float = 0.0, rate: float = 8.0, **columns: Any) -> Snapshot:
    usual = {"arrival_rate_per_s": [rate], "starting": 0.0, "waiting": 0.0}
    return with_columns(blank_snapshot(time_s, 1, 3), **{**usual, **columns})


def rule_of(cluster: Cluster, **knobs: float) -> SpotFallback:
    return SpotFallback(
        cluster, **{"headroom": 1.0, "burst": 0.0, "overprovision": 0.25, "starting_counts": 0.0, **knobs}
    )


def counts(snapshot: Snapshot, memory: Memory | None = None, **changes: Any) -> FloatArray:
    cluster, plan = zones(**changes)
    return rule_of(cluster).decide(snapshot, plan, memory or {})[0].replicas


def test_spot_is_over_provisioned_over_both_zones() -> None:
    wanted = counts(told(ready=0.0, target=0.0))
    assert wanted[:2].sum() == 10.0  # 8/s and a quarter more
    assert wanted[:2].min() >= 2.0


@pytest.mark.parametrize(
    ("ready_spot", "on_demand"), [(0.0, 8.0), (2.0, 6.0), (4.0, 2.0), (5.0, 0.0)],
    ids=["none ready: at most the need", "some", "nearly there", "need and spares"],
)  # fmt: skip
def test_on_demand_replicas_stand_in_for_ready_spot(ready_spot: float, on_demand: float) -> None:
    snapshot = told(
        ready=[ready_spot, ready_spot, 0.0],
        starting=[5.0 - ready_spot, 5.0 - ready_spot, 0.0],
        target=[5.0, 5.0, 0.0],
    )
    assert counts(snapshot).tolist() == [5.0, 5.0, on_demand]


def test_starting_spot_may_count_unless_its_zone_is_avoided() -> None:
    cluster, plan = zones()
    rule = rule_of(cluster, starting_counts=1.0)
    growing = told(ready=[3.0, 3.0, 0.0], starting=[2.0, 2.0, 0.0], target=[5.0, 5.0, 0.0])
    assert rule.decide(growing, plan, {})[0].replicas[2] == 0.0
    refused = told(ready=[3.0, 3.0, 0.0], starting=[1.0, 2.0, 0.0], target=[5.0, 5.0, 0.0])
    assert rule.decide(refused, plan, {})[0].replicas[2] > 0.0


def test_on_demand_replicas_go_once_spot_is_back() -> None:
    back = told(ready=[5.0, 5.0, 6.0], target=[5.0, 5.0, 6.0])
    assert counts(back).tolist() == [5.0, 5.0, 0.0]


def test_a_zone_that_took_machines_away_is_avoided_for_a_while() -> None:
    cluster, plan = zones(spot=np.ones(3, dtype=np.bool_), usd_per_hr=np.ones(3))
    rule = rule_of(cluster)
    taken = told(0.0, ready=[0.0, 3.0, 3.0], target=[4.0, 3.0, 3.0])
    action, memory = rule.decide(taken, plan, {})
    assert action.replicas[0] == 0.0
    assert action.replicas[1:].sum() == 10.0
    later = told(rule.memory_s / 2, ready=[0.0, 3.0, 3.0], target=[0.0, 3.0, 3.0])
    assert rule.decide(later, plan, memory)[0].replicas[0] == 0.0
    after = told(rule.memory_s + 10.0, ready=[0.0, 3.0, 3.0], target=[0.0, 3.0, 3.0])
    assert rule.decide(after, plan, memory)[0].replicas[0] > 0.0


def test_with_fewer_than_two_zones_left_all_are_tried_again() -> None:
    taken = told(0.0, ready=[0.0, 3.0, 0.0], target=[4.0, 3.0, 0.0])
    assert counts(taken)[0] > 0.0


def test_spot_dearer_than_on_demand_is_left_out() -> None:
    dear = told(ready=0.0, target=0.0, usd_per_hr=[4.0, 4.0, 3.0])
    assert counts(dear).tolist() == [0.0, 0.0, 8.0]


def test_spot_helps_where_on_demand_cannot_carry_the_load() -> None:
    dear = told(ready=0.0, target=0.0, usd_per_hr=[4.0, 4.0, 3.0])
    wanted = counts(dear, max_replicas=np.array([20.0, 20.0, 4.0]))
    assert wanted.sum() >= 8.0


def test_without_spot_it_is_the_cheapest_fleet_for_the_load() -> None:
    plain = counts(told(ready=0.0, target=0.0), spot=np.zeros(3, dtype=np.bool_))
    assert plain.sum() == 8.0
    assert plain[2] == 0.0


def test_its_spec_makes_it() -> None:
    cluster, plan = zones()
    rule = SPEC.make(cluster, SPEC.settled({"overprovision": 0.5}, headroom=1.5))
    assert (rule.overprovision, rule.headroom) == (0.5, SPEC.defaults["headroom"] * 1.5)  # type: ignore[attr-defined]
    assert rule.decide(told(), plan, {})[0].replicas.sum() > 0
