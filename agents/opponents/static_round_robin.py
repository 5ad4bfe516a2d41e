"""Fixed counts, requests dealt out evenly: what many platform teams run.

Source: the default of a Deployment with a fixed replica count behind a round-robin proxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot


@dataclass(frozen=True)
class StaticRoundRobin:
    """The rule: `replicas` `[..., P]` for ever, every ready replica the same share of every class it can serve."""

    cluster: Cluster
    replicas: FloatArray
    name: str = "static-round-robin"
    follows_plan: ClassVar[bool] = False
    """It never looks at the plan: nobody need make new ones for it."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The same counts whatever is seen; weights in proportion to ready replicas."""
        ready = np.where(snapshot.known("ready"), snapshot.ready, self.replicas)
        weights = np.where(self.cluster.serves, ready[..., None, :], 0.0)
        weights = np.where(weights.sum(axis=-1, keepdims=True) > 0, weights, self.cluster.serves.astype(float))
        total = weights.sum(axis=-1, keepdims=True)
        action = Action(
            route=np.divide(weights, total, out=np.zeros(weights.shape), where=total > 0),  # padding stays zero
            admit=np.ones(self.cluster.class_mask.shape),
            batch_cap=self.cluster.max_batch_cap,
            token_budget=self.cluster.max_token_budget,
            replicas=np.broadcast_to(self.replicas, self.cluster.max_replicas.shape).astype(np.float64),
        )
        return action, memory
