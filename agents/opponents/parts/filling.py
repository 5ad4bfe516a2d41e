"""Work onto pools with room, cheapest first or spread.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....env.contract import BoolArray, Cluster, FloatArray
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

    def cheapest(open_to: BoolArray) -> FloatArray:
        return _cheapest(np.where(open_to, cost, np.inf))

    return filled(load_per_s, capacity_per_s, cheapest, room)


def filled(
    load_per_s: FloatArray, capacity_per_s: FloatArray, weights: Callable[[BoolArray], FloatArray], room: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Every class to its pools in proportion to weights, and what finds no room on to those that have some left.

    Classes that want the same pool share its room in proportion to what they want of it.

    Args:
        load_per_s: `[..., C]`
        capacity_per_s: `[..., C, P]` of one replica, 0 where the class is not served.
        weights: called with where a class may go now `[..., C, P]`; shares of its requests are in proportion to what
            it returns.
        room: `[..., P]` replicas.

    Returns:
        `[..., C, P]` replicas that each class takes of each pool, and `[..., C]` requests/s that found no room.
    """
    need, left = np.zeros(capacity_per_s.shape), load_per_s
    for _ in range(capacity_per_s.shape[-1]):
        open_to = (capacity_per_s > 0) & (room > 0)[..., None, :]
        if not ((left > 0) & open_to.any(axis=-1)).any():
            break
        asked = _asked(left, capacity_per_s, np.where(open_to, weights(open_to), 0.0))
        wanted = asked.sum(axis=-2)
        fits = np.where(wanted > room, over(room, wanted), 1.0)[..., None, :]
        given = asked * fits
        need = need + given
        beyond = (asked * (1.0 - fits) * capacity_per_s).sum(axis=-1)
        left = np.where(open_to.any(axis=-1), beyond, left)
        room = np.where(wanted > room, 0.0, room - given.sum(axis=-2))
    return need, left


def with_overflow(need: FloatArray, left: FloatArray, capacity_per_s: FloatArray, cost: FloatArray) -> FloatArray:
    """`[..., C, P]` the need with what found no room on top of the cheapest pools: so much is missing."""
    return need + _asked(left, capacity_per_s, _cheapest(cost))


def _cheapest(cost: FloatArray) -> FloatArray:
    """`[..., C, P]` 1 for each class's cheapest pools, 0 for the others."""
    return np.where((cost == cost.min(axis=-1, keepdims=True)) & np.isfinite(cost), 1.0, 0.0)


def _asked(load_per_s: FloatArray, capacity_per_s: FloatArray, weights: FloatArray) -> FloatArray:
    """`[..., C, P]` replicas when each class is split by weights."""
    share = over(weights, weights.sum(axis=-1, keepdims=True))
    return over(load_per_s[..., None] * share, capacity_per_s)
