"""Watts and degrees of replicas' GPUs, once a tick, in closed form: what they did decides what they drew, and that how
warm they are.

A GPU is one thermal resistance and one capacity: at constant draw its temperature nears room + rise_at_tdp * draw / TDP
with its time constant. Above a limit it lowers its clock until it is clearly cooler. Where a replica's GPUs differ,
each stage draws its own power, and the warmth that counts is that of the stage which nears the highest temperature.
`sim` is one cluster (`state.of_cluster`), changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from ..perf.law import ROW_BEST_TOKEN_S
from ..perf.power import drawn_j
from .compiling import inner
from .engine_state import PS_PER_S
from .state import GONE, Clusters


@dataclass(frozen=True)
class Thermal:
    """How a GPU warms, and what it does about it. Assumptions, chosen to look like air-cooled servers."""

    rise_at_tdp_c: float = 55.0
    """Steady temperature above the room at TDP."""
    time_constant_s: float = 60.0
    slow_above_c: float = 90.0
    """The GPU lowers its clock above this, until it is `recover_c` cooler."""
    recover_c: float = 5.0
    slow_factor: float = 1.25
    """Iterations of a throttled GPU take this many times as long."""


def warmed_c(temp_c: float, steady_c: float, span_s: float, time_constant_s: float) -> float:
    """The temperature after `span_s` on the way to a steady one: exact for a first-order system."""
    return steady_c + (temp_c - steady_c) * exp(-span_s / time_constant_s)


_drawn_j, _warmed_c = inner(drawn_j), inner(warmed_c)


@inner
def start_cool(sim: Clusters, slot: int) -> None:
    """A machine that was just rented: at room temperature, at full clock."""
    row = sim.slots[slot]
    row.temp_c = sim.pools[row.pool].room_c
    row.slow = 0


@inner
def pass_heat(sim: Clusters, tick_ps: int) -> None:
    """Charge each slot's joules of the tick that its spans tell, warm or cool it, and lower or raise its clock."""
    for pool in range(len(sim.pools)):
        own = sim.pools[pool]
        own.energy_j = 0.0
        for slot in range(own.slot_from, own.slot_to):
            row = sim.slots[slot]
            if row.rented_ps == 0:
                continue
            energy_j, rise_c = _drawn(sim, slot, row.rented_ps / PS_PER_S)
            own.energy_j += energy_j
            if row.state != GONE:
                row.temp_c = _warmed_c(row.temp_c, own.room_c + rise_c, tick_ps / PS_PER_S, own.time_constant_s)
                _set_clock(sim, slot)


@inner
def _drawn(sim: Clusters, slot: int, span_s: float) -> tuple[float, float]:
    """Joules of all of the slot's GPUs in the tick, of which it was rented `span_s`, and degrees above the room that the
    hottest of them would reach at that draw."""
    row, rep = sim.slots[slot], sim.engine.replicas[slot]
    own = sim.pools[row.pool]
    iterations = rep.iterations - row.iterations_drawn
    # What a machine that vanished had not finished is taken back: nothing is drawn for less than nothing.
    fresh = max(rep.prompt_tokens + rep.generated_tokens - row.fresh_drawn, 0)
    again = rep.recomputed_tokens - row.again_drawn
    row.iterations_drawn = rep.iterations
    row.fresh_drawn = rep.prompt_tokens + rep.generated_tokens
    row.again_drawn = rep.recomputed_tokens
    busy_ps = row.useful_ps + row.wasted_ps
    # What useful time is left after the matrix products is reading the KV cache; on a lowered clock both take longer.
    best_ps = sim.engine.laws[slot, ROW_BEST_TOKEN_S] * fresh
    attention_ps = max(row.useful_ps - best_ps, 0) / (own.slow_factor if row.slow else 1.0)
    energy_j, rise_c = 0.0, 0.0
    for i in range(own.draw_from, own.draw_to):
        draw = sim.draws[i]
        one_j = _drawn_j(
            draw,
            span_s,
            busy_ps / PS_PER_S,
            float(iterations),
            float(fresh + again),
            attention_ps / PS_PER_S,
        )
        energy_j += one_j * draw.gpus
        rise_c = max(rise_c, draw.rise_c_per_w * one_j / span_s)
    return energy_j, rise_c


@inner
def _set_clock(sim: Clusters, slot: int) -> None:
    """Lower the clock of a GPU that became hot, and raise it when it is cool again: with hysteresis, at once."""
    row = sim.slots[slot]
    own = sim.pools[row.pool]
    limit_c = own.slow_above_c - own.recover_c if row.slow else own.slow_above_c
    hot = row.temp_c > limit_c
    if hot != (row.slow != 0):
        row.slow = 1 if hot else 0
        factor = own.slow_factor if hot else 1.0
        law = sim.laws[row.pool]
        for i in range(len(law)):
            sim.engine.laws[slot, i] = round(law[i] * factor)
