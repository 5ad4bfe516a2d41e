"""What the network is shown of the minutes before, kept as plain arrays.

Rows of zeros mean that nothing was seen yet. Means are exponential: a figure that is unknown, or cannot be, changes
none. Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..contract import BoolArray, Cluster, Column, FloatArray, Memory, Snapshot
from ..reward import HOUR_S, kept_of_hour

BUDGET_WINDOW_S: Final = 1200.0
"""The allowance of misses is counted over about this long (exponentially forgotten)."""
SOON_S: Final = 60.0
LONG_S: Final = 1200.0
"""Rates are shown beside their means over about a minute and about 20: bursts grow within minutes, and a rate that has
been high for long is no burst."""
MARKET_S: Final = 900.0
"""Prices, and what can be had of a pool, are shown beside their means over about a quarter of an hour."""
FIRST_TICK_S: Final = 10.0
"""The first figures count as if they had been so for this long."""

_CLASS_MEANS_S: Final = np.array([SOON_S, LONG_S, SOON_S])
_POOL_MEANS_S: Final = np.array([SOON_S, MARKET_S, MARKET_S])


@dataclass(frozen=True)
class Past:
    """The minutes before; NaN where nothing is known."""

    budget_left: FloatArray
    """`[..., C]` allowance of misses left in the rolling window, 1 untouched, below 0 overdrawn."""
    hour_left: FloatArray
    """`[..., C]` what is left of the allowance of a whole hour at the present rate (`env.reward`), likewise."""
    rate_soon_per_s: FloatArray
    """`[..., C]` arrival rate over about `SOON_S`."""
    rate_long_per_s: FloatArray
    """`[..., C]` over about `LONG_S`."""
    in_flight: FloatArray
    """`[..., C]` over about `SOON_S`."""
    waiting: FloatArray
    """`[..., P]` over about `SOON_S`."""
    unanswered: FloatArray
    """`[..., P]` replicas asked for that neither serve nor start, over about `MARKET_S`."""
    usd_per_hr: FloatArray
    """`[..., P]` over about `MARKET_S`."""
    pending_s: FloatArray
    """`[..., P]` for how long replicas that start have been starting, in the mean; 0 when there are none."""


def unanswered(snapshot: Snapshot) -> FloatArray:
    """`[..., P]` replicas asked for that neither serve nor start: what cannot be had, or was just taken away."""
    return np.maximum(snapshot.target - snapshot.ready - snapshot.starting, 0.0)


def look_back(snapshot: Snapshot, cluster: Cluster, memory: Memory) -> tuple[Past, Memory]:
    """What the minutes before were like, the present tick included, and what must be remembered for it.

    Returns:
        The past; and `done`, `missed`, `hour_missed`, `hour_s`, `class_sums`, `class_weights`, `pool_sums`, `pool_weights`, `starting`,
        `pending_s`, `budget_at_s` and `seen`, to be merged into the memory.
    """
    left, budget = track_budget(snapshot, cluster, memory)
    elapsed_s = _elapsed_s(snapshot, memory)
    now = np.stack([snapshot.arrival_rate_per_s, snapshot.arrival_rate_per_s, snapshot.in_flight], axis=-1)
    high = Snapshot.arrival_rate_per_s.high
    by_class, classes = _means("class", now, high, elapsed_s, _CLASS_MEANS_S, memory)
    now = np.stack([snapshot.waiting, unanswered(snapshot), snapshot.usd_per_hr], axis=-1)
    by_pool, pools = _means("pool", now, high, elapsed_s, _POOL_MEANS_S, memory)
    pending = _pending(snapshot, elapsed_s, memory)
    hour_left, hour = _hour(snapshot, cluster, by_class[..., 1], memory)
    past = Past(
        budget_left=left,
        hour_left=hour_left,
        rate_soon_per_s=by_class[..., 0],
        rate_long_per_s=by_class[..., 1],
        in_flight=by_class[..., 2],
        waiting=by_pool[..., 0],
        unanswered=by_pool[..., 1],
        usd_per_hr=by_pool[..., 2],
        pending_s=pending["pending_s"],
    )
    return past, {**budget, **hour, **classes, **pools, **pending, "seen": np.ones(snapshot.time_s.shape)}


def track_budget(snapshot: Snapshot, cluster: Cluster, memory: Memory) -> tuple[FloatArray, Memory]:
    """How much of the allowance of misses is left, and what must be remembered for it.

    Returns:
        `[..., C]` 1 untouched, 0 used up, below 0 overdrawn; and `done`, `missed` `[..., C]` and `budget_at_s`
        `[...]` to be merged into the memory. Zeros mean nothing was seen yet.
    """
    if "done" in memory:
        elapsed_s = np.clip(snapshot.time_s - memory["budget_at_s"], 0.0, BUDGET_WINDOW_S)
        done, missed = memory["done"], memory["missed"]
    else:
        elapsed_s = np.zeros(snapshot.time_s.shape)
        done = missed = np.zeros(cluster.class_mask.shape)
    fade = np.exp(-elapsed_s / BUDGET_WINDOW_S)[..., None]
    seen, missing = _asked_and_missed(snapshot, elapsed_s)
    done = done * fade + seen
    missed = missed * fade + missing
    allowed = np.maximum(1.0 - cluster.targets.attainment, 1e-3) * done
    left = 1.0 - np.divide(missed, allowed, out=np.zeros_like(missed), where=allowed > 0)
    return left, {"done": done, "missed": missed, "budget_at_s": np.asarray(snapshot.time_s)}


def _asked_and_missed(snapshot: Snapshot, elapsed_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`[..., C]` requests since the last tick and those that missed, bounded, so that one impossible figure is not
    remembered for ever."""
    asked = _within(snapshot, Snapshot.arrival_rate_per_s, unknown=0.0) * elapsed_s[..., None]
    return asked, asked * (1.0 - _within(snapshot, Snapshot.attainment, unknown=1.0))


def _hour(
    snapshot: Snapshot, cluster: Cluster, rate_per_s: FloatArray, memory: Memory
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """What is left of an hour's allowance at rates `[..., C]`, and what must be remembered for it."""
    counted_s = memory.get("hour_s", np.zeros(snapshot.time_s.shape))
    elapsed_s = np.where(
        counted_s > 0, np.clip(snapshot.time_s - memory.get("budget_at_s", 0.0), 0.0, LONG_S), FIRST_TICK_S
    )
    _, missing = _asked_and_missed(snapshot, elapsed_s)
    before = memory.get("hour_missed", np.zeros(cluster.class_mask.shape))
    missed = before * kept_of_hour(counted_s, elapsed_s)[..., None] + missing
    allowed = np.maximum(1.0 - cluster.targets.attainment, 1e-3) * np.nan_to_num(rate_per_s) * HOUR_S
    left = 1.0 - np.divide(missed, allowed, out=np.zeros_like(missed), where=allowed > 0)
    return left, {"hour_missed": missed, "hour_s": counted_s + elapsed_s}


def _elapsed_s(snapshot: Snapshot, memory: Memory) -> FloatArray:
    """`[...]` seconds since the last tick."""
    if "seen" not in memory:
        return np.full(snapshot.time_s.shape, FIRST_TICK_S)
    since_s = np.clip(snapshot.time_s - memory["budget_at_s"], 0.0, LONG_S)
    return np.where(memory["seen"] > 0, since_s, FIRST_TICK_S)


def _means(
    kind: str, now: FloatArray, high: float, elapsed_s: FloatArray, over_s: FloatArray, memory: Memory
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Exponential means of figures `[..., N, M]`, over `over_s` `[M]` seconds each; NaN before the first known one."""
    known: BoolArray = (now >= 0.0) & (now <= high)
    keep = np.exp(-elapsed_s[..., None, None] / over_s)
    gain = np.where(known, 1.0 - keep, 0.0)
    sums = gain * np.where(known, now, 0.0)
    weights = gain
    if "seen" in memory:
        # What is unknown fades nothing: the mean stays what it was.
        sums = sums + np.where(known, keep, 1.0) * memory[f"{kind}_sums"]
        weights = weights + np.where(known, keep, 1.0) * memory[f"{kind}_weights"]
    means = np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)
    return means, {f"{kind}_sums": sums, f"{kind}_weights": weights}


def _pending(snapshot: Snapshot, elapsed_s: FloatArray, memory: Memory) -> dict[str, FloatArray]:
    """For how long starting replicas have been starting: those that are new have not, those that are left go on."""
    unknown: Any = memory.get("starting", 0.0)
    values, column = snapshot.starting, Snapshot.starting
    starting = np.where((values >= 0.0) & (values <= column.high), values, unknown)
    if "seen" not in memory:
        return {"starting": starting, "pending_s": np.zeros(starting.shape)}
    stayed = np.minimum(memory["starting"], starting)
    age_s = (memory["pending_s"] + elapsed_s[..., None]) * stayed
    pending_s = np.divide(age_s, starting, out=np.zeros_like(age_s), where=starting > 0)
    return {"starting": starting, "pending_s": pending_s}


def _within(snapshot: Snapshot, column: Column, unknown: float) -> FloatArray:
    bounded: FloatArray = np.clip(np.nan_to_num(getattr(snapshot, column.name), nan=unknown), 0.0, column.high)
    return bounded
