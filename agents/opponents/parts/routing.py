"""Weights of pools, as far as their replicas are ready and their queues short.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

import numpy as np

from ....env.contract import Cluster, FloatArray
from .figures import Pools, over

QUEUE_AVERSION = 4.0
"""A queue of a quarter of a replica's batch halves the weight of its pool."""
LEAST_FREE = 0.05
"""What counts as free in a pool that is overfull: it gets a trickle, so that it is heard of again."""


def by_free_capacity(utilisation: FloatArray, capacity_per_s: FloatArray, pools: Pools, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` each class in proportion to what ready replicas could take more of it: least loaded first.

    Args:
        utilisation: `[..., P]` 1 where the pool is as full as it should ever be; at twice that nothing is free.
    """
    free = pools.ready * np.maximum(2.0 - utilisation, LEAST_FREE)
    return normalised(free[..., None, :] * capacity_per_s, pools, cluster)


def as_far_as_ready(need: FloatArray, capacity_per_s: FloatArray, pools: Pools, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` each class to the pools that it needs replicas of, as far as these are ready; the rest goes where
    ready replicas have room."""
    per_pool = need.sum(axis=-2)
    share = need * capacity_per_s
    share = over(share, share.sum(axis=-1, keepdims=True))
    covered = np.clip(over(pools.ready, per_pool), 0.0, 1.0)
    queue = over(pools.waiting, pools.ready * cluster.max_batch_cap)
    ease = 1.0 / (1.0 + QUEUE_AVERSION * queue)
    kept = share * (covered * ease)[..., None, :]
    spare = (np.maximum(pools.ready - per_pool, 0.0) + LEAST_FREE * pools.ready) * ease
    elsewhere = capacity_per_s * spare[..., None, :]
    rest = np.maximum(1.0 - kept.sum(axis=-1, keepdims=True), 0.0)
    return normalised(kept + rest * over(elsewhere, elsewhere.sum(axis=-1, keepdims=True)), pools, cluster)


def normalised(weights: FloatArray, pools: Pools, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` rows that sum to 1 over the pools that serve the class; zero for padding.

    Where no pool has any weight, all with ready replicas share alike, and where none has any, all that serve.
    """
    served = cluster.serves.astype(np.float64)
    weights = np.where(cluster.serves, weights, 0.0)
    for instead in (served * pools.ready[..., None, :], served):
        weights = np.where(weights.sum(axis=-1, keepdims=True) > 0, weights, instead)
    return over(weights, weights.sum(axis=-1, keepdims=True))
