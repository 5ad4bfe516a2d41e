"""The waiting queue of a replica: a list through the rows of its requests.

First come first served, or by (priority, order of coming) with low numbers first, as vLLM's two scheduling policies.
"""

from __future__ import annotations

from .engine_state import NONE, Engine, compiled


@compiled
def push_new(engine: Engine, replica: int, request: int) -> None:
    """Add a request that has just come."""
    rep, tags = engine.replicas[replica], engine.tags[request]
    if rep.by_priority:
        tags.ticket = rep.next_ticket
        rep.next_ticket += 1
        _push_in_order(engine, replica, request)
    else:
        _link(engine, replica, request, rep.waiting_tail, NONE)


@compiled
def push_again(engine: Engine, replica: int, request: int) -> None:
    """Add a request that was preempted: before all others, or where its priority puts it."""
    rep = engine.replicas[replica]
    if rep.by_priority:
        _push_in_order(engine, replica, request)
    else:
        _link(engine, replica, request, NONE, rep.waiting_head)


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
def comes_before(engine: Engine, one: int, other: int) -> bool:
    """Whether a request is served before another by priority; none are equal."""
    a, b = engine.tags[one], engine.tags[other]
    return bool(a.priority < b.priority or (a.priority == b.priority and a.ticket < b.ticket))


@compiled
def _push_in_order(engine: Engine, replica: int, request: int) -> None:
    """Search from both ends: new requests belong to the end of their priority, preempted ones to the front."""
    rep = engine.replicas[replica]
    front, back = rep.waiting_head, rep.waiting_tail
    while True:
        if back == NONE or comes_before(engine, back, request):
            following = rep.waiting_head if back == NONE else engine.requests[back].next
            _link(engine, replica, request, back, following)
            return
        if comes_before(engine, request, front):
            _link(engine, replica, request, engine.requests[front].previous, front)
            return
        front, back = engine.requests[front].next, engine.requests[back].previous


@compiled
def _link(engine: Engine, replica: int, request: int, before: int, after: int) -> None:
    """Put a request between two neighbours; NONE is an end of the queue."""
    rep, row = engine.replicas[replica], engine.requests[request]
    row.previous = before
    row.next = after
    if before == NONE:
        rep.waiting_head = request
    else:
        engine.requests[before].next = request
    if after == NONE:
        rep.waiting_tail = request
    else:
        engine.requests[after].previous = request
    rep.waiting += 1
