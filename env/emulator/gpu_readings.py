"""What a monitor would read off an emulated replica's GPUs: the simulator's model of draw and warmth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from ..perf.power import Draw, drawn_j
from ..sim.power import Thermal, warmed_c

WINDOW_S: Final = 5.0
"""Readings are means over at least so many simulated seconds."""
ROOM_C: Final = 25.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """Of one GPU; those of a replica work in step and read the same, as far as they are alike."""

    busy_frac: float
    temp_c: float
    power_w: float


class Work(Protocol):
    """An engine's totals (`session.Figures`)."""

    @property
    def busy_s(self) -> float:
        """With an iteration under way."""
        ...

    @property
    def useful_s(self) -> float:
        """What the same work takes at the hardware's best."""
        ...

    @property
    def iterations(self) -> int: ...

    @property
    def fresh_tokens(self) -> int:
        """Prompt and output tokens, each counted once."""
        ...

    @property
    def recomputed_tokens(self) -> int: ...


class GpuMeter:
    """Turns what an engine did into readings."""

    def __init__(self, draw: Draw, best_token_s: float, thermal: Thermal | None = None) -> None:
        """An idle GPU at room temperature at time 0; `best_token_s` as its law has it."""
        self._draw, self._best_token_s, self._thermal = draw, best_token_s, thermal or Thermal()
        self._at_s = self._busy_s = self._useful_s = 0.0
        self._iterations = self._fresh = self._again = 0
        self._last = GpuReading(0.0, ROOM_C, draw.idle_w)

    def read(self, now_s: float, work: Work) -> GpuReading:
        """The reading at `now_s`, when the engine's totals are `work`; simulated seconds."""
        span_s = now_s - self._at_s
        if span_s < WINDOW_S:
            return self._last
        busy_s = min(work.busy_s - self._busy_s, span_s)
        useful_s = min(work.useful_s - self._useful_s, busy_s)
        fresh = max(work.fresh_tokens - self._fresh, 0)
        energy_j = drawn_j(
            self._draw,
            span_s,
            busy_s,
            work.iterations - self._iterations,
            fresh + work.recomputed_tokens - self._again,
            max(useful_s - self._best_token_s * fresh, 0.0),
        )
        heat, watts = self._thermal, energy_j / span_s
        steady_c = ROOM_C + heat.rise_at_tdp_c * watts / self._draw.tdp_w
        temp_c = warmed_c(self._last.temp_c, steady_c, span_s, heat.time_constant_s)
        self._at_s, self._busy_s, self._useful_s = now_s, work.busy_s, work.useful_s
        self._iterations, self._fresh, self._again = work.iterations, work.fresh_tokens, work.recomputed_tokens
        self._last = GpuReading(busy_s / span_s, temp_c, watts)
        return self._last
