"""What every rule's action must obey, checked on random clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from poolpilot.env.contract import Cluster, Memory, Policy
from poolpilot.tests.env.clusters import Situation, a_snapshot, row, same

MakeRule = Callable[[Cluster], Policy]


def check_actions_of_some_ticks(at: Situation, make: MakeRule, seed: int, ticks: int = 4) -> None:
    """Rows sum to 1 over what serves, counts lie within the limits, a batch is decided as each cluster alone."""
    rng = np.random.default_rng(seed)
    together, alone = make(at.cluster), [make(row(at.cluster, b)) for b in range(len(at.cluster.serves))]
    memory: Memory = {}
    memories: list[Memory] = [{} for _ in alone]
    cluster = at.cluster
    for tick in range(ticks):
        snapshot = at.snapshot if tick == 0 else a_snapshot(rng, cluster)
        snapshot = replace(snapshot, time_s=np.full(len(alone), 15.0 * tick))
        action, memory = together.decide(snapshot, at.plan, memory)
        assert all(np.isfinite(getattr(action, f.name)).all() for f in fields(action))
        assert np.allclose(action.route.sum(axis=-1), cluster.serves.any(axis=-1), atol=1e-9)
        assert (action.route >= 0).all()
        assert (action.route[~cluster.serves] == 0).all()
        assert (action.replicas == np.round(action.replicas)).all()
        assert (action.replicas >= cluster.min_replicas).all()
        assert (action.replicas <= cluster.max_replicas).all()
        assert (action.batch_cap <= cluster.max_batch_cap).all()
        assert (action.token_budget <= cluster.max_token_budget).all()
        assert ((action.admit >= 0) & (action.admit <= 1)).all()
        for b, rule in enumerate(alone):
            mine, memories[b] = rule.decide(row(snapshot, b), row(at.plan, b), memories[b])
            assert same(mine, row(action, b))
            assert memories[b].keys() == memory.keys()
            assert all(same(memories[b][name], memory[name][b]) for name in memory)
