"""Concurrency within targets by Little's law, and what measured demand amounts to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.opponents.parts.figures import capacity_of, load_seen, pools_seen
from poolpilot.agents.opponents.parts.fullness import TPOT_AT_LIMIT, TTFT_AT_LIMIT, Work, demand_per_s, work_of
from poolpilot.env.contract import Cluster, Plan
from poolpilot.tests.agents.opponents.small import small, told


def work(cluster: Cluster, plan: Plan, **columns: Any) -> Work:
    snapshot = told(**columns)
    pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
    return work_of(snapshot, plan, cluster, pools, load_seen(snapshot, plan, cluster), capacity)


def test_concurrency_is_rate_times_residence() -> None:
    cluster, plan = small(max_batch_cap=np.array([64.0, 50.0]))
    concurrency = work(cluster, plan, arrival_rate_per_s=3.0, output_tokens_mean=101.0).concurrency
    assert concurrency == pytest.approx([2.0 * 100.0 * 0.1 * TPOT_AT_LIMIT, 50.0])  # 62.4, but the engine runs 50


@pytest.mark.parametrize(
    "columns", [{"output_tokens_mean": np.nan}, {"arrival_rate_per_s": 0.0}], ids=["lengths unknown", "no load"]
)
def test_where_nothing_tells_it_is_the_engines_limit(columns: dict[str, Any]) -> None:
    cluster, plan = small()
    assert work(cluster, plan, **{"arrival_rate_per_s": 3.0, **columns}).concurrency.tolist() == [64.0, 64.0]


def test_requests_that_end_with_their_prompt_stay_for_the_time_to_first_token() -> None:
    cluster, plan = small()
    concurrency = work(cluster, plan, arrival_rate_per_s=3.0, output_tokens_mean=0.0).concurrency
    assert concurrency == pytest.approx([2.0 * 2.0 * TTFT_AT_LIMIT, 8.0 * 2.0 * TTFT_AT_LIMIT])


def test_a_class_without_a_pace_of_its_own_runs_at_that_of_the_others() -> None:
    cluster, plan = small(2)
    cluster = replace(cluster, targets=replace(cluster.targets, tpot_s=np.array([0.1, np.nan])))
    alone = work(cluster, plan, arrival_rate_per_s=[0.0, 3.0]).concurrency
    assert alone[0] == pytest.approx(2.0 * 100.0 * 0.1 * TPOT_AT_LIMIT)


def test_shares_of_work_are_by_rate_over_capacity() -> None:
    cluster, plan = small(2)
    plan = replace(plan, capacity_per_s=np.array([[2.0, 8.0], [4.0, 16.0]]))
    assert work(cluster, plan, arrival_rate_per_s=[3.0, 6.0]).share[:, 0] == pytest.approx([0.5, 0.5])
    assert work(cluster, plan, arrival_rate_per_s=[3.0, 0.0]).share[:, 0] == pytest.approx([1.0, 0.0])


def test_demand_in_replicas_becomes_requests_per_second() -> None:
    cluster, plan = small()
    snapshot = told(ready=[3.0, 1.0], arrival_rate_per_s=5.0)
    pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
    done = work(cluster, plan, ready=[3.0, 1.0], arrival_rate_per_s=5.0)
    load = np.array([5.0])
    assert demand_per_s(np.array([3.0, 0.5]), done, load, load, pools, capacity) == pytest.approx([10.0])
    # Half of it may wait.
    assert demand_per_s(np.array([3.0, 0.5]), done, load, 2.0 * load, pools, capacity) == pytest.approx([5.0])
    nothing_ready = pools_seen(told(ready=[0.0, 0.0]), plan, cluster)
    assert demand_per_s(np.array([9.0, 9.0]), done, load, load, nothing_ready, capacity) == pytest.approx([5.0])
