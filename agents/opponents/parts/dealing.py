"""Who serves what: work dealt out so that all replicas are about equally full.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ....env.contract import BoolArray, Cluster, FloatArray, Plan
from .deal_kernel import deal
from .figures import Pools, over
from .routing import QUEUE_AVERSION, normalised

ROUNDS: Final = 8
"""How often shares are moved from fuller pools to emptier ones."""
ADVANTAGE: Final = 3
"""How strongly a class keeps to the pools that are better for it than for others."""
SLACK: Final = 0.03
"""Dealing ends about so far from the best that could be dealt: what the planner's program found to fit must fit."""
LEAST_USE: Final = 1e-3
"""A pool emptier than this attracts no more work than one that is as empty."""


def dealt(
    load_per_s: FloatArray, capacity_per_s: FloatArray, replicas: FloatArray, weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Shares `[..., C, P]` that make replicas about equally full, and how full that makes each pool `[..., P]`.

    A class that no replica serves has shares of 0. `weight` `[..., P]` below 1 makes a pool's replicas count less.
    """
    counted = replicas if weight is None else replicas * weight
    n_classes, n_pools = capacity_per_s.shape[-2:]
    load = np.ascontiguousarray(np.reshape(load_per_s, (-1, n_classes)), dtype=np.float64)
    capacity = np.ascontiguousarray(np.reshape(capacity_per_s, (-1, n_classes, n_pools)), dtype=np.float64)
    have = np.ascontiguousarray(np.reshape(counted, (-1, n_pools)), dtype=np.float64)
    shares, full = np.empty(capacity.shape), np.empty(have.shape)
    deal(load, capacity, have, ROUNDS, float(ADVANTAGE), LEAST_USE, shares, full)
    return shares.reshape(capacity_per_s.shape), full.reshape(counted.shape)


def carries(load_per_s: FloatArray, capacity_per_s: FloatArray, replicas: FloatArray, most: float = 1.0) -> BoolArray:
    """`[...]` whether replicas carry a load without any being fuller than `most`; what nobody could serve is let be."""
    _, full = dealt(load_per_s, capacity_per_s, replicas)
    served = (capacity_per_s * replicas[..., None, :]).sum(axis=-1) > 0
    reached = served | (load_per_s <= 0) | (capacity_per_s <= 0).all(axis=-1)
    return np.asarray((full <= most + SLACK).all(axis=-1) & reached.all(axis=-1))


def needed(load_per_s: FloatArray, capacity_per_s: FloatArray, counts: FloatArray, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` replicas that each class takes of a fleet chosen for the load; beyond it only at a pool's maximum.

    A little below whole counts: who bends the need by a hair must not be taken to want a replica more.
    """
    shares, _ = dealt(load_per_s, capacity_per_s, counts)
    nowhere = (shares.sum(axis=-1) <= 0)[..., None]
    anywhere = over(capacity_per_s, capacity_per_s.sum(axis=-1, keepdims=True))
    need = over(load_per_s[..., None] * np.where(nowhere, anywhere, shares), capacity_per_s)
    fits = np.minimum(over(counts * (1.0 - SLACK), need.sum(axis=-2)), 1.0)
    return need * np.where(counts < cluster.max_replicas, fits, 1.0)[..., None, :]


def evenly_routed(
    load_per_s: FloatArray, capacity_per_s: FloatArray, pools: Pools, plan: Plan, cluster: Cluster
) -> FloatArray:
    """`[..., C, P]` shares that fill the ready replicas alike, less where there is a queue; as planned if none is."""
    queue = over(pools.waiting, pools.ready * cluster.max_batch_cap)
    ease = 1.0 / (1.0 + QUEUE_AVERSION * queue)
    shares, _ = dealt(np.maximum(load_per_s, LEAST_USE), capacity_per_s, pools.ready, ease)
    for instead in (cluster.serves * pools.ready[..., None, :], plan.route):
        shares = np.where(shares.sum(axis=-1, keepdims=True) > 0, shares, instead)
    return normalised(shares, pools, cluster)
