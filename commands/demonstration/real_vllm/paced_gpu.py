"""The warmth of the GPU that a paced vLLM server stands for, on the server's own metrics page.

    --middleware paced_gpu.GpuMetrics

in place of `poolpilot_engine.CapMetrics`, whose lines it has too. The pacing scheduler tells how long the GPU was busy;
a GPU draws its TDP while it is, and its temperature nears the room's plus what that draw adds, with one time constant
(the simulator's model, `env/sim/power.py`). Standard library and the engine plugin only: it lives in vLLM's processes.

One environment variable, `POOLPILOT_PACED_GPU`, holds the fields of `Gpu` as JSON.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from poolpilot_engine import CapMetrics

VARIABLE = "POOLPILOT_PACED_GPU"
_TELL_EVERY_S = 1.0


@dataclass(frozen=True)
class Gpu:
    """What a card draws and how it warms."""

    idle_w: float
    tdp_w: float
    room_c: float
    rise_at_tdp_c: float
    """Steady temperature above the room at TDP."""
    time_constant_s: float
    folder: str
    """Through which the engine tells the API server."""

    def watts(self, busy_frac: float) -> float:
        """Mean draw."""
        return self.idle_w + (self.tdp_w - self.idle_w) * busy_frac

    def warmed_c(self, temp_c: float, span_s: float, busy_frac: float) -> float:
        """Temperature after a span of so much work: exact for a first-order system."""
        steady_c = self.room_c + self.rise_at_tdp_c * self.watts(busy_frac) / self.tdp_w
        return steady_c + (temp_c - steady_c) * math.exp(-span_s / self.time_constant_s)


def gpu_of_environment() -> Gpu | None:
    """The card that this server stands for; None if the environment names none."""
    text = os.environ.get(VARIABLE)
    return Gpu(**json.loads(text)) if text else None


class Warmth:
    """Of one GPU, as its engine keeps it."""

    def __init__(self, gpu: Gpu, now_s: float) -> None:
        """At the room's temperature, idle."""
        self._gpu, self._at_s = gpu, now_s
        self._temp_c = gpu.warmed_c(gpu.room_c, math.inf, 0.0)
        self._busy_s = 0.0
        self._path = Path(gpu.folder) / f"{os.getppid()}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def worked(self, busy_s: float, now_s: float) -> None:
        """It was busy for so long, up to `now_s`; told now and then."""
        self._busy_s += busy_s
        span_s = now_s - self._at_s
        if span_s < _TELL_EVERY_S:
            return
        busy_frac = min(self._busy_s / span_s, 1.0)
        self._temp_c = self._gpu.warmed_c(self._temp_c, span_s, busy_frac)
        self._at_s, self._busy_s = now_s, 0.0
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            part.write_text(json.dumps({"at_s": now_s, "temp_c": self._temp_c, "busy_frac": busy_frac}))
            part.replace(self._path)


class GpuMetrics(CapMetrics):  # type: ignore[misc]
    """The engine plugin's lines, and the GPU's."""

    def lines(self) -> bytes:
        """What is added to the page."""
        gpu = gpu_of_environment()
        own: bytes = super().lines()
        return own if gpu is None else own + _page(gpu)


def _page(gpu: Gpu) -> bytes:
    temp_c, busy_frac = gpu.warmed_c(gpu.room_c, math.inf, 0.0), 0.0
    with suppress(OSError, ValueError):
        told = json.loads((Path(gpu.folder) / f"{os.getpid()}.json").read_text())
        since_s = time.monotonic() - told["at_s"]
        # An engine without work says nothing: its GPU cools.
        busy_frac = told["busy_frac"] if since_s < 2 * _TELL_EVERY_S else 0.0
        temp_c = gpu.warmed_c(told["temp_c"], since_s, busy_frac)
    values = {
        "poolpilot_gpu_utilization_ratio": busy_frac,
        "poolpilot_gpu_temperature_celsius": temp_c,
        "poolpilot_gpu_power_watts": gpu.watts(busy_frac),
    }
    return "".join(f'# TYPE {name} gauge\n{name}{{gpu="0"}} {value!r}\n' for name, value in values.items()).encode()
