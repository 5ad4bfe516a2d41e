"""Watts and degrees of a replica from what its engine did. All figures are per GPU unless said otherwise.

Symbols: `...` any shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contract import BoolArray, FloatArray

IDLE_TDP_FRAC = 0.15
"""Draw of an idle GPU that holds a model, share of TDP. Assumption: no measured source was at hand."""
BUSY_LOW_TDP_FRAC = 0.65
"""Draw while busy with small batches, share of TDP: median of ML.ENERGY v3, H100, batch below 16."""
BUSY_HIGH_TDP_FRAC = 0.80
"""Draw while busy with full batches, share of TDP: median of ML.ENERGY v3, H100, batch 64 and more (0.79)."""


@dataclass(frozen=True)
class Thermal:
    """How a GPU warms: one resistance and one capacity. Assumptions, chosen to look like air-cooled servers."""

    room_c: float = 25.0
    rise_at_tdp_c: float = 55.0
    """Steady temperature above the room at TDP."""
    time_constant_s: float = 60.0
    slow_above_c: float = 90.0
    """The GPU lowers its clock above this, until it is `recover_c` cooler."""
    recover_c: float = 5.0
    slow_factor: float = 1.25
    """Iterations of a throttled GPU take this many times as long."""


def power_w(busy_frac: FloatArray, useful_frac: FloatArray, tdp_w: FloatArray, idle_w: FloatArray) -> FloatArray:
    """`[...]` mean draw of a GPU that was busy for a share of the time and did useful work in another (smaller) share.

    While busy it draws between the two measured levels, by how full its iterations were.
    """
    fullness = np.divide(useful_frac, busy_frac, out=np.zeros_like(useful_frac), where=busy_frac > 0)
    busy_w = tdp_w * (BUSY_LOW_TDP_FRAC + (BUSY_HIGH_TDP_FRAC - BUSY_LOW_TDP_FRAC) * np.clip(fullness, 0.0, 1.0))
    watts: FloatArray = idle_w + (busy_w - idle_w) * busy_frac
    return watts


def warmed_c(
    temp_c: FloatArray,
    watts: FloatArray,
    tdp_w: FloatArray,
    room_c: FloatArray,
    rise_at_tdp_c: FloatArray,
    time_constant_s: FloatArray,
    elapsed_s: float,
) -> FloatArray:
    """`[...]` temperature after `elapsed_s` at this draw: exact for a first-order system under constant power."""
    steady_c = room_c + rise_at_tdp_c * np.divide(watts, tdp_w, out=np.zeros_like(watts), where=tdp_w > 0)
    warmed: FloatArray = steady_c + (temp_c - steady_c) * np.exp(-elapsed_s / time_constant_s)
    return warmed


def throttles(was: BoolArray, temp_c: FloatArray, slow_above_c: FloatArray, recover_c: FloatArray) -> BoolArray:
    """`[...]` whether the clock is lowered, with hysteresis."""
    result: BoolArray = (temp_c > slow_above_c) | (was & (temp_c > slow_above_c - recover_c))
    return result
