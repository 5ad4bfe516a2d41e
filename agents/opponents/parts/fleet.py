"""The planner's own program, posed by a rule at a tick: with its own head-room and doubts, and the fleet that it has.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from ....env.contract import BoolArray, Cluster, FloatArray, Memory
from ....env.rows import rows_of
from ...planner.solving.program import START_HORIZON_S
from ...planner.solving.together import quick_plan
from .dealing import carries
from .figures import Pools, over

FEWEST: Final = 0.25
"""A load smaller than this many replicas is no more bursty than one of that size."""
WORTH_A_CHANGE: Final = 0.02
"""Share of the rent that another mix must save at least."""
DRAIN_S: Final = 60.0
"""A queue is to be worked off within this time."""
REVIEW_S: Final = 30.0
"""How often a rule looks for a cheaper fleet than one that carries the load."""
DEADBAND: Final = 0.1
"""A fleet that takes the place of one that carries the load must carry this much more."""


def burst_factor(load_per_s: FloatArray, capacity_per_s: FloatArray, headroom: float, burst: float) -> FloatArray:
    """`[..., C]` head-room: `headroom`, plus `burst` over the square root of the load in replicas.

    The fewer replicas share a load the less its bursts even out; classes that can meet in a pool share it.
    """
    usable = capacity_per_s > 0
    together = (usable[..., :, None, :] & usable[..., None, :, :]).any(axis=-1)
    size = over(load_per_s, capacity_per_s.max(axis=-1))
    shared = np.where(together, size[..., None, :], 0.0).sum(axis=-1)
    factor: FloatArray = headroom + burst / np.sqrt(np.maximum(shared, FEWEST))
    return factor


def backlog_per_s(
    pools: Pools, route: FloatArray, load_per_s: FloatArray, cluster: Cluster, drain_s: float = DRAIN_S
) -> FloatArray:
    """`[..., C]` requests/s on top that work the queues off within `drain_s`, by class as far as `route` tells.

    Work that may be put off may wait.
    """
    rate = load_per_s[..., None] * route
    share = over(rate, rate.sum(axis=-2, keepdims=True))
    waiting = (pools.waiting[..., None, :] * share).sum(axis=-1)
    return np.where(cluster.targets.deferrable, 0.0, waiting / max(drain_s, 1.0))


def standing(pools: Pools, cluster: Cluster, memory: Memory) -> tuple[FloatArray, FloatArray, BoolArray]:
    """The fleet as it stands, `[..., P]` each: replicas up or starting, those chosen last (`counts` in the memory) as far
    as they can be had, and which pools do not have what was asked of them.

    Before the first look those asked for count as chosen. Later they do not: who bends what the rule proposes must not
    find it defending the bend.
    """
    hand = np.minimum(pools.up, cluster.max_replicas)
    unanswered = pools.target > pools.up + 0.5
    chosen = pools.target
    if memory:
        chosen = np.where((memory["seen"] > 0)[..., None], memory["counts"], chosen)
    chosen = np.where(unanswered, np.minimum(hand, chosen), np.minimum(chosen, cluster.max_replicas))
    return hand, np.maximum(np.round(chosen), cluster.min_replicas), unanswered


def cheapest_fleet(
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    cluster: Cluster,
    most: FloatArray,
    usd_per_hr: FloatArray,
    hand: FloatArray | None,
    payback_s: float,
) -> FloatArray:
    """The planner's counts `[..., P]` for a load with head-room.

    Args:
        most: `[..., P]` counts that may be had.
        hand: `[..., P]` replicas that need no start; without it starts are free.
        payback_s: the rent of a cold start must come back within about this long.
    """
    within = replace(
        cluster,
        max_replicas=np.floor(np.maximum(most, cluster.min_replicas)),
        cold_start_s=cluster.cold_start_s * (START_HORIZON_S / max(payback_s, 1.0)),
    )
    return quick_plan(within, load_per_s, capacity_per_s, usd_per_hr, hand).replicas


def chosen_where(
    asked: BoolArray,
    current: FloatArray,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    cluster: Cluster,
    most: FloatArray,
    usd_per_hr: FloatArray,
    hand: FloatArray,
    payback_s: float,
) -> FloatArray:
    """`[..., P]` the cheapest fleet where it is `asked` for `[...]`, `current` elsewhere."""
    if not asked.any():
        return current
    if not asked.ndim:
        return cheapest_fleet(load_per_s, capacity_per_s, cluster, most, usd_per_hr, hand, payback_s)
    # Only the clusters whose turn it is: solving is most of a rule's time.
    rows, best = np.flatnonzero(asked), np.array(current)
    best[rows] = cheapest_fleet(
        load_per_s[rows],
        capacity_per_s[rows],
        rows_of(cluster, rows),
        most[rows],
        usd_per_hr[rows],
        hand[rows],
        payback_s,
    )
    return best


def steady_fleet(
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    cluster: Cluster,
    most: FloatArray,
    usd_per_hr: FloatArray,
    hand: FloatArray,
    current: FloatArray,
    review: BoolArray,
    payback_s: float,
) -> FloatArray:
    """`[..., P]` the `current` fleet while it carries the load, else the cheapest that does.

    Where it is time for a `review` `[...]` a fleet takes its place that is cheaper by more than a hair, its cold starts
    included, and carries `DEADBAND` more than the load. So a mix is not changed for another that costs the same, and
    no replica is sent away to be missed a minute later.
    """
    fits = carries(load_per_s, capacity_per_s, current) & (current <= most + 1.0).all(axis=-1)
    asked = np.asarray(review | ~fits)
    if not asked.any():
        return current
    wanted = load_per_s * np.where(fits, 1.0 + DEADBAND, 1.0)[..., None]
    best = chosen_where(asked, current, wanted, capacity_per_s, cluster, most, usd_per_hr, hand, payback_s)
    start = usd_per_hr * cluster.cold_start_s / max(payback_s, 1.0)

    def rent(counts: FloatArray) -> FloatArray:
        total: FloatArray = (usd_per_hr * counts + start * np.maximum(counts - hand, 0.0)).sum(axis=-1)
        return total

    better = rent(best) < rent(current) * (1.0 - WORTH_A_CHANGE)
    return np.where((asked & (better | ~fits))[..., None], best, current)


def kept_until_carried(
    wanted: FloatArray, load_per_s: FloatArray, capacity_per_s: FloatArray, pools: Pools, cluster: Cluster, most: float
) -> FloatArray:
    """`[..., P]` what is wanted, but no replica goes before those that stay and are ready carry the load.

    `most`: how full these may be.
    """
    enough = carries(load_per_s, capacity_per_s, np.minimum(pools.ready, wanted), most)[..., None]
    hand = np.minimum(pools.up, cluster.max_replicas)
    return np.where(enough, wanted, np.maximum(wanted, np.round(hand)))
