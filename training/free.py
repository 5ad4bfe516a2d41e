"""The study's variant without rules: outputs are counts and routes themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..env.bending import Bending, Look
from ..env.codec import Outputs
from ..env.contract import Action

ROUTE_SPREAD: Final = 3.0
"""A pool's weight is exp(+-this): from none to all of a class's requests, nearly."""
CAP_SPREAD: Final = 1.4
"""A pool's batch cap is exp(this times an output below 0) of its start value."""


@dataclass(frozen=True)
class FreeActing(Bending):
    """Acts without what the rules propose (they are still shown). All zeros: half of every pool, requests split evenly."""

    def act(self, outputs: Outputs, look: Look) -> Action:
        """Counts between the pools' limits, routes by pool, admission and caps; head-room and trust mean nothing."""
        cluster, base = self.cluster, look.proposals[0].action
        by_class, by_pool = np.clip(outputs.classes, -1.0, 1.0), np.clip(outputs.pools, -1.0, 1.0)
        low, high = cluster.min_replicas, cluster.max_replicas
        serves = cluster.serves & cluster.class_mask[..., :, None] & cluster.pool_mask[..., None, :]
        weights = np.where(serves, np.exp(ROUTE_SPREAD * by_pool[..., 1])[..., None, :], 0.0)
        total = weights.sum(axis=-1, keepdims=True)
        cap = cluster.max_batch_cap * np.exp(CAP_SPREAD * np.minimum(by_pool[..., 2], 0.0))
        return Action(
            route=np.divide(weights, total, out=np.zeros_like(weights), where=total > 0),
            admit=np.where(cluster.targets.deferrable, np.clip(1.0 + by_class[..., 1], 0.0, 1.0), base.admit),
            batch_cap=np.clip(np.round(cap), 1.0, np.maximum(cluster.max_batch_cap, 1.0)),
            token_budget=base.token_budget,
            replicas=np.round(low + (high - low) * (1.0 + by_pool[..., 0]) / 2.0),
        )
