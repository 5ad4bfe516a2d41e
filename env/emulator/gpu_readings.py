"""What a monitor would read off an emulated replica's GPUs: the simulator's model of draw and warmth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..catalog.gpus import Gpu
from ..sim.power import IDLE_TDP_FRAC, Thermal, power_w, warmed_c

WINDOW_S: Final = 5.0
"""Readings are means over at least so many simulated seconds."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """Of one GPU; those of a replica work in step and read the same."""

    busy_frac: float
    temp_c: float
    power_w: float


class GpuMeter:
    """Turns an engine's busy and useful seconds into readings."""

    def __init__(self, gpu: Gpu, thermal: Thermal | None = None) -> None:
        """An idle GPU at room temperature at time 0."""
        self._thermal = thermal or Thermal()
        # A part whose data sheet names no TDP is taken for the largest air-cooled ones.
        self._tdp_w = gpu.tdp_w or 700.0
        self._at_s = self._busy_s = self._useful_s = 0.0
        self._last = GpuReading(0.0, self._thermal.room_c, self._tdp_w * IDLE_TDP_FRAC)

    def read(self, now_s: float, busy_s: float, useful_s: float) -> GpuReading:
        """The reading at `now_s`, when the engine's totals are `busy_s` and `useful_s`; simulated seconds."""
        span_s = now_s - self._at_s
        if span_s < WINDOW_S:
            return self._last
        busy = min((busy_s - self._busy_s) / span_s, 1.0)
        useful = min((useful_s - self._useful_s) / span_s, busy)
        tdp_w = np.array(self._tdp_w)
        watts = power_w(np.array(busy), np.array(useful), tdp_w, tdp_w * IDLE_TDP_FRAC)
        heat = self._thermal
        temp_c = warmed_c(
            np.array(self._last.temp_c),
            watts,
            tdp_w,
            np.array(heat.room_c),
            np.array(heat.rise_at_tdp_c),
            np.array(heat.time_constant_s),
            span_s,
        )
        self._at_s, self._busy_s, self._useful_s = now_s, busy_s, useful_s
        self._last = GpuReading(busy, float(temp_c), float(watts))
        return self._last
