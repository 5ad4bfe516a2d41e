"""Dollars by layer, pool and class: the one place where time and energy become money.

The meter readings are counted on their own (busy, useful and idle replica-seconds, watt-hours, bytes); no layer is a
remainder, so that the sum of the layers can be checked against price times replica-hours.

Symbols: `P` pools, `C` classes; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import BILL_LAYERS, Bill, FloatArray

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
    """`[..., P]` replica-seconds ready (or draining, or asleep) with nothing running."""
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


def charge(meter: Meter, tariff: Tariff) -> Bill:
    """The bill of a span. Busy dollars follow the work done, idle dollars the routing that kept the pool up."""
    usd_per_s = meter.usd_per_hr / SECONDS_PER_HOUR
    by_claim = _shares(meter.class_claim)
    by_work = np.where(meter.class_work.sum(axis=-1, keepdims=True) > 0, _shares(meter.class_work), by_claim)
    energy_usd = meter.energy_j / JOULES_PER_KWH * (tariff.usd_per_kwh * tariff.pue)[..., None]
    layers = {
        "compute": (usd_per_s * meter.useful_s)[..., None] * by_work,
        "software": (usd_per_s * meter.wasted_s)[..., None] * by_work,
        "idle": (usd_per_s * (meter.starting_s + meter.waiting_s))[..., None] * by_claim,
        "energy": energy_usd[..., None] * by_work,
        "network": meter.egress_bytes / 1e9 * tariff.egress_usd_per_gb[..., None, None],
    }
    return Bill(usd=np.stack([layers[name] for name in BILL_LAYERS], axis=-1))


def _shares(amounts: FloatArray) -> FloatArray:
    """`[..., P, C]` rows that sum to 1; equal where nothing is claimed."""
    total = amounts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: FloatArray = np.where(total > 0, amounts / total, 1.0 / amounts.shape[-1])
    return shares
