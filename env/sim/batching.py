"""Continuous batching as vLLM's V1 scheduler does it, one iteration or one stretch of decoding at a time.

Running requests share the token budget first, in the order of admission: a decoding one takes a token, one in prefill a
chunk. Then waiting ones are admitted in the order of the queue. A running request that gets no KV block throws out
another, which goes back to the queue and will recompute its tokens; nobody is admitted in such an iteration. First come
first served, that is the last one running (perhaps itself). By priority, it is the one that the queue would serve last:
its tokens of this iteration go back into the budget, and if it is the very request that lacks the block, those after it
do nothing in this iteration. Blocks are counted; with prefix caching `caching` also keeps what is in them. Speculation is
not modelled.

Work per iteration does not grow with the batch, except when a request finishes or memory or budget are short: decoding
sequences all advance by one together, so their lengths follow from the replica's `tick`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..perf.law import GRID_POINTS, ROW_ATTEND_S, ROW_BEST_TOKEN_S, ROW_KV_READ_S, ROW_LINEAR_S, ROW_SEQ_S, TOKENS_GRID
from .caching import hit_ahead, let_go, note_full, take_hits, use_blocks
from .engine_state import DECODING, FINISHED, NEVER_PS, NONE, PREFILLING, WAITING, Engine, compiled, inlined
from .queueing import comes_before, push_again, unlink

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


@inlined
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


@inlined
def blocks_for(engine: Engine, tokens: int) -> int:
    """KV blocks that hold so many tokens of one request."""
    return (tokens + (1 << engine.block_bits) - 1) >> engine.block_bits


@inlined
def tokens_held(engine: Engine, replica: int, place: int) -> int:
    """KV tokens of the running request at this place of the batch."""
    row = engine.requests[engine.running[replica, place]]
    if row.state != DECODING:
        return int(row.computed)
    ticks_left = engine.finish_tick[replica, place] - engine.replicas[replica].tick
    return int(row.prompt + row.output - 1 - ticks_left)


@inlined
def phase_of(engine: Engine, replica: int, tokens: int) -> int:
    """Column of `phases` for a sequence with so many KV tokens now."""
    return int((tokens - engine.replicas[replica].tick) & (engine.phases.shape[1] - 1))


@inlined
def vacate(engine: Engine, replica: int, place: int, scheduled: int, returns: bool) -> None:
    """Free the KV blocks of a running request and keep what it has computed; its place stays to be closed.

    Args:
        scheduled: tokens that it already got a place for in the iteration being decided.
        returns: it was preempted, and will come back.
    """
    rep, request = engine.replicas[replica], engine.running[replica, place]
    row = engine.requests[request]
    held = tokens_held(engine, replica, place)
    if row.state == DECODING:
        engine.phases[replica, phase_of(engine, replica, held)] -= 1
        rep.context -= held
        rep.decoding -= 1
        row.generated = held - row.prompt + 1
    blocks = blocks_for(engine, held + scheduled)
    if rep.prefix_caching:
        # As in vLLM, what was about to be computed counts as cached, though it never was; it is the first to be taken.
        let_go(engine, replica, request, blocks, (held + scheduled) >> engine.block_bits, returns)
    else:
        rep.blocks_used -= blocks
    row.computed = 0
    row.peak = max(row.peak, held)


@compiled
def close_place(engine: Engine, replica: int, place: int) -> None:
    """Let those that run after a vacated place move up."""
    rep = engine.replicas[replica]
    rep.running -= 1
    for i in range(place, rep.running):
        engine.running[replica, i] = engine.running[replica, i + 1]
        engine.finish_tick[replica, i] = engine.finish_tick[replica, i + 1]


@compiled
def _preempt(engine: Engine, replica: int, place: int, scheduled: int) -> None:
    """Throw a running request out of the KV cache, back to the queue."""
    rep, request = engine.replicas[replica], engine.running[replica, place]
    vacate(engine, replica, place, scheduled, True)
    close_place(engine, replica, place)
    rep.sequence_preemptions += 1
    rep.last_preempted += 1
    engine.running[replica, engine.running.shape[1] - rep.last_preempted] = request  # for `preempted_last`
    engine.requests[request].preemptions += 1
    engine.requests[request].state = WAITING
    push_again(engine, replica, request)


@compiled
def preempted_last(engine: Engine, replica: int, nth: int) -> int:
    """The requests that the last iteration preempted, in that order from 0: nobody was admitted to their places."""
    return int(engine.running[replica, engine.running.shape[1] - 1 - nth])


@compiled
def _victim(engine: Engine, replica: int) -> int:
    """The place of the running request to be thrown out."""
    rep = engine.replicas[replica]
    chosen = rep.running - 1
    if rep.by_priority:
        for place in range(rep.running - 1):
            if comes_before(engine, engine.running[replica, chosen], engine.running[replica, place]):
                chosen = place
    return int(chosen)


@compiled
def _decode_scarce(engine: Engine, replica: int) -> tuple[int, int, bool]:
    """Give decoding sequences their token one by one, where blocks or budget do not suffice for all.

    Returns:
        How many advance, their KV tokens, and whether one that threw itself out ended the iteration's running part.
    """
    rep = engine.replicas[replica]
    mask = engine.phases.shape[1] - 1
    place, context, stopped = 0, 0, False
    while place < min(rep.decoding, rep.token_budget) and not stopped:
        held = tokens_held(engine, replica, place)
        if held & mask == 0:
            while rep.blocks_used == rep.blocks_total and not stopped:
                victim = _victim(engine, replica)
                if victim < place:
                    context -= tokens_held(engine, replica, victim)
                _preempt(engine, replica, victim, int(victim < place))
                stopped = victim == place
                place -= victim < place
            if stopped:
                break
            use_blocks(engine, replica, 1)
        context += held
        place += 1
    for starved in range(place, rep.decoding):
        phase = phase_of(engine, replica, tokens_held(engine, replica, starved))
        engine.phases[replica, phase] -= 1
        engine.phases[replica, (phase - 1) & mask] += 1
        engine.finish_tick[replica, starved] += 1
    return place, context, stopped


@inlined
def _compute_chunk(engine: Engine, replica: int, place: int, chunk: int) -> tuple[int, int, int]:
    """Prefill a chunk of the request at this place, for which there is room.

    Returns:
        `prefill_square`, `fresh` and `fresh_square` of `Work`.
    """
    rep, request = engine.replicas[replica], engine.running[replica, place]
    row = engine.requests[request]
    engine.finish_tick[replica, place] = chunk
    start = int(row.computed)
    end = start + chunk
    fresh_start = max(start, min(int(row.peak), end))
    use_blocks(engine, replica, blocks_for(engine, end) - blocks_for(engine, start))
    if rep.prefix_caching:
        note_full(engine, replica, request, start >> engine.block_bits, end >> engine.block_bits)
    rep.prompt_tokens += max(min(int(row.prompt), end) - fresh_start, 0)
    rep.recomputed_tokens += fresh_start - start
    row.computed = end
    return end * end - start * start, end - fresh_start, end * end - fresh_start * fresh_start


@inlined
def admissible_chunk(engine: Engine, replica: int, budget_left: int, blocks_free: int) -> tuple[int, int]:
    """Tokens of its prefill that the first waiting request may compute now, after how many cached blocks; 0 if it must wait."""
    rep = engine.replicas[replica]
    if rep.waiting == 0 or budget_left <= 0 or rep.running >= rep.cap:
        return 0, 0
    row = engine.requests[rep.waiting_head]
    whole = row.prompt + row.generated
    if not rep.prefix_caching:
        chunk = min(whole, budget_left)
        return (int(chunk) if blocks_for(engine, whole if rep.reserve_prompt else chunk) <= blocks_free else 0), 0
    hit, loose = hit_ahead(engine, replica, rep.waiting_head)
    start = hit << engine.block_bits
    chunk = min(whole - start, budget_left)
    # What is hit and held by others is there already; what is hit and free is taken out of the free blocks.
    more = blocks_for(engine, whole if rep.reserve_prompt else start + chunk) - (hit - loose)
    return (int(chunk) if more <= blocks_free else 0), hit


@inlined
def schedule(engine: Engine, replica: int) -> Work:
    """Decide the next iteration: allocate its blocks, preempt, admit. There must be somebody running or waiting."""
    rep = engine.replicas[replica]
    rep.last_preempted = 0
    decodes, context, stopped = int(rep.decoding), int(rep.context), False
    growing = engine.phases[replica, phase_of(engine, replica, 0)]
    if decodes > rep.token_budget or growing > rep.blocks_total - rep.blocks_used:
        decodes, context, stopped = _decode_scarce(engine, replica)
    else:
        use_blocks(engine, replica, growing)
    left = int(rep.token_budget) - decodes
    chunks, square, fresh, fresh_square = 0, 0, 0, 0
    if rep.running > rep.decoding and left > 0 and not stopped:
        request = engine.running[replica, rep.decoding]
        row = engine.requests[request]
        chunk = min(row.prompt + row.generated - row.computed, left)
        more = blocks_for(engine, row.computed + chunk) - blocks_for(engine, row.computed)
        while more > rep.blocks_total - rep.blocks_used and not stopped:
            victim = _victim(engine, replica)
            stopped = victim == rep.decoding
            if not stopped:
                context -= tokens_held(engine, replica, victim)
                decodes -= 1
                left += 1
            _preempt(engine, replica, victim, int(not stopped))
        if not stopped:
            square, fresh, fresh_square = _compute_chunk(engine, replica, rep.decoding, chunk)
            left -= chunk
            chunks += 1
    while rep.last_preempted == 0:
        chunk, hit = admissible_chunk(engine, replica, left, rep.blocks_total - rep.blocks_used)
        if chunk == 0:
            break
        more_square, more_fresh, more_fresh_square = _admit(engine, replica, chunk, hit)
        square += more_square
        fresh += more_fresh
        fresh_square += more_fresh_square
        left -= chunk
        chunks += 1
    rep.last_scheduled = decodes + chunks
    return Work(decodes, context + decodes, int(rep.token_budget) - decodes - left, square, fresh, fresh_square)


@inlined
def _admit(engine: Engine, replica: int, chunk: int, hit: int) -> tuple[int, int, int]:
    """Let the first waiting request run, and prefill a chunk after the blocks that it hits; returns as `_compute_chunk`."""
    rep, request = engine.replicas[replica], engine.replicas[replica].waiting_head
    row = engine.requests[request]
    unlink(engine, replica, request)
    row.state = PREFILLING
    engine.running[replica, rep.running] = request
    rep.running += 1
    if rep.prefix_caching:
        take_hits(engine, replica, request, hit)
        row.computed = hit << engine.block_bits
        if row.peak == 0:
            rep.prefix_queries += row.prompt + row.generated
            rep.prefix_hits += row.computed
    return _compute_chunk(engine, replica, rep.running - 1, chunk)


@inlined
def complete(engine: Engine, replica: int, work: Work) -> None:
    """Let the scheduled iteration pass: clock, tokens, first tokens, finishes."""
    rep, law = engine.replicas[replica], engine.laws[replica]
    reading_ps = law[ROW_KV_READ_S] * work.context + law[ROW_SEQ_S] * work.decodes
    pair_fs = law[ROW_ATTEND_S]
    spent_ps = reading_ps
    # By priority, an iteration may only throw out the first one running: nothing is computed, and no time passes.
    if rep.last_scheduled > 0:
        spent_ps += linear_ps(engine, replica, work.prefill + work.decodes)
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


@inlined
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


@inlined
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


@inlined
def _finish(engine: Engine, replica: int, place: int) -> None:
    """Free a request that is done and append it to the finished ones."""
    rep, request = engine.replicas[replica], engine.running[replica, place]
    row = engine.requests[request]
    vacate(engine, replica, place, 0, False)
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
