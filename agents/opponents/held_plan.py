"""A plan held as it stands: its counts, its shares of every class, for ever.

What `poolpilot plan` answers, followed to the letter: the plan's bill and attainment are those of this rule. It is also
the baseline that any policy which scales must beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot


@dataclass(frozen=True)
class HeldPlan:
    """The rule: `replicas` `[..., P]` and `shares` `[..., C, P]` whatever is seen.

    A row of `shares` that sums to less than 1 lets only that much of its class in.
    """

    cluster: Cluster
    replicas: FloatArray
    shares: FloatArray
    name: str = "held-plan"
    follows_plan: ClassVar[bool] = False
    """It brings its own: nobody need make new ones for it."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The same at every tick. Where a pool has no ready replica, the proxy's spill-over helps out."""
        shape = self.cluster.serves.shape
        shares = np.where(self.cluster.serves, np.broadcast_to(self.shares, shape), 0.0)
        let_in = shares.sum(axis=-1)
        anywhere = np.where((let_in > 0)[..., None], shares, self.cluster.serves.astype(np.float64))
        total = anywhere.sum(axis=-1, keepdims=True)
        action = Action(
            route=np.divide(anywhere, total, out=np.zeros(shape), where=total > 0),  # padding stays zero
            admit=np.where(self.cluster.class_mask, np.minimum(let_in, 1.0), 1.0),
            batch_cap=self.cluster.max_batch_cap,
            token_budget=self.cluster.max_token_budget,
            replicas=np.broadcast_to(self.replicas, self.cluster.max_replicas.shape).astype(np.float64),
        )
        return action, memory
