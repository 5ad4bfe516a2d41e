"""The planner solved anew once a period on the load seen; nothing but the routing moves in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.opponents.plan_periodic import PlanPeriodic
from poolpilot.env.contract import Snapshot
from poolpilot.tests.env.clusters import same

from .test_spot_fallback import told, zones


def seen(time_s: float, rate: float, **columns: Any) -> Snapshot:
    return told(time_s, rate, **{"ready": [4.0, 4.0, 4.0], "target": [4.0, 4.0, 4.0], **columns})


def test_counts_are_the_cheapest_for_the_load_seen() -> None:
    cluster, plan = zones()
    action, _ = PlanPeriodic(cluster, headroom=1.5).decide(seen(0.0, 8.0, ready=0.0, target=0.0), plan, {})
    assert action.replicas.sum() == 12.0
    assert action.replicas[2] == 0.0, "the dearest"


def test_what_is_forecast_does_not_count() -> None:
    cluster, plan = zones()
    rule, snapshot = PlanPeriodic(cluster), seen(0.0, 8.0)
    other = replace(snapshot, forecast_per_s=np.full_like(snapshot.forecast_per_s, 50.0))
    assert same(rule.decide(snapshot, plan, {})[0], rule.decide(other, plan, {})[0])


def test_a_plan_is_held_until_its_period_is_over() -> None:
    cluster, plan = zones()
    rule = PlanPeriodic(cluster, period_s=180.0)
    enough = {"ready": [6.0, 6.0, 0.0], "target": [6.0, 6.0, 0.0]}
    first, memory = rule.propose(seen(0.0, 8.0, **enough), plan, {})
    held, memory = rule.propose(seen(100.0, 10.0, **enough), plan, memory)
    assert same(held.need, first.need)
    assert same(held.action.replicas, first.action.replicas)
    anew, _ = rule.propose(seen(190.0, 15.0), plan, memory)
    assert anew.need.sum() == pytest.approx(15.0 / 8.0 * first.need.sum(), rel=0.1)


def test_replicas_stay_until_those_of_the_new_plan_are_ready() -> None:
    cluster, plan = zones()
    rule = PlanPeriodic(cluster, headroom=1.0, spot_risk=0.0)
    starting = seen(0.0, 6.0, ready=[0.0, 0.0, 6.0], target=[0.0, 0.0, 6.0], usd_per_hr=[0.5, 0.6, 9.0])
    action, memory = rule.decide(starting, plan, {})
    assert action.replicas[0] == 6.0
    assert action.replicas[2] == 6.0
    ready = seen(10.0, 6.0, ready=[6.0, 0.0, 6.0], target=[6.0, 0.0, 6.0], usd_per_hr=[0.5, 0.6, 9.0])
    assert rule.decide(ready, plan, memory)[0].replicas.tolist() == [6.0, 0.0, 0.0]


def test_routing_spills_to_ready_pools() -> None:
    cluster, plan = zones()
    rule = PlanPeriodic(cluster, headroom=1.0)
    action, _ = rule.decide(seen(0.0, 6.0, ready=[0.0, 0.0, 2.0], target=[6.0, 0.0, 2.0]), plan, {})
    assert action.route.tolist() == [[0.0, 0.0, 1.0]]


def test_what_did_not_come_is_not_planned_with() -> None:
    cluster, plan = zones()
    rule = PlanPeriodic(cluster, headroom=1.0)
    gone = seen(0.0, 6.0, ready=[1.0, 0.0, 0.0], target=[6.0, 0.0, 0.0])
    action, _ = rule.decide(gone, plan, {})
    assert action.replicas[0] == 1.0
    assert action.replicas.sum() >= 6.0
