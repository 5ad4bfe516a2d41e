"""The prefix cache as vLLM's V1 block pool keeps it, by runs of blocks instead of single ones.

vLLM gives every full block a hash of all tokens up to its end. Freed blocks with a hash go to the end of the free queue,
a request's last block first, and may be hit until they are taken for something else; freed blocks without one go to the
front. New blocks are taken from the front. What matters of a block is its content and its place in the queue, never its
number. So a replica keeps

- a count of free blocks that hold nothing (all of them stand before those that hold something), and
- for each *unit*, the stretch of blocks that a node of the prefix tree fills, one run: whoever holds its last block holds
  all of it, and it is freed at once and evicted from its end. Blocks of a prompt are cached only if all before them are.

A request's own blocks are nobody else's: they become a run when it lets go of them, to be hit by itself if it was
preempted, else by nobody. Such runs are joined with their neighbours in the queue. Work per request then grows with the
nodes on its prefix's path, and not with its blocks.

A hit ends before the last token, which must be computed for its output. A prompt that fills its blocks exactly thus
computes its last block again though it may be cached: the only way to two blocks of one content. The older is hit.
"""

from __future__ import annotations

from .engine_state import NONE, Engine, compiled, inlined


@inlined
def use_blocks(engine: Engine, replica: int, count: int) -> None:
    """Take so many free blocks, of which there must be enough; cached contents go where nothing else is left."""
    rep = engine.replicas[replica]
    rep.blocks_used += count
    over = rep.blocks_used + rep.cached - rep.blocks_total
    if over > 0:
        _evict(engine, replica, over)


@compiled
def hit_ahead(engine: Engine, replica: int, request: int) -> tuple[int, int]:
    """Blocks that a waiting request would find in the cache now, and how many of them nobody holds."""
    row, tags, runs = engine.requests[request], engine.tags[request], engine.runs[replica]
    most = (row.prompt + row.generated - 1) >> engine.block_bits
    hit, loose = 0, 0
    if tags.tail:
        hit = min(runs[tags.tail].end, most)
        loose = hit - runs[tags.tail].first
    node = tags.prefix
    while node != NONE:
        part = engine.nodes[node]
        if part.body_end < min(part.end, most):
            run = _oldest(engine, replica, 2 * node + 1)
            if run:
                hit = max(hit, part.end)
                if runs[run].holders > 0:
                    break
                loose += 1
        if part.first < part.body_end:
            run = _oldest(engine, replica, 2 * node)
            if run:
                hit = max(hit, runs[run].end)
                if runs[run].holders > 0:
                    break
                loose += runs[run].end - runs[run].first
        node = part.parent
    return int(hit), int(loose)


@compiled
def take_hits(engine: Engine, replica: int, request: int, hit: int) -> None:
    """Let a request hold the first `hit` blocks of its prompt, as `hit_ahead` found them."""
    tags = engine.tags[request]
    if tags.tail:
        # Whole: what it must compute again of its own is gone. Its last full block would be, if the token that was to fill
        # it was taken back when it was thrown out; but that block stood first in line for whoever it made room for.
        run = engine.runs[replica, tags.tail]
        rep = engine.replicas[replica]
        rep.cached -= run.end - run.first
        rep.blocks_used += run.end - run.first
        _unqueue(engine, replica, tags.tail)
        _return_run(engine, replica, tags.tail)
        tags.tail = 0
    node = tags.prefix
    while node != NONE:
        part = engine.nodes[node]
        if part.body_end < min(part.end, hit):
            _hold(engine, replica, _oldest(engine, replica, 2 * node + 1))
        if part.first < min(part.body_end, hit):
            _hold(engine, replica, _oldest(engine, replica, 2 * node))
        node = part.parent


@compiled
def note_full(engine: Engine, replica: int, request: int, first: int, end: int) -> None:
    """A request is about to fill its blocks from `first` to `end` - 1: from now on others can hit them."""
    tags, runs = engine.tags[request], engine.runs[replica]
    node = tags.prefix
    while node != NONE and engine.nodes[node].end > first:
        part = engine.nodes[node]
        if first <= part.body_end < min(part.end, end):
            run = _new_run(engine, replica, 2 * node + 1, part.body_end, part.end)
            runs[run].holders = 1
            place = _place_of(engine, replica, 2 * node + 1)
            oldest = engine.lookup[replica, place]
            if oldest:
                last = runs[oldest].older
                runs[run].older, runs[run].newer = last, oldest
                runs[last].newer = run
                runs[oldest].older = run
                tags.copy = run
            else:
                engine.lookup[replica, place] = run
        if max(part.first, first) < min(part.body_end, end):
            run = _oldest(engine, replica, 2 * node)
            if not run:
                run = _new_run(engine, replica, 2 * node, part.first, part.first)
                runs[run].holders = 1
                engine.lookup[replica, _place_of(engine, replica, 2 * node)] = run
            runs[run].end = min(part.body_end, end)
        node = part.parent


@compiled
def let_go(engine: Engine, replica: int, request: int, blocks: int, full: int, returns: bool) -> None:
    """Free the blocks of a request that stops running.

    Args:
        blocks: it has.
        full: of them.
        returns: it was preempted, and may hit its own blocks again.
    """
    rep, tags = engine.replicas[replica], engine.tags[request]
    rep.blocks_used -= blocks - full
    shared = engine.nodes[tags.prefix].end if tags.prefix != NONE else 0
    if full > shared:
        rep.blocks_used -= full - shared
        if returns:
            run = _new_run(engine, replica, NONE, shared, full)
            engine.runs[replica, run].owner = request
            tags.tail = run
            _queue(engine, replica, run)
        else:
            _queue_dead(engine, replica, full - shared)
    node = tags.prefix
    while node != NONE:
        part = engine.nodes[node]
        if part.body_end < min(part.end, full):
            own = tags.copy if node == tags.prefix else 0
            _release(engine, replica, own if own else _oldest(engine, replica, 2 * node + 1))
        if part.first < min(part.body_end, full):
            _release(engine, replica, _oldest(engine, replica, 2 * node))
        node = part.parent
    tags.copy = 0
    if not returns:
        forget_own(engine, replica, request)


@compiled
def forget_own(engine: Engine, replica: int, request: int) -> None:
    """A request is gone for good: nobody will hit what it left in the cache."""
    tags = engine.tags[request]
    if tags.tail:
        _bury(engine, replica, tags.tail)
        tags.tail = 0


@compiled
def forget_all(engine: Engine, replica: int) -> None:
    """Empty the cache of a replica that runs nothing and has nothing waiting."""
    rep = engine.replicas[replica]
    if not rep.prefix_caching:
        return
    rep.cached = 0
    rep.runs_returned = 0
    rep.runs_used = 0
    engine.runs[replica, 0].before = 0
    engine.runs[replica, 0].after = 0
    for place in range(engine.lookup.shape[1]):
        engine.lookup[replica, place] = 0


@compiled
def _hold(engine: Engine, replica: int, run: int) -> None:
    rep, held = engine.replicas[replica], engine.runs[replica, run]
    if held.holders == 0:
        _unqueue(engine, replica, run)
        rep.cached -= held.end - held.first
        rep.blocks_used += held.end - held.first
    held.holders += 1


@compiled
def _release(engine: Engine, replica: int, run: int) -> None:
    rep, held = engine.replicas[replica], engine.runs[replica, run]
    held.holders -= 1
    if held.holders == 0:
        rep.blocks_used -= held.end - held.first
        _queue(engine, replica, run)


@compiled
def _queue(engine: Engine, replica: int, run: int) -> None:
    """Put a run at the end of the queue, to be evicted after all others."""
    freed = engine.runs[replica, run]
    engine.replicas[replica].cached += freed.end - freed.first
    _queue_before(engine, replica, run, 0)


@compiled
def _queue_dead(engine: Engine, replica: int, count: int) -> None:
    """Put so many blocks at the end of the queue that nobody can hit."""
    last = engine.runs[replica, 0].before
    if last and _is_dead(engine, replica, last):
        engine.runs[replica, last].end += count
        engine.replicas[replica].cached += count
    else:
        _queue(engine, replica, _new_run(engine, replica, NONE, 0, count))


@compiled
def _queue_before(engine: Engine, replica: int, run: int, after: int) -> None:
    runs = engine.runs[replica]
    before = runs[after].before
    runs[run].before, runs[run].after = before, after
    runs[before].after = run
    runs[after].before = run


@compiled
def _unqueue(engine: Engine, replica: int, run: int) -> None:
    runs = engine.runs[replica]
    before, after = runs[run].before, runs[run].after
    runs[before].after = after
    runs[after].before = before


@compiled
def _is_dead(engine: Engine, replica: int, run: int) -> bool:
    one = engine.runs[replica, run]
    return bool(one.unit == NONE and one.owner == NONE)


@compiled
def _bury(engine: Engine, replica: int, run: int) -> None:
    """Nobody can hit these blocks any more; they keep their place in the queue."""
    one = engine.runs[replica, run]
    one.owner = NONE
    one.end -= one.first
    one.first = 0
    _join(engine, replica, run)


@compiled
def _join(engine: Engine, replica: int, run: int) -> None:
    """Make one of a dead run and dead neighbours."""
    runs = engine.runs[replica]
    for neighbour in (runs[run].before, runs[run].after):
        if neighbour and _is_dead(engine, replica, neighbour):
            runs[run].end += runs[neighbour].end
            _unqueue(engine, replica, neighbour)
            _return_run(engine, replica, neighbour)


@compiled
def _evict(engine: Engine, replica: int, count: int) -> None:
    """Take so many blocks from the front of the queue."""
    runs = engine.runs[replica]
    engine.replicas[replica].cached -= count
    while count > 0:
        run = runs[0].after
        cut = min(count, runs[run].end - runs[run].first)
        runs[run].end -= cut
        count -= cut
        if runs[run].end == runs[run].first:
            _drop(engine, replica, run)


@compiled
def _drop(engine: Engine, replica: int, run: int) -> None:
    """Forget a run of the queue."""
    runs, gone = engine.runs[replica], engine.runs[replica, run]
    _unqueue(engine, replica, run)
    if gone.unit != NONE:
        place = _place_of(engine, replica, gone.unit)
        if gone.newer == run:
            _unindex(engine, replica, place)
        else:
            if engine.lookup[replica, place] == run:
                engine.lookup[replica, place] = gone.newer
            runs[gone.older].newer = gone.newer
            runs[gone.newer].older = gone.older
    elif gone.owner != NONE:
        engine.tags[gone.owner].tail = 0
    _return_run(engine, replica, run)


@compiled
def _new_run(engine: Engine, replica: int, unit: int, first: int, end: int) -> int:
    """A run that stands in no queue and that nobody holds."""
    rep, runs = engine.replicas[replica], engine.runs[replica]
    if rep.runs_returned == 0 and rep.runs_used == engine.runs.shape[1] - 1:
        oldest = runs[0].after
        rep.cached -= runs[oldest].end - runs[oldest].first
        _drop(engine, replica, oldest)
    run = rep.runs_returned
    if run:
        rep.runs_returned = runs[run].after
    else:
        rep.runs_used += 1
        run = rep.runs_used
    one = runs[run]
    one.unit = unit
    one.owner = NONE
    one.first = first
    one.end = end
    one.holders = 0
    one.older = run
    one.newer = run
    return int(run)


@compiled
def _return_run(engine: Engine, replica: int, run: int) -> None:
    rep = engine.replicas[replica]
    engine.runs[replica, run].after = rep.runs_returned
    rep.runs_returned = run


@compiled
def _oldest(engine: Engine, replica: int, unit: int) -> int:
    """The run of this unit that is hit; 0 if it is not cached."""
    return int(engine.lookup[replica, _place_of(engine, replica, unit)])


@compiled
def _home_of(engine: Engine, unit: int) -> int:
    return int((int(unit) * 0x9E3779B1 >> 12) & (engine.lookup.shape[1] - 1))


@compiled
def _place_of(engine: Engine, replica: int, unit: int) -> int:
    """Where the index has this unit, or has a free place for it."""
    mask = engine.lookup.shape[1] - 1
    place = _home_of(engine, unit)
    while engine.lookup[replica, place] and engine.runs[replica, engine.lookup[replica, place]].unit != unit:
        place = (place + 1) & mask
    return int(place)


@compiled
def enter(engine: Engine, replica: int, run: int) -> None:
    """Put the oldest run of a unit into an index that lacks it, because a larger one was made."""
    engine.lookup[replica, _place_of(engine, replica, engine.runs[replica, run].unit)] = run


@compiled
def _unindex(engine: Engine, replica: int, place: int) -> None:
    """Free a place of the index, and close the gap for those that were put behind it."""
    mask = engine.lookup.shape[1] - 1
    index = engine.lookup[replica]
    hole, probe = place, (place + 1) & mask
    while index[probe]:
        home = _home_of(engine, engine.runs[replica, index[probe]].unit)
        if (probe - home) & mask >= (probe - hole) & mask:
            index[hole] = index[probe]
            hole = probe
        probe = (probe + 1) & mask
    index[hole] = 0
