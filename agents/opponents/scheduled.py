"""Counts and shares known ahead, tick by tick: the clairvoyant plan, replayed. Not causal: a mark, no opponent.

Source: the schedule of `agents.bound.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot


@dataclass(frozen=True, eq=False)
class Scheduled:
    """The rule: at tick `k`, `replicas[..., k, :]` and `route[..., k, :, :]`, whatever is seen.

    Symbol: `K` ticks.
    """

    cluster: Cluster
    replicas: FloatArray
    """`[..., K, P]`"""
    route: FloatArray
    """`[..., K, C, P]`"""
    tick_s: float
    name: str = "clairvoyant-plan"
    follows_plan: ClassVar[bool] = False
    """It brings its own: nobody need make new ones for it."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """What the schedule says for now; after its end, what it said last.

        A share goes where replicas are ready; if none of a class's shares has any, to all that are.
        """
        cluster = self.cluster
        tick = int(np.rint(np.max(snapshot.time_s) / self.tick_s))
        tick = min(tick, self.replicas.shape[-2] - 1)
        ready = np.where(snapshot.known("ready"), snapshot.ready, 0.0)[..., None, :]
        shares = np.where(ready > 0, self.route[..., tick, :, :], 0.0)
        anywhere = np.where(cluster.serves, ready, 0.0)
        for instead in (anywhere, cluster.serves.astype(np.float64)):
            shares = np.where(shares.sum(axis=-1, keepdims=True) > 0, shares, instead)
        total = shares.sum(axis=-1, keepdims=True)
        action = Action(
            route=np.divide(shares, total, out=np.zeros(shares.shape), where=total > 0),  # padding stays zero
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=cluster.max_batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=np.broadcast_to(self.replicas[..., tick, :], cluster.max_replicas.shape).astype(np.float64),
        )
        return action, memory
