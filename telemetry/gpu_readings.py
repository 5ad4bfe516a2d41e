"""What is known of GPUs, whoever tells it: NVML on the own host, a DCGM exporter's page on others. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

SLOWED_BY_HEAT_OR_POWER: Final = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""Bits of the clocks' event reasons: software power cap, hardware slowdown, software thermal, hardware thermal, power
brake (NVML's `nvmlClocksEventReasons`; DCGM hands on the same bits). Idle, set clocks and sync boost are no harm."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment. NaN: not told."""

    name: str
    """Its UUID, or where it stands."""
    util_frac: float = math.nan
    """0..1 of the last sampling period with a kernel running."""
    memory_used_frac: float = math.nan
    """0..1 of its memory."""
    temp_c: float = math.nan
    power_w: float = math.nan
    throttled: float = math.nan
    """1 if its clocks are held down by heat or power, else 0."""


def slowed(reasons: int) -> float:
    """`GpuReading.throttled` from the bits of the clocks' event reasons."""
    return float(bool(reasons & SLOWED_BY_HEAT_OR_POWER))


@dataclass(frozen=True, slots=True)
class PoolGpus:
    """The GPUs of a pool at a tick."""

    gpus: tuple[GpuReading, ...]
    """From every source's newest good answer."""
    age_s: float
    """Of the oldest of these answers, in the decider's seconds; since the first attempt where none came."""
    complete: bool
    """Whether every source has answered, now or lately."""
    errors: tuple[str, ...] = ()
    """What this tick's answers lack, in words."""

    def columns(self) -> dict[str, float]:
        """The columns of a Snapshot that GPUs tell. Power is a sum: part of it is not it."""
        watts = [gpu.power_w for gpu in self.gpus]
        return {
            "gpu_util_frac": _of_known(_mean, (gpu.util_frac for gpu in self.gpus)),
            "gpu_temp_c": _of_known(max, (gpu.temp_c for gpu in self.gpus)),
            "power_w": math.fsum(watts) if self.complete and watts else math.nan,
            "throttled": _of_known(_mean, (gpu.throttled for gpu in self.gpus)),
        }


def _of_known(together: Callable[[list[float]], float], values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return together(known) if known else math.nan


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
