"""A schedule is followed to the letter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.scheduled import Scheduled
from poolpilot.env.contract import Cluster, blank_snapshot
from poolpilot.tests.env.clusters import SEEDS, Situation, a_cluster, a_plan, row, situations, with_columns

from .decisions import check_actions_of_some_ticks


def something(cluster: Cluster) -> Scheduled:
    ticks = 3
    shape = (*cluster.max_replicas.shape[:-1], ticks, cluster.max_replicas.shape[-1])
    replicas = np.broadcast_to(np.arange(ticks)[:, None], shape).astype(np.float64)
    low, high = cluster.min_replicas[..., None, :], cluster.max_replicas[..., None, :]
    route = np.repeat(cluster.serves[..., None, :, :].astype(np.float64), ticks, axis=-3)
    return Scheduled(cluster, np.clip(replicas, low, high), route, 10.0)


@settings(max_examples=30, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    check_actions_of_some_ticks(at, something, seed)


@pytest.mark.parametrize(
    ("time_s", "counts", "route"),
    [
        (0.0, [2.0, 0.0], [1.0, 0.0]),
        (9.9999, [1.0, 3.0], [0.25, 0.75]),
        (20.0, [0.0, 4.0], [0.0, 1.0]),
        (500.0, [0.0, 4.0], [0.0, 1.0]),
    ],
    ids=["first tick", "a hair before the second", "last", "long after"],
)
def test_each_tick_has_its_own_counts_and_shares(time_s: float, counts: list[float], route: list[float]) -> None:
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 1, 2)
    cluster, plan = row(batch, 0), row(a_plan(rng, batch), 0)
    cluster = type(cluster)(**{**vars(cluster), "serves": np.ones((1, 2), dtype=np.bool_)})
    shares = np.array([[[1.0, 0.0]], [[0.25, 0.75]], [[0.0, 1.0]]])
    rule = Scheduled(cluster, np.array([[2.0, 0.0], [1.0, 3.0], [0.0, 4.0]]), shares, 10.0)
    snapshot = with_columns(blank_snapshot(time_s, 1, 2), ready=[1.0, 1.0])
    action, memory = rule.decide(snapshot, plan, {})
    np.testing.assert_array_equal(action.replicas, counts)
    np.testing.assert_allclose(action.route, [route])
    assert memory == {}
    # Shares of pools with nothing ready go to those that have.
    alone = with_columns(blank_snapshot(time_s, 1, 2), ready=[0.0, 1.0])
    np.testing.assert_array_equal(rule.decide(alone, plan, {})[0].route, [[0.0, 1.0]])
