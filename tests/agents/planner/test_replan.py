"""A new plan is made when it is allowed and something has moved, from what is known then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.planner.replan import Replanner
from poolpilot.env.contract import Cluster, FloatArray, Plan, Snapshot, blank_snapshot
from poolpilot.tests.env.clusters import a_cluster, row, with_columns

NAN = np.nan


def a_small_cluster() -> Cluster:
    """One class on a cheap and a dear pool."""
    cluster = row(a_cluster(np.random.default_rng(0), 1, 1, 2), 0)
    return replace(
        cluster,
        serves=np.ones((1, 2), dtype=np.bool_),
        min_replicas=np.zeros(2),
        max_replicas=np.array([4.0, 4.0]),
        usd_per_hr=np.array([1.0, 3.0]),
        cold_start_s=np.full(2, 90.0),
    )


def capacity(prompt_tokens: FloatArray, output_tokens: FloatArray) -> FloatArray:
    """A thousand tokens a second on the cheap pool, two thousand on the dear one."""
    return np.outer(1.0 / (prompt_tokens + output_tokens), [1000.0, 2000.0])


REPLANNER = Replanner(a_small_cluster(), capacity, np.array([800.0]), np.array([200.0]))
PLAN = REPLANNER.first(np.array([2.0]))
"""For 2.2 requests/s: three cheap replicas."""


def seen(time_s: float = 60.0, ahead: float = NAN, **columns: Any) -> Snapshot:
    snapshot = with_columns(blank_snapshot(time_s, 1, 2), **columns)
    snapshot.forecast_per_s[:, REPLANNER.horizon] = ahead
    return snapshot


def test_the_first_plan_is_for_the_expected_load_with_headroom() -> None:
    assert PLAN.load_per_s == pytest.approx([2.2])
    assert PLAN.replicas.tolist() == [3.0, 0.0]
    assert PLAN.capacity_per_s == pytest.approx(np.array([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("snapshot", "due"),
    [
        (seen(59.0, arrival_rate_per_s=9.0), False),
        (seen(60.0, arrival_rate_per_s=9.0), True),
        (seen(60.0, arrival_rate_per_s=0.0), True),
        (seen(60.0, arrival_rate_per_s=2.0), False),
        (seen(60.0, arrival_rate_per_s=2.0 * 1.14), False),
        (seen(60.0, arrival_rate_per_s=2.0 * 1.16), True),
        (seen(60.0, arrival_rate_per_s=2.0 * 0.84), True),
        (seen(60.0, arrival_rate_per_s=2.0, ahead=3.0), True),
        (seen(60.0, arrival_rate_per_s=2.0, ahead=1.0), False),
        (seen(60.0, ahead=3.0), True),
        (seen(60.0), False),
        (seen(60.0, arrival_rate_per_s=2.0, usd_per_hr=[1.1, 3.0]), False),
        (seen(60.0, arrival_rate_per_s=2.0, usd_per_hr=[1.2, 3.0]), True),
        (seen(60.0, arrival_rate_per_s=2.0, usd_per_hr=[0.8, 3.0]), True),
        (seen(60.0, arrival_rate_per_s=2.0, usd_per_hr=[NAN, 3.0]), False),
        (seen(60.0, arrival_rate_per_s=2.0, target=[3.0, 0.0], ready=[1.0, 0.0], starting=[0.0, 0.0]), True),
        (seen(60.0, arrival_rate_per_s=2.0, target=[3.0, 0.0], ready=[1.0, 0.0], starting=[2.0, 0.0]), False),
        (seen(60.0, arrival_rate_per_s=2.0, target=[3.0, 0.0], ready=[1.0, 0.0]), False),
    ],
    ids=["too soon", "more load", "no load", "as planned", "within the threshold", "beyond it", "below it",
         "more is expected", "less is expected", "only the forecast is known", "nothing is known", "prices hardly moved",
         "dearer", "cheaper", "no price", "nobody answers the wish", "starts under way", "starts unknown"],
)  # fmt: skip
def test_when_a_new_plan_is_due(snapshot: Snapshot, due: bool) -> None:
    assert REPLANNER.due(PLAN, 0.0, snapshot) is due


def test_an_idle_cluster_is_not_planned_again_for_a_stray_request() -> None:
    idle = REPLANNER.first(np.array([0.0]))
    assert not REPLANNER.due(idle, 0.0, seen(arrival_rate_per_s=0.005))
    assert REPLANNER.due(idle, 0.0, seen(arrival_rate_per_s=0.05))


def again(plan: Plan = PLAN, **columns: Any) -> Plan:
    return REPLANNER.again(plan, seen(**columns))


def test_a_new_plan_is_for_what_is_seen_with_headroom() -> None:
    plan = again(arrival_rate_per_s=3.5, ready=[3.0, 0.0], starting=0.0)
    assert plan.load_per_s == pytest.approx([3.85])
    assert plan.replicas.tolist() == [4.0, 0.0]


def test_what_is_unknown_is_as_it_was_planned() -> None:
    plan = again()
    assert plan.load_per_s == pytest.approx(PLAN.load_per_s)
    assert plan.replicas.tolist() == PLAN.replicas.tolist()
    assert float(plan.usd_per_hr) == 3.0


def test_longer_requests_need_more_replicas() -> None:
    plan = again(arrival_rate_per_s=2.0, prompt_tokens_mean=1300.0, output_tokens_mean=300.0, ready=[3.0, 0.0])
    assert (plan.capacity_per_s < PLAN.capacity_per_s).all()
    assert plan.replicas.tolist() == [4.0, 0.0]


def test_the_noise_of_lengths_makes_no_new_capacity() -> None:
    one, other = again(prompt_tokens_mean=800.0), again(prompt_tokens_mean=815.0)
    assert np.array_equal(one.capacity_per_s, other.capacity_per_s)


def test_present_prices_count() -> None:
    assert again(arrival_rate_per_s=2.0, usd_per_hr=[9.0, 1.0]).replicas.tolist() == [0.0, 2.0]


def test_a_pool_that_is_out_of_stock_is_planned_with_what_it_has() -> None:
    plan = again(arrival_rate_per_s=2.0, target=[3.0, 0.0], ready=[1.0, 0.0], starting=0.0)
    assert plan.replicas.tolist() == [1.0, 1.0]
    assert (plan.attainment == REPLANNER.cluster.targets.attainment).all()
