"""The autoscaler's formula on three metrics and a rate, its tolerance, its window and its policy for scaling up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.opponents.threshold import Threshold
from poolpilot.env.contract import FloatArray, Memory

from .small import small, told

NAN = np.nan
CLUSTER, PLAN = small()
FULL = 2.0 * 100.0 * 0.1 * 0.78
"""Sequences that a replica of the first pool holds at the limit of its targets: by Little's law, rate x residence."""
EIGHT_EACH = Threshold(CLUSTER, share=8.0 / FULL, queue=4.0)


def counts(rule: Threshold, **columns: Any) -> list[float]:
    counted: FloatArray = rule.decide(told(**columns), PLAN, {})[0].replicas
    return counted.tolist()


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"ready": [4.0, 0.0], "running": [32.0, 0.0]}, 4),
        ({"ready": [4.0, 0.0], "running": [35.0, 0.0]}, 4),
        ({"ready": [4.0, 0.0], "running": [36.0, 0.0]}, 5),
        ({"ready": [4.0, 0.0], "running": [24.0, 0.0]}, 3),
        ({"ready": [4.0, 0.0], "running": [28.0, 0.0], "waiting": [12.0, 0.0]}, 5),
        ({"ready": [4.0, 0.0], "running": [8.0, 0.0], "waiting": [24.0, 0.0]}, 6),
        ({"ready": [4.0, 0.0], "running": [8.0, 0.0], "kv_used_frac": [0.84, NAN]}, 5),
        ({"ready": [4.0, 0.0], "running": [NAN, 0.0], "kv_used_frac": NAN}, 4),
        ({"ready": [4.0, 0.0], "running": [80.0, 0.0]}, 8),
        ({"ready": [0.0, 0.0], "running": [0.0, 0.0], "arrival_rate_per_s": 2.0}, 2),
    ],
    ids=["on target", "a tenth above", "just beyond the tolerance", "a quarter below", "the queue counts as busy",
         "the queue asks for most", "the cache asks for most", "no metric: as many as there are",
         "at most four more or twice as many", "nothing ready: by the rate"],
)  # fmt: skip
def test_the_largest_recommendation_wins(columns: dict[str, Any], wanted: float) -> None:
    columns = {"arrival_rate_per_s": 1.0, **columns}
    assert counts(EIGHT_EACH, **columns) == [wanted, 0.0]


def test_it_never_recommends_less_than_the_rate_needs() -> None:
    assert counts(EIGHT_EACH, ready=[8.0, 0.0], arrival_rate_per_s=7.0) == [7.0, 0.0]  # 7 / 2 x 15.6 / 8


def test_its_own_target_is_a_share_of_what_is_within_targets() -> None:
    rule = Threshold(CLUSTER)
    at_target = FULL * rule.share
    assert counts(rule, ready=[4.0, 0.0], running=[4.0 * at_target, 0.0], arrival_rate_per_s=1.0) == [4.0, 0.0]
    assert counts(rule, ready=[4.0, 0.0], running=[4.8 * at_target, 0.0], arrival_rate_per_s=1.0) == [5.0, 0.0]
    tight = replace(rule, share=rule.share / 2.0)
    assert counts(tight, ready=[4.0, 0.0], running=[3.9 * at_target, 0.0], arrival_rate_per_s=1.0) == [8.0, 0.0]


def test_the_next_pool_is_used_when_the_cheapest_is_at_its_maximum() -> None:
    rule = replace(EIGHT_EACH, cluster=replace(CLUSTER, max_replicas=np.array([3.0, 10.0])))
    assert counts(rule, ready=[3.0, 0.0], running=[56.0, 0.0], arrival_rate_per_s=1.0) == [3.0, 1.0]


def test_the_next_pool_is_used_while_the_cheapest_cannot_be_had() -> None:
    memory: Memory = {}
    for tick in range(5):
        snapshot = told(10.0 * tick, ready=[2.0, 0.0], target=[5.0, 0.0], running=[40.0, 0.0], arrival_rate_per_s=1.0)
        action, memory = EIGHT_EACH.decide(snapshot, PLAN, memory)
        assert action.replicas.tolist() == ([5.0, 0.0] if tick < 3 else [2.0, 1.0])


def test_it_keeps_the_minima() -> None:
    rule = replace(EIGHT_EACH, cluster=replace(CLUSTER, min_replicas=np.array([3.0, 1.0])))
    assert counts(rule, ready=[3.0, 1.0], arrival_rate_per_s=1.0) == [3.0, 1.0]


def test_down_only_to_the_highest_of_the_window() -> None:
    memory: Memory = {}
    seen = []
    for tick, running in enumerate([64.0, 40.0, 16.0, *[16.0] * 12]):
        snapshot = told(10.0 * tick, ready=[4.0, 0.0], running=[running, 0.0], arrival_rate_per_s=1.0)
        action, memory = EIGHT_EACH.decide(snapshot, PLAN, memory)
        seen.append(action.replicas[0])
    # 8 at 0 s is held through 120 s, 5 at 10 s through 130 s.
    assert seen == [8.0] * 13 + [5.0, 2.0]


def test_a_passed_load_is_not_taken_for_one_of_longer_requests() -> None:
    busy = told(0.0, ready=[4.0, 0.0], running=[32.0, 0.0], arrival_rate_per_s=1.0)
    _, memory = EIGHT_EACH.decide(busy, PLAN, {})
    longer = replace(PLAN, capacity_per_s=PLAN.capacity_per_s / 4.0)
    idle = told(10.0, ready=[4.0, 0.0], running=[0.0, 0.0], arrival_rate_per_s=0.0)
    assert EIGHT_EACH.decide(idle, longer, memory)[0].replicas.tolist() == [4.0, 0.0]


def test_up_at_once() -> None:
    _, memory = EIGHT_EACH.decide(told(0.0, ready=[4.0, 0.0], running=[8.0, 0.0], arrival_rate_per_s=1.0), PLAN, {})
    later = told(10.0, ready=[4.0, 0.0], running=[64.0, 0.0], arrival_rate_per_s=1.0)
    assert EIGHT_EACH.decide(later, PLAN, memory)[0].replicas[0] == 8.0


def test_at_the_first_look_what_was_planned_for_stands() -> None:
    plan = replace(PLAN, load_per_s=np.array([10.0]))
    assert EIGHT_EACH.decide(told(ready=[5.0, 0.0]), plan, {})[0].replicas.tolist() == [5.0, 0.0]


def test_work_that_may_wait_counts_at_its_mean_rate() -> None:
    targets = replace(CLUSTER.targets, deadline_s=np.array([600.0]))
    rule = replace(EIGHT_EACH, cluster=replace(CLUSTER, targets=targets))
    rush = told(ready=[4.0, 0.0], running=[64.0, 0.0], arrival_rate_per_s=4.0)
    rush = replace(rush, forecast_per_s=np.full((1, 5), 2.0))
    assert rule.decide(rush, PLAN, {})[0].replicas[0] == 4.0
    assert EIGHT_EACH.decide(rush, PLAN, {})[0].replicas[0] == 8.0


@pytest.mark.parametrize(
    ("ready", "running", "share"),
    [([2.0, 2.0], [0.0, 0.0], 0.2), ([2.0, 2.0], [16.0, 0.0], 1 / 9), ([4.0, 1.0], [0.0, 0.0], 0.5),
     ([0.0, 2.0], [0.0, 30.0], 0.0), ([0.0, 0.0], [0.0, 0.0], 0.5), ([2.0, 2.0], [99.0, 0.0], 0.2 / 32.2)],
    ids=["by capacity", "half full", "more replicas", "none ready", "none at all", "overfull keeps a trickle"],
)  # fmt: skip
def test_weights_follow_free_capacity(ready: list[float], running: list[float], share: float) -> None:
    route = EIGHT_EACH.decide(told(ready=ready, running=running, arrival_rate_per_s=1.0), PLAN, {})[0].route
    assert route[0] == pytest.approx([share, 1.0 - share])
