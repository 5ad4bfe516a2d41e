"""Many iterations at once: where only decoding goes on, times are an arithmetic progression and have a closed sum.

Leaping gives the very bits that iterating gives, because all is counted in whole picoseconds, and a leap ends before
anything could happen that iterations would decide.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from ..perf.law import ROW_BEST_TOKEN_S, ROW_KV_READ_S, ROW_SEQ_S
from .batching import admissible_chunk, finish_due, linear_ps, phase_of
from .caching import use_blocks
from .engine_state import Engine, compiled, inlined


class Stretch(NamedTuple):
    """Iterations ahead in which the same sequences decode and nothing else happens before the last has ended."""

    steps: int
    first_ps: int
    growth_ps: int
    """Each iteration takes this much longer than the one before."""


@inlined
def stretch_ahead(engine: Engine, replica: int) -> Stretch:
    """The longest run of iterations whose course is settled: up to a finish or a lack of blocks; 0 steps if none."""
    rep, law = engine.replicas[replica], engine.laws[replica]
    count = int(rep.decoding)
    if count == 0 or rep.running > count or count > rep.token_budget:
        return Stretch(0, 0, 0)
    free = rep.blocks_total - rep.blocks_used
    growing = engine.phases[replica, phase_of(engine, replica, 0)]
    # Free blocks only become fewer until somebody finishes, and what others hold stays: who cannot be admitted now cannot
    # be before that. Only where the first chunk suffices, a shorter hit may let it reach less far.
    if growing > free or admissible_chunk(engine, replica, rep.token_budget - count, free - growing)[0] > 0:
        return Stretch(0, 0, 0)
    if rep.prefix_caching and not rep.reserve_prompt and rep.waiting > 0:
        return Stretch(0, 0, 0)
    steps = rep.next_finish_tick - rep.tick
    if count * ((steps >> engine.block_bits) + 1) > free:
        steps = min(steps, _steps_until_full(engine, replica, free))
    growth_ps = law[ROW_KV_READ_S] * count
    first_ps = linear_ps(engine, replica, count) + law[ROW_SEQ_S] * count
    return Stretch(steps, first_ps + law[ROW_KV_READ_S] * (rep.context + count), growth_ps)


@compiled
def _steps_until_full(engine: Engine, replica: int, free: int) -> int:
    """Iterations that the free blocks suffice for, if all decode."""
    rounds = free // engine.replicas[replica].decoding
    free -= rounds * engine.replicas[replica].decoding
    steps = int(rounds << engine.block_bits)
    while True:
        free -= engine.phases[replica, phase_of(engine, replica, -steps)]
        if free < 0:
            return steps
        steps += 1


@compiled
def spent_ps(stretch: Stretch, steps: int) -> int:
    """Time of the first iterations of a stretch."""
    return stretch.first_ps * steps + stretch.growth_ps * (steps * (steps - 1) // 2)


@compiled
def _steps_started(stretch: Stretch, within_ps: int) -> int:
    """How many of its iterations start before `within_ps` (above 0) has passed."""
    if spent_ps(stretch, stretch.steps - 1) < within_ps:
        return stretch.steps
    slope = stretch.first_ps - 0.5 * stretch.growth_ps
    root = sqrt(slope * slope + 2.0 * stretch.growth_ps * within_ps)
    # The float only guesses, written so that nothing cancels; whole numbers decide.
    ended = int(2.0 * within_ps / (slope + root))
    while spent_ps(stretch, ended) >= within_ps:
        ended -= 1
    while spent_ps(stretch, ended + 1) < within_ps:
        ended += 1
    return ended + 1


@inlined
def leap(engine: Engine, replica: int, until_ps: int) -> bool:
    """Pass all iterations of the stretch ahead that start before `until_ps`, at once; false if there is no stretch."""
    rep, law = engine.replicas[replica], engine.laws[replica]
    stretch = stretch_ahead(engine, replica)
    if stretch.steps == 0:
        return False
    steps = _steps_started(stretch, until_ps - rep.clock_ps)
    count = rep.decoding
    best_ps = (law[ROW_BEST_TOKEN_S] + law[ROW_SEQ_S]) * count
    reads = (rep.context + count) * steps + count * (steps * (steps - 1) // 2)
    blocks = (steps >> engine.block_bits) * count
    for step in range(steps & (engine.phases.shape[1] - 1)):
        blocks += engine.phases[replica, phase_of(engine, replica, -step)]
    total_ps = spent_ps(stretch, steps)
    use_blocks(engine, replica, blocks)
    rep.clock_ps += total_ps
    rep.busy_ps += total_ps
    rep.useful_ps += best_ps * steps + law[ROW_KV_READ_S] * reads
    rep.tick += steps
    rep.iterations += steps
    rep.context += count * steps
    rep.generated_tokens += count * steps
    rep.last_start_ps = rep.clock_ps - (stretch.first_ps + stretch.growth_ps * (steps - 1))
    rep.last_useful_ps = best_ps + law[ROW_KV_READ_S] * rep.context
    rep.last_generated = count
    rep.last_scheduled = count
    rep.last_preempted = 0
    rep.last_finished = 0
    if rep.tick == rep.next_finish_tick:
        finish_due(engine, replica)
    return True
