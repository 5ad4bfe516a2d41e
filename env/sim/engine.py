"""The engine kernel: continuous batching of many replicas, one at a time, exact to the picosecond.

A simulator calls, in the order of time, `run` up to an event, then `enqueue`, `abort`, `set_limits`, ...; a server in real
time calls `step` for one iteration after the other. What is compiled may be called from compiled code and from Python.

    engine = make_engine(laws, kv_blocks=4000, caps=256, token_budgets=2048, max_model_len=8192, max_seqs=256, capacity=n)
    load_requests(engine, prompt_tokens, output_tokens, class_index)
    run(engine, replica, arrival_ps)
    enqueue(engine, replica, request, arrival_ps)

An iteration that starts before the time that `run` was given may end after it. The state then is that of its end; `seen`
and `in_flight` tell what an outsider sees before. Symbols as in `engine_state`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .batching import (
    blocks_for,
    close_place,
    complete,
    preempted_last,
    schedule,
    tokens_held,
    vacate,
)
from .caching import forget_all, forget_own
from .engine_state import (
    ABSENT,
    ACCEPTED,
    DECODING,
    LARGER_THAN_KV,
    LONGER_THAN_MODEL,
    NEVER_PS,
    NONE,
    NOT_ABSENT,
    PREFILLING,
    PS_PER_S,
    WAITING,
    Engine,
    compiled,
)
from .leaping import leap, spent_ps, stretch_ahead
from .queueing import push_new, unlink


class Seen(NamedTuple):
    """A replica's figures as an outsider sees them at some time, counters since the start."""

    running: int
    waiting: int
    busy_ps: int
    useful_ps: int
    generated_tokens: int
    finished: int


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One iteration, as a server reports it. Symbol: `M` requests scheduled."""

    start_ps: int
    end_ps: int
    scheduled: NDArray[np.int64]
    """`[M]` requests in the order of the batch."""
    new_tokens: NDArray[np.int64]
    """`[M]` 1 where the request got a token at the end, 0 where it still prefills or wants none."""
    generated: NDArray[np.int64]
    """`[M]` tokens of its answer so far."""
    computed: NDArray[np.int64]
    """`[M]` tokens computed: 1 of a decoding request, a chunk of one in prefill."""
    finished: tuple[int, ...]
    preempted: tuple[int, ...]
    """First those that were thrown out first."""


@compiled
def to_ps(seconds: float) -> int:
    """Whole picoseconds."""
    return int(np.rint(seconds * PS_PER_S))


@compiled
def enqueue(engine: Engine, replica: int, request: int, now_ps: int) -> int:
    """Put a request (from `set_request`, `load_requests`, or evicted) at the end of the queue; it starts from nothing.

    Run the replica to `now_ps` first: the request can join the next iteration that starts.

    Returns:
        ACCEPTED, or why not: LONGER_THAN_MODEL, LARGER_THAN_KV (it could never finish), NOT_ABSENT (its row is in use).
    """
    rep, row = engine.replicas[replica], engine.requests[request]
    if row.state != ABSENT:
        return NOT_ABSENT
    if row.arrival_ps < 0:
        row.arrival_ps = now_ps
    if row.prompt + row.output > rep.max_model_len:
        return LONGER_THAN_MODEL
    # The last token of an answer is never read, so it needs no room.
    if blocks_for(engine, row.prompt + max(row.output - 1, 0)) > rep.blocks_total:
        return LARGER_THAN_KV
    row.first_token_ps = -1
    row.finish_ps = -1
    row.generated = 0
    row.computed = 0
    row.peak = 0
    row.replica = replica
    row.state = WAITING
    if rep.running == 0 and rep.waiting == 0:
        rep.clock_ps = max(rep.clock_ps, now_ps)
    push_new(engine, replica, request)
    return ACCEPTED


@compiled
def run(engine: Engine, replica: int, until_ps: int) -> None:
    """Pass every iteration that starts before `until_ps`; an engine without work stands still."""
    rep = engine.replicas[replica]
    while rep.clock_ps < until_ps and rep.running + rep.waiting > 0:
        if not leap(engine, replica, until_ps):
            complete(engine, replica, schedule(engine, replica))


@compiled
def step(engine: Engine, replica: int, now_ps: int, report: NDArray[np.int64]) -> int:
    """Pass one iteration, which starts at `now_ps` or, if later, when the last one ended.

    Args:
        report: `[4, S]`, overwritten: requests scheduled, whether each got a token, its tokens so far, and how many it
            computed; as many as the replica's `last_scheduled`.

    Returns:
        When it ends; NEVER_PS if there is nothing to do.
    """
    rep = engine.replicas[replica]
    if rep.running + rep.waiting == 0:
        return NEVER_PS
    rep.clock_ps = max(rep.clock_ps, now_ps)
    work = schedule(engine, replica)
    for i in range(rep.last_scheduled):
        # Those scheduled are the decoding ones that advance, then those in prefill; some decoding ones may starve.
        place = i if i < work.decodes else i - work.decodes + rep.decoding
        row = engine.requests[engine.running[replica, place]]
        report[0, i] = engine.running[replica, place]
        if row.state == DECODING:
            report[1, i] = 1
            report[2, i] = tokens_held(engine, replica, place) - row.prompt + 2
            report[3, i] = 1
        else:
            report[1, i] = row.output > 0 and row.computed == row.prompt + row.generated
            report[2, i] = row.generated + report[1, i]
            report[3, i] = engine.finish_tick[replica, place]
    complete(engine, replica, work)
    return int(rep.clock_ps)


def observed_step(engine: Engine, replica: int, now_ps: int) -> Step | None:
    """`step` as a value; requests finished are popped. None if there is nothing to do."""
    report = np.empty((4, engine.running.shape[1]), dtype=np.int64)
    end_ps = step(engine, replica, now_ps, report)
    if end_ps == NEVER_PS:
        return None
    rep = engine.replicas[replica]
    preempted = tuple(int(preempted_last(engine, replica, nth)) for nth in range(rep["last_preempted"]))
    finished = []
    while (request := pop_finished(engine, replica, end_ps)) != NONE:
        finished.append(int(request))
    count = int(rep["last_scheduled"])
    return Step(
        start_ps=int(rep["last_start_ps"]),
        end_ps=int(end_ps),
        scheduled=report[0, :count],
        new_tokens=report[1, :count],
        generated=report[2, :count],
        computed=report[3, :count],
        finished=tuple(finished),
        preempted=preempted,
    )


@compiled
def pop_finished(engine: Engine, replica: int, now_ps: int) -> int:
    """The next request, in the order of time, that finished at `now_ps` or before; NONE if there is no more."""
    rep = engine.replicas[replica]
    request = int(rep.finished_head)
    if request == NONE or engine.requests[request].finish_ps > now_ps:
        return NONE
    rep.finished_head = engine.requests[request].next
    engine.requests[request].next = NONE
    engine.requests[request].state = ABSENT
    return request


@compiled
def abort(engine: Engine, replica: int, request: int) -> bool:
    """Drop a request whose client hung up, and free its KV blocks; run the replica to the time of it first.

    Returns:
        False if this replica does not have it (any more).
    """
    rep, row = engine.replicas[replica], engine.requests[request]
    if row.replica != replica:
        return False
    if row.state == WAITING:
        unlink(engine, replica, request)
        if rep.prefix_caching:
            forget_own(engine, replica, request)
    elif row.state == PREFILLING or row.state == DECODING:
        place = 0
        while engine.running[replica, place] != request:
            place += 1
        vacate(engine, replica, place, 0, False)
        close_place(engine, replica, place)
    else:
        return False
    _let_go(engine, request)
    return True


@compiled
def evict_all(engine: Engine, replica: int, now_ps: int, evicted: NDArray[np.int64]) -> int:
    """Stop at once, in the midst of an iteration: its time after `now_ps`, its tokens and its finishes did not happen.

    Args:
        evicted: `[N]` or as long as there can be, overwritten: running requests, waiting ones, then those that would
            have finished after `now_ps`. They may be enqueued again, here or elsewhere.

    Returns:
        How many there are.
    """
    rep = engine.replicas[replica]
    count = 0
    while rep.running > 0:
        evicted[count] = engine.running[replica, count]
        vacate(engine, replica, count, 0, False)
        rep.running -= 1
        count += 1
    rep.next_finish_tick = NEVER_PS
    while rep.waiting > 0:
        evicted[count] = rep.waiting_head
        unlink(engine, replica, rep.waiting_head)
        count += 1
    for i in range(count):
        engine.tags[evicted[i]].tail = 0
    forget_all(engine, replica)
    if rep.clock_ps > now_ps:
        count = _undo_last(engine, replica, now_ps, evicted, count)
    for i in range(count):
        row = engine.requests[evicted[i]]
        if row.first_token_ps > now_ps:
            row.first_token_ps = -1
        _let_go(engine, evicted[i])
    return count


@compiled
def _undo_last(engine: Engine, replica: int, now_ps: int, evicted: NDArray[np.int64], count: int) -> int:
    """Cut the last iteration off at `now_ps`; appends to `evicted` what finished in it, and returns its new length."""
    rep = engine.replicas[replica]
    rep.busy_ps -= rep.clock_ps - max(now_ps, rep.last_start_ps)
    rep.useful_ps -= rep.last_useful_ps
    rep.generated_tokens -= rep.last_generated
    rep.clock_ps = now_ps
    rep.last_useful_ps = 0
    rep.last_generated = 0
    rep.last_finished = 0
    last, request = NONE, rep.finished_head
    while request != NONE and engine.requests[request].finish_ps <= now_ps:
        last, request = request, engine.requests[request].next
    rep.finished_tail = last
    if last == NONE:
        rep.finished_head = NONE
    else:
        engine.requests[last].next = NONE
    while request != NONE:
        evicted[count] = request
        count += 1
        rep.finished -= 1
        request = engine.requests[request].next
    return count


@compiled
def _let_go(engine: Engine, request: int) -> None:
    row = engine.requests[request]
    row.state = ABSENT
    row.next = NONE
    row.previous = NONE
    row.finish_ps = -1


@compiled
def set_limits(engine: Engine, replica: int, cap: int, token_budget: int) -> None:
    """Change the most sequences running and the most tokens of an iteration, from the next iteration on.

    A lower cap throws nobody out. A token budget below the number running starves the last of them.
    """
    if cap < 1 or cap > engine.running.shape[1] or token_budget < 1:
        raise ValueError("set_limits: wanted a cap from 1 to max_seqs and a token budget of 1 or more")
    engine.replicas[replica].cap = cap
    engine.replicas[replica].token_budget = token_budget


@compiled
def set_law(engine: Engine, replica: int, law: NDArray[np.int64]) -> None:
    """Make iterations from the next one on take what this row of `laws_ps` says (a throttled GPU, say)."""
    for i in range(len(law)):
        engine.laws[replica, i] = law[i]


@compiled
def in_flight(engine: Engine, replica: int, now_ps: int) -> int:
    """Requests running or waiting at `now_ps`, to which the replica was run."""
    rep = engine.replicas[replica]
    return int(rep.running + rep.waiting + (rep.last_finished if rep.clock_ps > now_ps else 0))


@compiled
def next_finish_ps(engine: Engine, replica: int) -> int:
    """Before this time `in_flight` does not change but by calls from outside: no need to `run` the replica until then."""
    rep = engine.replicas[replica]
    if rep.running + rep.waiting == 0:
        return NEVER_PS
    stretch = stretch_ahead(engine, replica)
    return int(rep.clock_ps + spent_ps(stretch, stretch.steps))


@compiled
def seen(engine: Engine, replica: int, now_ps: int) -> Seen:
    """What an outsider sees at `now_ps`, to which the replica was run: an iteration's tokens appear at its end."""
    rep = engine.replicas[replica]
    left_ps, finished, generated, useful_ps = 0, 0, 0, 0
    if rep.clock_ps > now_ps:
        left_ps = rep.clock_ps - now_ps
        finished, generated = int(rep.last_finished), int(rep.last_generated)
        useful_ps = int(rep.last_useful_ps * (left_ps / (rep.clock_ps - rep.last_start_ps)))
    return Seen(
        rep.running + finished,
        int(rep.waiting),
        rep.busy_ps - left_ps,
        rep.useful_ps - useful_ps,
        rep.generated_tokens - generated,
        rep.finished - finished,
    )


@compiled
def generated_tokens(engine: Engine, request: int) -> int:
    """Tokens of a request's answer so far."""
    row = engine.requests[request]
    if row.state == DECODING:
        for place in range(engine.replicas[row.replica].decoding):
            if engine.running[row.replica, place] == request:
                return int(tokens_held(engine, row.replica, place) - row.prompt + 1)
    return int(row.generated)
