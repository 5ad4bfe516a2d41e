"""Work onto pools, each class to its cheapest pool with room.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

import numpy as np

from ....env.codec import whole_replicas
from ....env.contract import FloatArray
from .figures import over


def usd_per_request(
    load_per_s: FloatArray, capacity_per_s: FloatArray, usd_per_hr: FloatArray, up: FloatArray, sticky: float = 0.1
) -> FloatArray:
    """`[..., C, P]` what a unit of the class's work costs in the pool, infinite where it is not served.

    The rent of a replica over what it carries. A pool whose whole possible load would not fill one replica is dearer by
    as much, for replicas are rented whole. A pool that has replicas up counts as a little cheaper (`sticky`): a change
    of mix costs cold starts, and must be worth it.
    """
    filled = over(load_per_s[..., None], capacity_per_s).sum(axis=-2)
    whole = over(np.maximum(filled, 1.0), np.maximum(filled, 0.05))
    rent = usd_per_hr * whole * np.where(up > 0, 1.0 - sticky, 1.0)
    cost = over(np.broadcast_to(rent[..., None, :], capacity_per_s.shape), capacity_per_s)
    return np.where(capacity_per_s > 0, cost, np.inf)


def filled_cheapest_first(
    load_per_s: FloatArray, capacity_per_s: FloatArray, cost: FloatArray, room: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Every class to its cheapest pools that have room, and on to the next when these are full.

    Classes that want the same pool share its room in proportion to what they want of it; pools that cost a class the
    same get the same share of it.

    Args:
        load_per_s: `[..., C]`
        capacity_per_s: `[..., C, P]` of one replica, 0 where the class is not served.
        cost: `[..., C, P]`
        room: `[..., P]` replicas.

    Returns:
        `[..., C, P]` replicas that each class takes of each pool, and `[..., C]` requests/s that found no room.
    """
    need, left = np.zeros(capacity_per_s.shape), load_per_s
    for _ in range(capacity_per_s.shape[-1]):
        open_to = (capacity_per_s > 0) & (room > 0)[..., None, :]
        if not ((left > 0) & open_to.any(axis=-1)).any():
            break
        asked = _asked(left, capacity_per_s, np.where(open_to, cost, np.inf))
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
    return need + _asked(left, capacity_per_s, cost)


def _asked(load_per_s: FloatArray, capacity_per_s: FloatArray, cost: FloatArray) -> FloatArray:
    """`[..., C, P]` replicas when each class goes to its cheapest pools only."""
    chosen = (cost == cost.min(axis=-1, keepdims=True)) & np.isfinite(cost)
    share = over(chosen.astype(np.float64), chosen.sum(axis=-1, keepdims=True))
    return over(load_per_s[..., None] * share, capacity_per_s)


def consolidated(need: FloatArray, capacity_per_s: FloatArray, usd_per_hr: FloatArray) -> FloatArray:
    """The need with parts of replicas moved into what other pools round up anyway, dearest replicas first.

    Two pools that need a half of a replica each are two rents; one of them may carry both. A class's part goes to
    other pools in proportion to what they have over for it, all of the pool's last replica or nothing.
    """
    part = _last_part(need.sum(axis=-2))
    # Among pools of one price the emptier replica goes first.
    key = usd_per_hr * (1.0 + 1e-3 * (1.0 - part))
    rank = np.argsort(np.argsort(-key, axis=-1, kind="stable"), axis=-1, kind="stable")
    for k in range(need.shape[-1]):
        here = rank == k
        per_pool = need.sum(axis=-2)
        part = np.where(here, _last_part(per_pool), 0.0)
        moved = need * over(part, per_pool)[..., None, :]
        moving = (moved * capacity_per_s).sum(axis=-1)
        spare = np.where(here, 0.0, np.maximum(whole_replicas(per_pool) - per_pool, 0.0))
        worth = spare[..., None, :] * capacity_per_s
        total = worth.sum(axis=-1, keepdims=True)
        added = over(moving[..., None] * over(worth, total), capacity_per_s)
        fits = (added.sum(axis=-2) <= spare).all(axis=-1) & ((moving <= 0) | (total[..., 0] > 0)).all(axis=-1)
        need = np.where(fits[..., None, None], need - moved + added, need)
    return need


def _last_part(per_pool: FloatArray) -> FloatArray:
    """`[..., P]` how much of the last replica of each pool is needed."""
    return np.where(per_pool > 0, per_pool - np.maximum(whole_replicas(per_pool) - 1.0, 0.0), 0.0)
