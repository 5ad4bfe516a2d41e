"""Continuous batching as vLLM's V1 scheduler does it, one iteration or one stretch of decoding at a time.

Running requests share the token budget first, in the order of admission: a decoding one takes a token, one in prefill a
chunk. Then waiting ones are admitted, first come first served. A running request that gets no KV block throws out the
last one running (perhaps itself), which goes back to the front of the queue and will recompute all its tokens; nobody is
admitted in such an iteration. Prefix caching, speculation and priorities are not modelled.

Work per iteration does not grow with the batch, except when a request finishes or memory or budget are short: decoding
sequences all advance by one together, so their lengths follow from the replica's `tick`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..perf.law import GRID_POINTS, ROW_ATTEND_S, ROW_BEST_TOKEN_S, ROW_KV_READ_S, ROW_LINEAR_S, ROW_SEQ_S, TOKENS_GRID
from .engine_state import DECODING, FINISHED, NEVER_PS, NONE, PREFILLING, WAITING, Engine, compiled

_GRID = TOKENS_GRID.astype(np.int64)


class Work(NamedTuple):
    """What one iteration computes."""

    decodes: int
    context: int
    """KV tokens that the decoding sequences read."""
    prefill: int
    prefill_square: int
    """Twice the pairs of tokens that prefill attends: a chunk from a to b has b² - a²."""
    fresh: int
    """Of `prefill`, tokens never computed before."""
    fresh_square: int


@compiled
def linear_ps(engine: Engine, replica: int, tokens: int) -> int:
    """The law's linear part, in whole numbers throughout."""
    low, high = 0, GRID_POINTS - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if _GRID[middle] <= tokens:
            low = middle
        else:
            high = middle
    start = engine.laws[replica, ROW_LINEAR_S + low]
    rise = engine.laws[replica, ROW_LINEAR_S + high] - start
    return int(start + rise * max(tokens - _GRID[low], 0) // (_GRID[high] - _GRID[low]))


@compiled
def blocks_for(engine: Engine, tokens: int) -> int:
    """KV blocks that hold so many tokens of one request."""
    return (tokens + (1 << engine.block_bits) - 1) >> engine.block_bits


@compiled
def tokens_held(engine: Engine, replica: int, place: int) -> int:
    """KV tokens of the running request at this place of the batch."""
    row = engine.requests[engine.running[replica, place]]
    if row.state != DECODING:
        return int(row.computed)
    ticks_left = engine.finish_tick[replica, place] - engine.replicas[replica].tick
    return int(row.prompt + row.output - 1 - ticks_left)


@compiled
def phase_of(engine: Engine, replica: int, tokens: int) -> int:
    """Column of `phases` for a sequence with so many KV tokens now."""
    return int((tokens - engine.replicas[replica].tick) & (engine.phases.shape[1] - 1))


@compiled
def push_back(engine: Engine, replica: int, request: int) -> None:
    """Append to the waiting queue."""
    rep, row = engine.replicas[replica], engine.requests[request]
    row.previous = rep.waiting_tail
    row.next = NONE
    if rep.waiting_tail == NONE:
        rep.waiting_head = request
    else:
        engine.requests[rep.waiting_tail].next = request
    rep.waiting_tail = request
    rep.waiting += 1


@compiled
def push_front(engine: Engine, replica: int, request: int) -> None:
    """Put before all others in the waiting queue."""
    rep, row = engine.replicas[replica], engine.requests[request]
    row.previous = NONE
    row.next = rep.waiting_head
    if rep.waiting_head == NONE:
        rep.waiting_tail = request
    else:
        engine.requests[rep.waiting_head].previous = request
    rep.waiting_head = request
    rep.waiting += 1


@compiled
def unlink(engine: Engine, replica: int, request: int) -> None:
    """Take out of the waiting queue."""
    rep, row = engine.replicas[replica], engine.requests[request]
    if row.previous == NONE:
        rep.waiting_head = row.next
    else:
        engine.requests[row.previous].next = row.next
    if row.next == NONE:
        rep.waiting_tail = row.previous
    else:
        engine.requests[row.next].previous = row.previous
    rep.waiting -= 1


@compiled
def vacate(engine: Engine, replica: int, place: int) -> None:
    """Free the KV blocks of a running request and keep what it has computed; its place stays to be closed."""
    rep, row = engine.replicas[replica], engine.requests[engine.running[replica, place]]
    held = tokens_held(engine, replica, place)
    if row.state == DECODING:
        engine.phases[replica, phase_of(engine, replica, held)] -= 1
        rep.context -= held
        rep.decoding -= 1
        row.generated = held - row.prompt + 1
    rep.blocks_used -= blocks_for(engine, held)
    row.computed = 0
    row.peak = max(row.peak, held)


@compiled
def preempt_last(engine: Engine, replica: int) -> None:
    """Throw the last running request out of the KV cache, to the front of the queue."""
    rep = engine.replicas[replica]
    place = rep.running - 1
    request = engine.running[replica, place]
    vacate(engine, replica, place)
    rep.running -= 1
    rep.sequence_preemptions += 1
    rep.last_preempted += 1
    engine.requests[request].preemptions += 1
    engine.requests[request].state = WAITING
    push_front(engine, replica, request)


@compiled
def _decode_scarce(engine: Engine, replica: int) -> tuple[int, int]:
    """Give decoding sequences their token one by one, where blocks or budget do not suffice for all.

    Returns:
        How many advance, and their KV tokens.
    """
    rep = engine.replicas[replica]
    mask = engine.phases.shape[1] - 1
    place, context = 0, 0
    while place < min(rep.decoding, rep.token_budget):
        held = tokens_held(engine, replica, place)
        if held & mask == 0:
            while rep.blocks_used == rep.blocks_total and rep.running > place:
                preempt_last(engine, replica)
            if rep.running <= place:
                break
            rep.blocks_used += 1
        context += held
        place += 1
    for starved in range(place, rep.decoding):
        phase = phase_of(engine, replica, tokens_held(engine, replica, starved))
        engine.phases[replica, phase] -= 1
        engine.phases[replica, (phase - 1) & mask] += 1
        engine.finish_tick[replica, starved] += 1
    return place, context


@compiled
def _compute_chunk(engine: Engine, replica: int, request: int, chunk: int) -> tuple[int, int, int]:
    """Prefill a chunk, for which there is room.

    Returns:
        `prefill_square`, `fresh` and `fresh_square` of `Work`.
    """
    rep, row = engine.replicas[replica], engine.requests[request]
    start = int(row.computed)
    end = start + chunk
    fresh_start = max(start, min(int(row.peak), end))
    rep.blocks_used += blocks_for(engine, end) - blocks_for(engine, start)
    rep.prompt_tokens += max(min(int(row.prompt), end) - fresh_start, 0)
    rep.recomputed_tokens += fresh_start - start
    row.computed = end
    return end * end - start * start, end - fresh_start, end * end - fresh_start * fresh_start


@compiled
def admissible_chunk(engine: Engine, replica: int, budget_left: int, blocks_free: int) -> int:
    """Tokens of its prefill that the first waiting request may compute now; 0 if it must wait."""
    rep = engine.replicas[replica]
    if rep.waiting == 0 or budget_left <= 0 or rep.running >= rep.cap:
        return 0
    row = engine.requests[rep.waiting_head]
    whole = row.prompt + row.generated
    chunk = min(whole, budget_left)
    return int(chunk) if blocks_for(engine, whole if rep.reserve_prompt else chunk) <= blocks_free else 0


@compiled
def schedule(engine: Engine, replica: int) -> Work:
    """Decide the next iteration: allocate its blocks, preempt, admit. There must be somebody running or waiting."""
    rep = engine.replicas[replica]
    rep.last_preempted = 0
    decodes, context = int(rep.decoding), int(rep.context)
    growing = engine.phases[replica, phase_of(engine, replica, 0)]
    if decodes > rep.token_budget or growing > rep.blocks_total - rep.blocks_used:
        decodes, context = _decode_scarce(engine, replica)
    else:
        rep.blocks_used += growing
    left = int(rep.token_budget) - decodes
    scheduled, square, fresh, fresh_square = decodes, 0, 0, 0
    if rep.running > rep.decoding and left > 0:
        request = engine.running[replica, rep.decoding]
        row = engine.requests[request]
        chunk = min(row.prompt + row.generated - row.computed, left)
        more = blocks_for(engine, row.computed + chunk) - blocks_for(engine, row.computed)
        if more > rep.blocks_total - rep.blocks_used:
            preempt_last(engine, replica)
        else:
            square, fresh, fresh_square = _compute_chunk(engine, replica, request, chunk)
            left -= chunk
            scheduled += 1
    while rep.last_preempted == 0:
        chunk = admissible_chunk(engine, replica, left, rep.blocks_total - rep.blocks_used)
        if chunk == 0:
            break
        request = rep.waiting_head
        unlink(engine, replica, request)
        engine.requests[request].state = PREFILLING
        engine.running[replica, rep.running] = request
        rep.running += 1
        more_square, more_fresh, more_fresh_square = _compute_chunk(engine, replica, request, chunk)
        square += more_square
        fresh += more_fresh
        fresh_square += more_fresh_square
        left -= chunk
        scheduled += 1
    rep.last_scheduled = scheduled
    return Work(decodes, context + decodes, int(rep.token_budget) - decodes - left, square, fresh, fresh_square)


@compiled
def complete(engine: Engine, replica: int, work: Work) -> None:
    """Let the scheduled iteration pass: clock, tokens, first tokens, finishes."""
    rep, law = engine.replicas[replica], engine.laws[replica]
    reading_ps = law[ROW_KV_READ_S] * work.context + law[ROW_SEQ_S] * work.decodes
    pair_fs = law[ROW_ATTEND_S]
    spent_ps = linear_ps(engine, replica, work.prefill + work.decodes) + reading_ps
    spent_ps += pair_fs * work.prefill_square // 2000
    useful_ps = law[ROW_BEST_TOKEN_S] * (work.fresh + work.decodes) + reading_ps + pair_fs * work.fresh_square // 2000
    rep.last_start_ps = rep.clock_ps
    rep.clock_ps += spent_ps
    rep.busy_ps += spent_ps
    rep.useful_ps += useful_ps
    rep.last_useful_ps = useful_ps
    rep.iterations += 1
    rep.tick += 1
    rep.context += work.decodes
    rep.last_finished = 0
    rep.last_generated = work.decodes
    for place in range(rep.decoding, rep.running):
        if not _end_prefill(engine, replica, place):
            break
    rep.generated_tokens += rep.last_generated
    if rep.next_finish_tick == rep.tick:
        finish_due(engine, replica)


@compiled
def _end_prefill(engine: Engine, replica: int, place: int) -> bool:
    """Turn the request at this place, the first that does not decode, into a decoding one if it has no more to prefill."""
    rep, row = engine.replicas[replica], engine.requests[engine.running[replica, place]]
    if row.computed < row.prompt + row.generated:
        return False
    if row.output > 0:
        row.generated += 1
        rep.last_generated += 1
        if row.first_token_ps < 0:
            row.first_token_ps = rep.clock_ps
    finish_tick = rep.tick + row.output - row.generated
    engine.finish_tick[replica, place] = finish_tick
    rep.next_finish_tick = min(rep.next_finish_tick, finish_tick)
    if finish_tick > rep.tick:
        row.state = DECODING
        engine.phases[replica, phase_of(engine, replica, row.computed)] += 1
        rep.context += row.computed
    # Also counted when it is done already: it stands among the decoding ones until it is taken out below.
    rep.decoding += 1
    return True


@compiled
def finish_due(engine: Engine, replica: int) -> None:
    """Take those out that are done at this tick, keep the order of the others, and find who is next."""
    rep = engine.replicas[replica]
    decoding, kept, nearest = int(rep.decoding), 0, NEVER_PS
    for place in range(rep.running):
        request, finish_tick = engine.running[replica, place], engine.finish_tick[replica, place]
        if place < decoding:
            if finish_tick == rep.tick:
                _finish(engine, replica, place)
                continue
            nearest = min(nearest, finish_tick)
        engine.running[replica, kept] = request
        engine.finish_tick[replica, kept] = finish_tick
        kept += 1
    rep.decoding = decoding - (rep.running - kept)
    rep.running = kept
    rep.next_finish_tick = nearest


@compiled
def _finish(engine: Engine, replica: int, place: int) -> None:
    """Free a request that is done and append it to the finished ones."""
    rep, request = engine.replicas[replica], engine.running[replica, place]
    row = engine.requests[request]
    vacate(engine, replica, place)
    row.state = FINISHED
    row.finish_ps = rep.clock_ps
    row.next = NONE
    if rep.finished_head == NONE:
        rep.finished_head = request
    else:
        engine.requests[rep.finished_tail].next = request
    rep.finished_tail = request
    rep.finished += 1
    rep.last_finished += 1
