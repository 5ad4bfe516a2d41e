"""What the live cluster used in a tick, for `env.ledger` to turn into dollars. Pure.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..env.contract import IDLE_PARTS, Cluster, FloatArray
from ..env.ledger import Meter, ScalingSeconds, Tariff
from .readings import ReplicaReading
from .tally import TickTally


@dataclass(frozen=True)
class BusyShare:
    """How the time of a pool's replicas was spent; NaN where nothing tells."""

    busy_frac: FloatArray
    """`[P]` 0..1 with an iteration under way."""
    useful_frac: FloatArray
    """`[P]` 0..1 that the work needs at the hardware's best, at most `busy_frac`."""


@dataclass(frozen=True)
class Used:
    """One tick of the live cluster."""

    span_s: float
    """The decider's seconds."""
    usd_per_hr: FloatArray
    """`[P]` price of one replica."""
    up_s: FloatArray
    """`[P]` replica-seconds ready or draining."""
    draining_s: FloatArray
    """`[P]` of these, draining."""
    asleep_s: FloatArray
    """`[P]` replica-seconds asleep."""
    starting_s: FloatArray
    """`[P]` replica-seconds rented before the engine served."""
    busy: BusyShare
    power_w: FloatArray
    """`[P]` as in the Snapshot."""
    route: FloatArray
    """`[C, P]` that was in force."""
    tick: TickTally
    caused: ScalingSeconds
    """Of `starting_s`, `draining_s` and `asleep_s`: by which decisions. Draining counts whole, busy or not."""


def nothing_known(n_pools: int) -> BusyShare:
    """Before the first pages."""
    return BusyShare(np.full(n_pools, np.nan), np.full(n_pools, np.nan))


def busy_share(
    cluster: Cluster, readings: Sequence[ReplicaReading], before: BusyShare, gpu_util_frac: FloatArray | None = None
) -> BusyShare:
    """The shares of this tick: means over the replicas whose newest page came now.

    A pool of which no page came keeps the shares of `before`, and one without engines is not busy. Without the busy
    counter, which only emulated replicas have, GPU utilisation stands in: the page's, else `gpu_util_frac` (`[P]`, of a
    source of its own). The useful share then stays NaN until the caller puts in what its model of the hardware believes.
    """
    busy, useful = before.busy_frac.copy(), before.useful_frac.copy()
    for p, name in enumerate(cluster.pool_names):
        pool = [r for r in readings if r.pool == name]
        spent = [_spent(r) for r in pool if not r.error]
        known = [(b, u) for b, u in spent if not math.isnan(b)]
        if known:
            busy[p] = math.fsum(b for b, _ in known) / len(known)
            useful[p] = min(math.fsum(u for _, u in known) / len(known), busy[p])
        elif not pool:
            busy[p] = useful[p] = 0.0
        elif gpu_util_frac is not None and not math.isnan(gpu_util_frac[p]) and any(not r.error for r in pool):
            busy[p], useful[p] = gpu_util_frac[p], math.nan
    return BusyShare(busy, useful)


def _spent(reading: ReplicaReading) -> tuple[float, float]:
    """Busy and useful share of one replica."""
    if reading.use is not None and not math.isnan(reading.use.busy_s):
        return reading.use.busy_frac, reading.use.useful_s / reading.use.span_s
    return (math.nan if reading.page is None else reading.page.gpu_util_frac), math.nan


def meter(used: Used, tariff: Tariff) -> Meter:
    """The meter readings of the tick.

    Replica-seconds add up: useful, wasted, waiting and draining make the whole time up; one that drains is taken to be
    as busy as its pool. A share that is NaN makes those four NaN, and so the dollars of its pool: their sum is known,
    their split is not. Unknown power is NaN only where the tariff asks for it.
    """
    busy_s = used.up_s * used.busy.busy_frac
    useful_s = used.up_s * np.minimum(used.busy.useful_frac, used.busy.busy_frac)
    energy_j = used.power_w * used.span_s
    return Meter(
        usd_per_hr=used.usd_per_hr,
        useful_s=_none_of_nothing(useful_s, used.up_s),
        wasted_s=_none_of_nothing(busy_s - useful_s, used.up_s),
        starting_s=used.starting_s,
        waiting_s=_none_of_nothing((used.up_s - used.draining_s) * (1.0 - used.busy.busy_frac), used.up_s),
        draining_s=_none_of_nothing(used.draining_s * (1.0 - used.busy.busy_frac), used.draining_s),
        asleep_s=used.asleep_s,
        energy_j=energy_j if tariff.usd_per_kwh > 0 else np.nan_to_num(energy_j),
        egress_bytes=used.tick.response_bytes,
        class_work=used.tick.work_tokens,
        class_claim=used.route.T,
    )


def scaling_seconds(used: Used) -> ScalingSeconds:
    """What scaling took in the tick, draining without the time busy, as `meter` has it."""
    caused, busy_frac = used.caused, used.busy.busy_frac
    drained = caused.part == IDLE_PARTS.index("drain")
    idle = np.where(drained, 1.0 - busy_frac[caused.pool], 1.0)
    return replace(caused, seconds=np.where(caused.seconds > 0, caused.seconds * idle, 0.0))


def _none_of_nothing(seconds: FloatArray, up_s: FloatArray) -> FloatArray:
    """A pool that was not up spent no time, whatever its shares."""
    part: FloatArray = np.where(up_s > 0, seconds, 0.0)
    return part
