"""Work onto pools with room, cheapest first or spread.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

import numpy as np

from ....env.contract import Cluster, FloatArray
from .figures import Pools, over

STICKY = 0.1
"""By so much a pool that has replicas up counts as cheaper than it is."""


def usd_per_request(
    load_per_s: FloatArray, capacity_per_s: FloatArray, pools: Pools, cluster: Cluster, spot_aversion: float
) -> FloatArray:
    """`[..., C, P]` what a unit of the class's work costs in the pool, infinite where it is not served.

    The rent of a replica over what it carries. A pool whose whole possible load would not fill one replica is dearer by
    as much, for replicas are rented whole. A pool that has replicas up counts as a little cheaper: a change of mix costs
    cold starts, and must be worth it. Spot machines, which may be taken away, count as dearer by `spot_aversion`.
    """
    filled = over(load_per_s[..., None], capacity_per_s).sum(axis=-2)
    whole = over(np.maximum(filled, 1.0), np.maximum(filled, 0.05))
    rent = pools.usd_per_hr * whole * np.where(pools.up > 0, 1.0 - STICKY, 1.0)
    rent = rent * np.where(cluster.spot, 1.0 + spot_aversion, 1.0)
    cost = over(np.broadcast_to(rent[..., None, :], capacity_per_s.shape), capacity_per_s)
    return np.where(capacity_per_s > 0, cost, np.inf)


def filled_cheapest_first(
    load_per_s: FloatArray, capacity_per_s: FloatArray, cost: FloatArray, room: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Every class to its cheapest pools (`cost` `[..., C, P]`) that have room, and on to the next when these are full.

    Pools that cost a class the same get the same share of it. See `filled`.
    """
    return filled(load_per_s, capacity_per_s, cost, np.ones(capacity_per_s.shape), room)


def filled(
    load_per_s: FloatArray, capacity_per_s: FloatArray, cost: FloatArray, weights: FloatArray, room: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Every class to those of its cheapest pools that have room, by weights, and what finds none on to the next.

    Classes that want the same pool share its room in proportion to what they want of it.

    Args:
        load_per_s: `[..., C]`
        capacity_per_s: `[..., C, P]` of one replica, 0 where the class is not served.
        cost: `[..., C, P]`
        weights: `[..., C, P]` shares of a class's requests, among pools that cost it the same, are in proportion.
        room: `[..., P]` replicas.

    Returns:
        `[..., C, P]` replicas that each class takes of each pool, and `[..., C]` requests/s that found no room.
    """
    from .fill_kernel import fill  # loads a compiler, which who only asks for names need not wait for

    shape = capacity_per_s.shape
    capacity, cost, weights = (
        np.ascontiguousarray(each, dtype=np.float64).reshape(-1, *shape[-2:])
        for each in (capacity_per_s, cost, weights)
    )
    left, free = np.array(load_per_s, dtype=np.float64), np.array(room, dtype=np.float64)
    need = np.zeros(capacity.shape)
    fill(left.reshape(-1, shape[-2]), capacity, cost, weights, free.reshape(-1, shape[-1]), need)
    return need.reshape(shape), left


def prepare() -> None:
    """Compile the filling, or load what was compiled on this machine before, so that no decision waits for it."""
    one = np.ones((1, 1, 1))
    filled(one[0], one, one, one, one[0])


def with_overflow(need: FloatArray, left: FloatArray, capacity_per_s: FloatArray, cost: FloatArray) -> FloatArray:
    """`[..., C, P]` the need with what found no room on top of the cheapest pools: so much is missing."""
    if not (left > 0).any():
        return need
    return need + _asked(left, capacity_per_s, cost, np.ones(cost.shape))


def _asked(load_per_s: FloatArray, capacity_per_s: FloatArray, cost: FloatArray, weights: FloatArray) -> FloatArray:
    """`[..., C, P]` replicas when each class goes to its cheapest pools only, by weights."""
    mine = _cheapest(cost, weights)
    share = over(mine, mine.sum(axis=-1, keepdims=True))
    return over(load_per_s[..., None] * share, capacity_per_s)


def _cheapest(cost: FloatArray, weights: FloatArray) -> FloatArray:
    """`[..., C, P]` the weights of each class's cheapest pools, 0 for the others."""
    return np.where((cost == cost.min(axis=-1, keepdims=True)) & (cost < np.inf), weights, 0.0)
