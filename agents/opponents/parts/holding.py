"""Holding on: to a load that has passed, to replicas until others stand in, to what cannot be had.

Symbols: `C` classes, `P` pools, `K` slots of a window; `...` an optional leading batch axis.
"""

from __future__ import annotations

import numpy as np

from ....env.codec import whole_replicas
from ....env.contract import Cluster, FloatArray, Memory
from .figures import Pools, over

WINDOW_SLOTS = 20
"""Of a window, beside the slot that is being filled."""
PATIENCE_S = 30.0
"""A wish for replicas that nobody answers for this long will not be answered soon."""
RETRY_S = 180.0
"""So long later it is worth asking again, for one."""
DOUBT_S = 1800.0
"""For so long a pool that left a wish unanswered is asked for one more at a time."""


def faded(load: FloatArray, elapsed_s: FloatArray, hold_s: float, memory: Memory) -> FloatArray:
    """`[..., C]` the load, or what is left of a higher one (`load` in the memory) that fades over about `hold_s`."""
    if not memory:
        return load
    left = np.exp(-elapsed_s / max(hold_s, 1e-3))[..., None]
    held: FloatArray = np.maximum(load, memory["load"] * left)
    return held


def highest_of_window(
    values: FloatArray, first: FloatArray, now_s: FloatArray, window_s: float, memory: Memory
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """`[..., C]` the highest of the values seen within the window, and what to remember.

    At the first look (`seen` is not set) `first` counts as well, or the fleet would go before anything is measured. The
    window is cut into slots, each of which keeps its highest value and when it last saw one, so that a value is
    held up to a twentieth longer than the window.
    """
    now = np.broadcast_to(np.asarray(now_s, dtype=np.float64), values.shape[:-1])[..., None]
    if memory:
        kept, at_s, opened_s = memory["highest"], memory["highest_at_s"], memory["slot_opened_s"]
    else:
        kept = np.zeros((*values.shape[:-1], WINDOW_SLOTS + 1, values.shape[-1]))
        at_s = np.zeros((*values.shape[:-1], WINDOW_SLOTS + 1))
        opened_s = np.zeros(values.shape[:-1])
    known = (memory["seen"] > 0)[..., None] if memory else np.zeros(now.shape, dtype=np.bool_)
    values = np.where(known, values, np.maximum(values, first))
    opens = now - opened_s[..., None] >= window_s / WINDOW_SLOTS
    newest = np.where(opens, values, np.maximum(kept[..., -1, :], values))[..., None, :]
    older = np.where(opens[..., None], kept[..., 1:, :], kept[..., :-1, :])
    kept = np.concatenate([older, newest], axis=-2)
    at_s = np.concatenate([np.where(opens, at_s[..., 1:], at_s[..., :-1]), now], axis=-1)
    recent = now - at_s <= window_s
    highest: FloatArray = np.where(recent[..., None], kept, 0.0).max(axis=-2)
    opened_s = np.where(opens, now, opened_s[..., None])[..., 0]
    return highest, {"highest": kept, "highest_at_s": at_s, "slot_opened_s": opened_s}


def within_reach(
    pools: Pools, cluster: Cluster, elapsed_s: FloatArray, memory: Memory
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """`[..., P]` replicas that can be had, and what to remember.

    Where more were asked for than are up or starting for longer than `PATIENCE_S`, no more than are up for `RETRY_S`, and
    then one more than are up as long as there is doubt: a rule that counts on many again gives up those it has elsewhere.
    """
    none = np.zeros(pools.ready.shape)
    waited_s, doubt_s = (memory["unanswered_s"], memory["doubt_s"]) if memory else (none, none)
    gone = elapsed_s[..., None]
    open_s = DOUBT_S - RETRY_S
    waits = (pools.target > pools.up + 0.5) & (doubt_s <= open_s)
    waited_s = np.where(waits, waited_s + gone, 0.0)
    doubt_s = np.where(waited_s >= PATIENCE_S, DOUBT_S, np.maximum(doubt_s - gone, 0.0))
    more = np.where(doubt_s > open_s, 0.0, np.where(doubt_s > 0, 1.0, cluster.max_replicas))
    room = np.clip(pools.up + more, cluster.min_replicas, np.maximum(cluster.max_replicas, cluster.min_replicas))
    return room, {"unanswered_s": waited_s, "doubt_s": doubt_s}


def made_before_broken(need: FloatArray, capacity_per_s: FloatArray, pools: Pools) -> FloatArray:
    """`[..., P]` counts that meet the need, and as many of the others' replicas as must stand in until they do.

    A pool whose replicas are not ready yet leaves a part of each class; pools that have more than they need, ready or
    starting, keep as many as carry that part.
    """
    per_pool = need.sum(axis=-2)
    wanted = whole_replicas(per_pool)
    missing = np.maximum(per_pool - pools.ready, 0.0)
    uncovered = (need * over(missing, per_pool)[..., None, :] * capacity_per_s).sum(axis=-1, keepdims=True)
    surplus = np.maximum(pools.up - wanted, 0.0)
    stands_in = surplus[..., None, :] * capacity_per_s
    share = np.minimum(over(uncovered, stands_in.sum(axis=-1, keepdims=True)), 1.0)
    kept = (share * np.where(capacity_per_s > 0, surplus[..., None, :], 0.0)).max(axis=-2)
    return wanted + whole_replicas(kept)


def within_limits(replicas: FloatArray, cluster: Cluster) -> FloatArray:
    """`[..., P]` whole counts between the pools' minima and maxima."""
    return np.clip(np.round(replicas), cluster.min_replicas, np.maximum(cluster.max_replicas, cluster.min_replicas))
