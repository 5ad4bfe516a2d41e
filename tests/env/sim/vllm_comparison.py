"""The kernel beside vLLM's own scheduler, iteration by iteration.

    python -m poolpilot.tests.env.sim.vllm_comparison

prints the table of `docs/simulator.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from poolpilot.env.perf.law import TOKENS_GRID
from poolpilot.env.sim.engine import abort, enqueue, observed_step, run, set_limits
from poolpilot.env.sim.engine_state import ACCEPTED, NEVER_PS, Engine, load_requests, make_engine
from poolpilot.tests.env.sim.vllm_loads import LOADS, Load, recording_of


class Iteration(NamedTuple):
    """What is compared of one iteration."""

    start_ps: int
    scheduled: list[int]
    """Requests in the order of the batch."""
    tokens: list[int]
    """Of each of those."""
    preempted: list[int]
    """In the order in which they were thrown out."""
    finished: list[int]
    blocks_held: int
    """When it has ended."""
    prefix_queries: int
    """Tokens of new requests that were looked up in the prefix cache."""
    prefix_hits: int


def build(load: Load) -> Engine:
    """One replica, and all requests ready to be enqueued."""
    law = [0.0, 0.0, 0.0, 1e-9, *((load.iteration_ps + load.token_ps * TOKENS_GRID) * 1e-12)]
    engine = make_engine(
        np.array([law]),
        load.kv_blocks,
        load.cap,
        load.token_budget,
        load.max_model_len,
        max_seqs=load.cap,
        capacity=len(load.requests),
        block_tokens=load.block_tokens,
        reserve_prompt=load.reserve_prompt,
        by_priority=load.by_priority,
        prefix_caching=load.prefix_caching,
        prefixes=([parent for parent, _ in load.tree], [end for _, end in load.tree]),
    )
    prompts, outputs, priorities, nodes = np.array(load.requests).T
    load_requests(engine, prompts, outputs, np.zeros(len(prompts)), priorities, nodes)
    return engine


def let_happen(engine: Engine, event: tuple[int, str, int, int]) -> None:
    """One event of a load."""
    at_ps, what, first, second = event
    if what == "enqueue":
        assert enqueue(engine, 0, first, at_ps) == ACCEPTED
    elif what == "abort":
        abort(engine, 0, first)
    else:
        set_limits(engine, 0, first, second)


def iterations_of(load: Load) -> Iterator[Iteration]:
    """What the kernel does, one iteration after the other."""
    engine = build(load)
    rep, events, clock_ps = engine.replicas[0], list(load.events), 0
    looked_up, found = 0, 0
    while events or rep["running"] + rep["waiting"] > 0:
        if rep["running"] + rep["waiting"] == 0:
            clock_ps = max(clock_ps, events[0][0])
        while events and events[0][0] <= clock_ps:
            let_happen(engine, events.pop(0))
        step = observed_step(engine, 0, clock_ps)
        if step is None:  # whoever was left has just been aborted
            continue
        clock_ps = step.end_ps
        queries, hits = int(rep["prefix_queries"]), int(rep["prefix_hits"])
        yield Iteration(
            step.start_ps,
            step.scheduled.tolist(),
            step.computed.tolist(),
            list(step.preempted),
            list(step.finished),
            int(rep["blocks_used"]),
            queries - looked_up,
            hits - found,
        )
        looked_up, found = queries, hits


def disagreement(name: str, recorded: list[list[Any]]) -> str | None:
    """The first iteration in which the kernel and vLLM differ, both sides; None if there is none."""
    ours = list(iterations_of(LOADS[name]))
    theirs = [Iteration(*values) for values in recorded]
    for nth, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            fields = [field for field in Iteration._fields if getattr(one, field) != getattr(other, field)]
            return f"{name}: iteration {nth}: {', '.join(fields)}\n  kernel {one}\n  vLLM   {other}"
    if len(ours) != len(theirs):
        return f"{name}: {len(ours)} iterations of the kernel, {len(theirs)} of vLLM"
    return None


def finishes_of_leaps(load: Load) -> dict[int, int]:
    """When each request finishes in the kernel, in ps, if it leaps from event to event."""
    engine = build(load)
    for event in load.events:
        run(engine, 0, event[0])
        let_happen(engine, event)
    run(engine, 0, NEVER_PS)
    finish_ps = engine.requests["finish_ps"]
    return {int(request): int(finish_ps[request]) for request in np.flatnonzero(finish_ps >= 0)}


def finishes_recorded(recorded: list[list[Any]], load: Load) -> dict[int, int]:
    """When each request finished in vLLM's hands, in ps."""
    ends: dict[int, int] = {}
    for one in (Iteration(*values) for values in recorded):
        end_ps = one.start_ps + load.iteration_ps + load.token_ps * sum(one.tokens)
        ends.update(dict.fromkeys(one.finished, end_ps))
    return ends


def table() -> str:
    """The outcome as Markdown."""
    lines = [
        "| load | requests | iterations | sequence preemptions | prefix tokens hit | iterations that agree |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in LOADS:
        _, recorded = recording_of(name)
        ours, theirs = list(iterations_of(LOADS[name])), [Iteration(*values) for values in recorded]
        agree = sum(one == other for one, other in zip(ours, theirs, strict=False))
        preemptions, hits = sum(len(i.preempted) for i in theirs), sum(i.prefix_hits for i in theirs)
        shown = f"{agree:,} of {max(len(ours), len(theirs)):,}"
        lines.append(
            f"| {name.replace('_', ' ')} | {len(LOADS[name].requests)} | {len(theirs):,} | {preemptions:,}"
            f" | {hits:,} | {shown} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
