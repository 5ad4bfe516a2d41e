"""Fixed counts, every ready replica the same share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.static_round_robin import StaticRoundRobin
from poolpilot.env.contract import Cluster, blank_snapshot
from poolpilot.tests.env.clusters import SEEDS, Situation, a_cluster, a_plan, row, situations, with_columns

from .decisions import check_actions_of_some_ticks


def halfway(cluster: Cluster) -> StaticRoundRobin:
    return StaticRoundRobin(cluster, np.ceil((cluster.min_replicas + cluster.max_replicas) / 2.0))


@settings(max_examples=40, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    check_actions_of_some_ticks(at, halfway, seed)


NAN = np.nan


@pytest.mark.parametrize(
    ("ready", "route"),
    [
        ([1, 3, 4], [[0.125, 0.375, 0.5], [0.25, 0.75, 0.0]]),
        ([0, 2, 2], [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]),
        ([0, 0, 5], [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]),
        ([0, 0, 0], [[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]),
        ([NAN, NAN, NAN], [[0.2, 0.2, 0.6], [0.5, 0.5, 0.0]]),
    ],
    ids=["by ready replicas", "none in one pool", "none that serve", "none at all", "unknown: by wanted"],
)
def test_weights_follow_ready_replicas(ready: list[float], route: list[list[float]]) -> None:
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 2, 3)
    cluster, plan = row(batch, 0), row(a_plan(rng, batch), 0)
    cluster = type(cluster)(**{**vars(cluster), "serves": np.array([[True, True, True], [True, True, False]])})
    rule = StaticRoundRobin(cluster, np.array([1.0, 1.0, 3.0]))
    action, memory = rule.decide(with_columns(blank_snapshot(0.0, 2, 3), ready=ready), plan, {})
    assert np.allclose(action.route, route)
    assert action.replicas.tolist() == [1.0, 1.0, 3.0]
    assert (action.admit == 1).all()
    assert memory == {}
