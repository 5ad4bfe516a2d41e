"""The autoscaler's formula, its tolerance and its stabilisation window."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.threshold import Threshold
from poolpilot.env.contract import Cluster, Memory, Plan, Snapshot, blank_snapshot
from poolpilot.env.wire import memory_from_json, memory_to_json
from poolpilot.tests.env.clusters import SEEDS, Situation, a_cluster, a_plan, row, same, situations, with_columns

from .decisions import check_actions_of_some_ticks

NAN = np.nan


def eight_each(cluster: Cluster) -> Threshold:
    return Threshold(cluster, np.full(cluster.pool_mask.shape, 8.0), used=cluster.pool_mask)


@settings(max_examples=40, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    # An autoscaler without a replica has no metric, so that it keeps one at least.
    high = np.where(at.cluster.pool_mask, np.maximum(at.cluster.max_replicas, 1.0), 0.0)
    check_actions_of_some_ticks(replace(at, cluster=replace(at.cluster, max_replicas=high)), eight_each, seed)


def small() -> tuple[Cluster, Plan]:
    """One class on two pools of up to ten replicas."""
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 1, 2)
    cluster = replace(
        row(batch, 0),
        serves=np.ones((1, 2), dtype=np.bool_),
        min_replicas=np.zeros(2),
        max_replicas=np.full(2, 10.0),
    )
    return cluster, replace(row(a_plan(rng, batch), 0), replicas=np.array([2.0, 2.0]))


def told(time_s: float = 0.0, **first: float) -> Snapshot:
    """Of the first pool as said; the second stays at two replicas, exactly on target."""
    second = {"ready": 2.0, "target": 2.0, "running": 16.0, "waiting": 0.0}
    columns = {name: [first.get(name, NAN), value] for name, value in second.items()}
    return with_columns(blank_snapshot(time_s, 1, 2), **columns)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"ready": 4.0, "running": 32.0}, 4),
        ({"ready": 4.0, "running": 35.0}, 4),
        ({"ready": 4.0, "running": 29.0}, 4),
        ({"ready": 4.0, "running": 36.0}, 5),
        ({"ready": 4.0, "running": 28.0}, 4),
        ({"ready": 4.0, "running": 24.0}, 3),
        ({"ready": 4.0, "running": 20.0, "waiting": 28.0}, 6),
        ({"ready": 4.0, "running": 0.0}, 1),
        ({"ready": 4.0, "running": 800.0}, 10),
        ({"ready": 0.0, "running": 0.0, "target": 3.0}, 3),
        ({"ready": 0.0, "running": 0.0}, 2),
        ({"running": 64.0, "target": 5.0}, 5),
    ],
    ids=["on target", "a tenth above", "a tenth below", "just beyond the tolerance", "an eighth below, rounded up",
         "a quarter below", "the queue counts", "never to nothing", "the maximum", "still starting: as asked for",
         "nothing asked for: as planned", "no metric: as asked for"],
)  # fmt: skip
def test_the_formula(columns: dict[str, float], wanted: float) -> None:
    cluster, plan = small()
    action, _ = eight_each(cluster).decide(told(**columns), plan, {})
    assert action.replicas.tolist() == [wanted, 2.0]


def test_a_pool_that_is_not_used_stays_at_its_minimum() -> None:
    cluster, plan = small()
    for low in (0.0, 1.0):
        cluster = replace(cluster, min_replicas=np.full(2, low))
        rule = replace(eight_each(cluster), used=np.array([False, True]))
        action, _ = rule.decide(told(ready=4.0, running=64.0), plan, {})
        assert action.replicas.tolist() == [low, 2.0]


def test_down_only_to_the_highest_of_the_window() -> None:
    cluster, plan = small()
    rule, memory = eight_each(cluster), {}
    seen = []
    for tick, running in enumerate([64.0, 40.0, 16.0, *[16.0] * 12]):
        action, memory = rule.decide(told(10.0 * tick, ready=4.0, running=running), plan, memory)
        seen.append(action.replicas[0])
    # 8 at 0 s is held through 120 s, 5 at 10 s through 130 s.
    assert seen == [8.0] * 13 + [5.0, 2.0]


def test_up_at_once() -> None:
    cluster, plan = small()
    rule = eight_each(cluster)
    _, memory = rule.decide(told(0.0, ready=4.0, running=8.0), plan, {})
    action, _ = rule.decide(told(10.0, ready=4.0, running=64.0), plan, memory)
    assert action.replicas[0] == 8.0


def test_its_memory_survives_json() -> None:
    cluster, plan = small()
    rule = eight_each(cluster)
    memory: Memory = {}
    for tick in range(4):
        snapshot = told(10.0 * tick, ready=4.0, running=40.0 - 8.0 * tick)
        back = memory_from_json(json.loads(json.dumps(memory_to_json(memory), allow_nan=False)))
        action, memory = rule.decide(snapshot, plan, memory)
        assert same(rule.decide(snapshot, plan, back)[0], action)


@pytest.mark.parametrize(
    ("ready", "running", "share"),
    [([2.0, 2.0], [0.0, 0.0], 0.5), ([2.0, 2.0], [16.0, 0.0], 1 / 3), ([3.0, 1.0], [0.0, 0.0], 0.75),
     ([0.0, 2.0], [0.0, 30.0], 0.0), ([0.0, 0.0], [0.0, 0.0], 0.5), ([2.0, 2.0], [99.0, 0.0], 0.32 / 32.32)],
    ids=["equal", "half full", "more replicas", "none ready", "none at all", "overfull keeps a trickle"],
)  # fmt: skip
def test_weights_follow_free_places(ready: list[float], running: list[float], share: float) -> None:
    cluster, plan = small()
    snapshot = with_columns(blank_snapshot(0.0, 1, 2), ready=ready, running=running, waiting=0.0)
    action, _ = eight_each(cluster).decide(snapshot, plan, {})
    assert action.route[0] == pytest.approx([share, 1.0 - share])
