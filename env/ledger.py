"""Dollars by layer, pool, class and causing decision: the one place where time and energy become money.

The meter readings are counted on their own (busy, useful and idle replica-seconds, watt-hours, bytes); no layer is a
remainder, so that the sum of the layers can be checked against price times replica-hours.

Symbols: `P` pools, `C` classes, `K` parts of the idle layer, `N` rows; `...` an optional leading batch axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from .contract import BILL_LAYERS, IDLE_PARTS, Bill, FloatArray, IntArray, ScalingCost

SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Meter:
    """What was used over a span of time."""

    usd_per_hr: FloatArray
    """`[..., P]` price of one replica during the span."""
    useful_s: FloatArray
    """`[..., P]` replica-seconds that the finished work needs at the hardware's best."""
    wasted_s: FloatArray
    """`[..., P]` replica-seconds busy beyond that: small batches, recomputed tokens, launch overhead."""
    starting_s: FloatArray
    """`[..., P]` replica-seconds rented while the machine or the model was not there yet."""
    waiting_s: FloatArray
    """`[..., P]` replica-seconds ready with nothing running."""
    draining_s: FloatArray
    """`[..., P]` replica-seconds told to go with nothing running any more."""
    asleep_s: FloatArray
    """`[..., P]` replica-seconds paid for while asleep: where only a share of the rent is due, that share of the time."""
    energy_j: FloatArray
    """`[..., P]` joules drawn by the GPUs."""
    egress_bytes: FloatArray
    """`[..., P, C]` bytes sent to clients."""
    class_work: FloatArray
    """`[..., P, C]` tokens processed for each class: how the pool's busy dollars are shared."""
    class_claim: FloatArray
    """`[..., P, C]` share of the pool each class was routed: how its idle dollars are shared."""


@dataclass(frozen=True)
class Tariff:
    """What energy and bytes cost; zero where somebody else pays."""

    usd_per_kwh: FloatArray
    """`[...]`"""
    pue: FloatArray
    """`[...]` power usage effectiveness: watts at the meter for each watt at the GPU."""
    egress_usd_per_gb: FloatArray
    """`[...]`"""


@dataclass(frozen=True)
class ScalingSeconds:
    """Replica-seconds that scaling took: starting, draining with nothing to do, and asleep (as in `Meter`). `N` rows."""

    cluster: IntArray
    """`[N]` row of the batch; 0 where there is none."""
    tick: IntArray
    """`[N]` of the decision that caused it, or `NO_DECISION`."""
    pool: IntArray
    """`[N]`"""
    part: IntArray
    """`[N]` place in `IDLE_PARTS`."""
    seconds: FloatArray
    """`[N]`"""


@dataclass(frozen=True)
class ScalingCosts:
    """The dollars of `ScalingSeconds`, row by row."""

    of: ScalingSeconds
    usd: FloatArray
    """`[N]`"""

    def rows(self, pool_names: Sequence[str], cluster: int = 0) -> tuple[ScalingCost, ...]:
        """Those of one cluster, one for each decision, pool and part."""
        of = self.of
        own = np.flatnonzero(of.cluster == cluster)
        return summed(
            ScalingCost(int(of.tick[i]), pool_names[of.pool[i]], IDLE_PARTS[of.part[i]], float(self.usd[i]))
            for i in own
        )


def charge(meter: Meter, tariff: Tariff) -> Bill:
    """The bill of a span. Busy dollars follow the work done, idle dollars the routing that kept the pool up."""
    usd_per_s = meter.usd_per_hr / SECONDS_PER_HOUR
    by_claim = _shares(meter.class_claim)
    by_work = np.where(meter.class_work.sum(axis=-1, keepdims=True) > 0, _shares(meter.class_work), by_claim)
    energy_usd = meter.energy_j / JOULES_PER_KWH * (tariff.usd_per_kwh * tariff.pue)[..., None]
    idle_s = np.stack([meter.starting_s, meter.waiting_s, meter.draining_s, meter.asleep_s], axis=-1)
    idle_usd = (usd_per_s[..., None] * idle_s)[..., None, :] * by_claim[..., None]
    layers = {
        "compute": (usd_per_s * meter.useful_s)[..., None] * by_work,
        "software": (usd_per_s * meter.wasted_s)[..., None] * by_work,
        "idle": idle_usd.sum(axis=-1),
        "energy": energy_usd[..., None] * by_work,
        "network": meter.egress_bytes / 1e9 * tariff.egress_usd_per_gb[..., None, None],
    }
    return Bill(usd=np.stack([layers[name] for name in BILL_LAYERS], axis=-1), idle_usd=idle_usd)


def scaling_seconds_of(rows: Iterable[tuple[int, str, str, float]], pool_names: Sequence[str]) -> ScalingSeconds:
    """One cluster's rows, given as (tick, pool, part of the idle layer, seconds)."""
    columns = [(tick, pool_names.index(pool), IDLE_PARTS.index(part), seconds) for tick, pool, part, seconds in rows]
    ticks, pools, parts, seconds = zip(*columns, strict=True) if columns else ((), (), (), ())
    whole = np.zeros(len(columns), dtype=np.int64)
    return ScalingSeconds(
        cluster=whole,
        tick=np.array(ticks, dtype=np.int64),
        pool=np.array(pools, dtype=np.int64),
        part=np.array(parts, dtype=np.int64),
        seconds=np.array(seconds, dtype=np.float64),
    )


def charge_scaling(seconds: ScalingSeconds, usd_per_hr: FloatArray) -> ScalingCosts:
    """What scaling cost, each row at its pool's price `usd_per_hr` (`[P]`, or `[B, P]` for a batch).

    Together the rows of a part are what the bill says of that part.
    """
    prices = np.atleast_2d(usd_per_hr)
    usd: FloatArray = prices[seconds.cluster, seconds.pool] / SECONDS_PER_HOUR * seconds.seconds
    return ScalingCosts(seconds, usd)


def joined(costs: Sequence[ScalingCosts]) -> ScalingCosts:
    """The rows of several spans, one after the other."""
    columns = {f.name: np.concatenate([getattr(cost.of, f.name) for cost in costs]) for f in fields(ScalingSeconds)}
    return ScalingCosts(ScalingSeconds(**columns), np.concatenate([cost.usd for cost in costs]))


def summed(costs: Iterable[ScalingCost]) -> tuple[ScalingCost, ...]:
    """One row for each decision, pool and part, in the order of decisions."""
    totals: dict[tuple[int, str, str], float] = {}
    for cost in costs:
        key = (cost.tick, cost.pool, cost.part)
        totals[key] = totals.get(key, 0.0) + cost.usd
    return tuple(ScalingCost(tick, pool, part, usd) for (tick, pool, part), usd in sorted(totals.items()))


def dearest(costs: Iterable[ScalingCost], most: int) -> tuple[dict[str, float | int | str], ...]:
    """The decisions whose scaling cost most, dearest first: tick, pool, dollars, and dollars by part.

    What no decision caused is left out.
    """
    decisions: dict[tuple[int, str], dict[str, float]] = {}
    for cost in costs:
        if cost.tick >= 0 and cost.usd > 0.0:
            parts = decisions.setdefault((cost.tick, cost.pool), {})
            parts[cost.part] = parts.get(cost.part, 0.0) + cost.usd
    order = sorted(decisions.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return tuple(
        {"tick": tick, "pool": pool, "usd": sum(parts.values()), **{f"usd_{part}": usd for part, usd in parts.items()}}
        for (tick, pool), parts in order[:most]
    )


def dearest_rows(costs: Iterable[ScalingCost], most: int) -> tuple[ScalingCost, ...]:
    """`summed`, with the rows of the `most` dearest decisions only; the newest decision always stays."""
    rows = summed(costs)
    if len({(row.tick, row.pool) for row in rows}) <= most:
        return rows
    newest = max(row.tick for row in rows)
    kept = {(decision["tick"], decision["pool"]) for decision in dearest(rows, most)}
    return tuple(row for row in rows if row.tick == newest or (row.tick, row.pool) in kept)


def _shares(amounts: FloatArray) -> FloatArray:
    """`[..., P, C]` rows that sum to 1; equal where nothing is claimed."""
    total = amounts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: FloatArray = np.where(total > 0, amounts / total, 1.0 / amounts.shape[-1])
    return shares
