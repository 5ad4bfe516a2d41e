"""The page of NVIDIA's DCGM exporter as GPU readings. Pure.

Field names: dcgm-exporter's `etc/default-counters.csv` and DCGM's field identifiers. The reasons of throttling are not
among its default counters: `DCGM_FI_DEV_CLOCKS_EVENT_REASONS` (before DCGM 4 `..._CLOCK_THROTTLE_REASONS`) must be added
to its list for `throttled` to be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from prometheus_client.samples import Sample

from .gpu_readings import GpuReading, slowed
from .metrics_page import PageError, Samples, lines_of, mean, number, read_samples

_UTIL_PERCENT: Final = "DCGM_FI_DEV_GPU_UTIL"
_ENGINE_ACTIVE: Final = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_TEMP: Final = "DCGM_FI_DEV_GPU_TEMP"
_POWER: Final = "DCGM_FI_DEV_POWER_USAGE"
_MEMORY: Final = ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED")
_REASONS: Final = ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")
_LINES: Final = lines_of((_UTIL_PERCENT, _ENGINE_ACTIVE, _TEMP, _POWER, *_MEMORY, *_REASONS))
_BLANK: Final = 2.0**47
"""DCGM's "no value" is this or more (DCGM_FP64_BLANK; DCGM_INT64_BLANK is larger)."""


@dataclass(frozen=True, slots=True)
class LabelledGpu:
    """A GPU, and everything that the exporter says about where it stands."""

    reading: GpuReading
    labels: Mapping[str, str]
    """Of one of its samples: gpu, UUID, Hostname, modelName; in Kubernetes pod, namespace, container."""

    def carries(self, patterns: Mapping[str, str]) -> bool:
        """Whether every label fits its shell pattern."""
        return all(fnmatchcase(self.labels.get(key, ""), pattern) for key, pattern in patterns.items())


def parse_dcgm_page(text: str, source: str) -> tuple[LabelledGpu, ...]:
    """The GPUs on a page, in its order. Instances of one GPU (MIG, time slices) are one.

    Raises:
        PageError: the page is cut off, is no DCGM exporter's, or has a value that cannot be.
    """
    found = read_samples(text, _LINES, source)
    if _TEMP not in found and _POWER not in found and _UTIL_PERCENT not in found:
        raise PageError(
            f"{source}: no {_TEMP}, {_POWER} or {_UTIL_PERCENT} in {text.count(chr(10))} lines; "
            "is this the /metrics page of a DCGM exporter that sees a GPU?"
        )
    by_gpu: dict[str, dict[str, list[Sample]]] = {}
    for name, samples in found.items():
        for sample in samples:
            by_gpu.setdefault(_key(sample), {}).setdefault(name, []).append(sample)
    return tuple(_gpu(key, own, source) for key, own in by_gpu.items())


def _key(sample: Sample) -> str:
    """What tells one GPU from another."""
    labels = sample.labels
    return labels.get("UUID") or f"{labels.get('Hostname', '')}/{labels.get('gpu', '')}"


def _gpu(key: str, found: Samples, source: str) -> LabelledGpu:
    def told(name: str, high: float, together: Callable[[Sequence[float]], float] = max, scale: float = 1.0) -> float:
        values = [number(s, high, source, scale) for s in found.get(name, ()) if not s.value >= _BLANK]
        return together(values) if values else math.nan

    util = told(_UTIL_PERCENT, 1.0, mean, 0.01)
    used, free, reserved = (told(name, 1e9) for name in _MEMORY)
    whole = used + free + (0.0 if math.isnan(reserved) else reserved)
    reasons = next((bits for name in _REASONS if not math.isnan(bits := told(name, 2.0**46))), math.nan)
    reading = GpuReading(
        name=key,
        util_frac=told(_ENGINE_ACTIVE, 1.0, mean) if math.isnan(util) else util,
        memory_used_frac=used / whole if whole > 0 else math.nan,
        temp_c=told(_TEMP, 150.0),
        power_w=told(_POWER, 1e5),
        throttled=math.nan if math.isnan(reasons) else slowed(int(reasons)),
    )
    return LabelledGpu(reading, next(iter(found.values()))[0].labels)
