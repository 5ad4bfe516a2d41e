"""Following one engine as a server must: pass what has ended by now, note the gaps between tokens, say what is new.

Compiled, so that a wake-up costs microseconds however many iterations lie behind it. Replica 0 of an `Engine` that has
no other. Symbols: `N` request rows, `S` most sequences running, `G` bounds of the gap histogram.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..sim.batching import tokens_held
from ..sim.engine import pop_finished, step
from ..sim.engine_state import DECODING, NEVER_PS, NONE, PS_PER_S, Engine, compiled
from ..sim.leaping import leap, spent_ps, stretch_ahead

GAP_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
"""Upper ends of the buckets of vLLM's `vllm:inter_token_latency_seconds` (0.32)."""
_GAP_BOUNDS_PS = np.rint(np.array(GAP_BOUNDS_S) * PS_PER_S).astype(np.int64)

LOOKED_PS, LOOKED_TICK, TOLD_TICK, GAPS_PS = range(4)
"""Places of `Ledger.marks`: end of the last iteration that was looked at, its tick, the tick at which streams were told
last, and the sum of all gaps."""


class Ledger(NamedTuple):
    """What a server keeps beside the engine."""

    streams: NDArray[np.bool_]
    """`[N]` whether the client is told of tokens before the last."""
    visible: NDArray[np.int64]
    """`[N]` tokens whose iteration has ended."""
    told: NDArray[np.int64]
    """`[N]` tokens that were reported."""
    scheduled_ps: NDArray[np.int64]
    """`[N]` start of the first iteration it took part in; -1 before."""
    last_token_ps: NDArray[np.int64]
    """`[N]` when its newest token came."""
    gaps: NDArray[np.int64]
    """`[G + 1]` gaps between tokens by length; the last place is for longer ones."""
    marks: NDArray[np.int64]
    """`[4]`"""
    report: NDArray[np.int64]
    """`[4, S]` what `step` writes."""


def make_ledger(rows: int, max_seqs: int) -> Ledger:
    """For an engine that has seen nothing."""
    return Ledger(
        streams=np.zeros(rows, dtype=np.bool_),
        visible=np.zeros(rows, dtype=np.int64),
        told=np.zeros(rows, dtype=np.int64),
        scheduled_ps=np.full(rows, -1, dtype=np.int64),
        last_token_ps=np.zeros(rows, dtype=np.int64),
        gaps=np.zeros(len(GAP_BOUNDS_S) + 1, dtype=np.int64),
        marks=np.zeros(4, dtype=np.int64),
        report=np.zeros((4, max_seqs), dtype=np.int64),
    )


def grown_ledger(ledger: Ledger, rows: int) -> Ledger:
    """The same with room for more requests."""
    larger = make_ledger(rows, ledger.report.shape[1])
    for name in ("streams", "visible", "told", "scheduled_ps", "last_token_ps"):
        getattr(larger, name)[: len(ledger.told)] = getattr(ledger, name)
    return larger._replace(gaps=ledger.gaps, marks=ledger.marks)


@compiled
def note_new(ledger: Ledger, request: int, streams: bool) -> None:
    """A request is about to be enqueued in this row."""
    ledger.streams[request] = streams
    ledger.visible[request] = 0
    ledger.told[request] = 0
    ledger.scheduled_ps[request] = -1


@compiled
def catch_up(engine: Engine, ledger: Ledger, now_ps: int) -> None:
    """Pass every iteration that starts before `now_ps`, so that the engine may be changed at that time."""
    rep = engine.replicas[0]
    while rep.clock_ps < now_ps and rep.running + rep.waiting > 0:
        if not _leap_noting(engine, ledger, now_ps):
            _step_noting(engine, ledger)


@compiled
def follow(engine: Engine, ledger: Ledger, now_ps: int, every: int) -> int:
    """Pass what ends by `now_ps`, and also what has started and ends later where its end cannot be told otherwise.

    Args:
        every: streams are told of new tokens each time the engine's tick is a multiple of this, all at once.

    Returns:
        When to come back, later than `now_ps`: the earliest end of an iteration with anything to tell, or the start of
        one whose end cannot be told yet; NEVER_PS if nothing is under way.
    """
    rep = engine.replicas[0]
    while True:
        if rep.clock_ps > ledger.marks[LOOKED_PS]:
            if rep.clock_ps > now_ps:
                return int(rep.clock_ps)
            _look(engine, ledger)
        elif rep.running + rep.waiting == 0:
            return NEVER_PS
        else:
            stretch = stretch_ahead(engine, 0)
            if stretch.steps == 0:
                if rep.clock_ps >= now_ps:  # whoever comes at this very time may still join
                    return int(rep.clock_ps + 1)
                _step_noting(engine, ledger)
                continue
            steps = stretch.steps
            if _anyone_streams(engine, ledger):
                steps = min(steps, every - rep.tick % every)
            end_ps = rep.clock_ps + spent_ps(stretch, steps)
            if end_ps > now_ps:
                return int(end_ps)
            _leap_noting(engine, ledger, end_ps)


@compiled
def news(engine: Engine, ledger: Ledger, now_ps: int, every: int, rows: NDArray[np.int64]) -> tuple[int, int]:
    """Requests with something to tell, after `follow`: first tokens, streams' further tokens, then finishes.

    Args:
        rows: `[N]`, overwritten; `told` has the tokens of each.

    Returns:
        How many got tokens, and up to where (from there on) `rows` has those that finished, now ABSENT.
    """
    marks = ledger.marks
    due = marks[LOOKED_TICK] // every > marks[TOLD_TICK] // every
    marks[TOLD_TICK] = marks[LOOKED_TICK]
    count = 0
    for place in range(engine.replicas[0].running):
        request = engine.running[0, place]
        worth_telling = ledger.told[request] == 0 or (due and ledger.streams[request])
        if worth_telling and ledger.visible[request] > ledger.told[request]:
            ledger.told[request] = ledger.visible[request]
            rows[count] = request
            count += 1
    ends = count
    while True:
        request = pop_finished(engine, 0, now_ps)
        if request == NONE:
            return count, ends
        rows[ends] = request
        ends += 1


@compiled
def _look(engine: Engine, ledger: Ledger) -> None:
    """The last iteration has ended: its tokens are visible."""
    rep = engine.replicas[0]
    ledger.marks[LOOKED_PS] = rep.clock_ps
    ledger.marks[LOOKED_TICK] = rep.tick
    for place in range(rep.running):
        request = engine.running[0, place]
        row = engine.requests[request]
        if row.state == DECODING:
            ledger.visible[request] = tokens_held(engine, 0, place) - row.prompt + 1
        else:
            ledger.visible[request] = row.generated


@compiled
def _anyone_streams(engine: Engine, ledger: Ledger) -> bool:
    place = engine.replicas[0].running - 1
    while place >= 0 and not ledger.streams[engine.running[0, place]]:
        place -= 1
    return bool(place >= 0)


@compiled
def _note_gap(ledger: Ledger, gap_ps: int, count: int) -> None:
    place = 0
    while place < len(_GAP_BOUNDS_PS) and gap_ps > _GAP_BOUNDS_PS[place]:
        place += 1
    ledger.gaps[place] += count
    ledger.marks[GAPS_PS] += gap_ps * count


@compiled
def _leap_noting(engine: Engine, ledger: Ledger, until_ps: int) -> bool:
    """`leap`, with each gap between two tokens noted."""
    rep = engine.replicas[0]
    stretch = stretch_ahead(engine, 0)
    if stretch.steps == 0:
        return False
    count, tick, first_end_ps = rep.running, rep.tick, rep.clock_ps + stretch.first_ps
    for place in range(count):
        _note_gap(ledger, first_end_ps - ledger.last_token_ps[engine.running[0, place]], 1)
    leap(engine, 0, until_ps)
    for nth in range(1, rep.tick - tick):
        _note_gap(ledger, stretch.first_ps + nth * stretch.growth_ps, count)
    for place in range(rep.running):
        ledger.last_token_ps[engine.running[0, place]] = rep.clock_ps
    return True


@compiled
def _step_noting(engine: Engine, ledger: Ledger) -> None:
    """`step`, with gaps and first appearances noted."""
    rep, report = engine.replicas[0], ledger.report
    step(engine, 0, rep.clock_ps, report)
    for i in range(rep.last_scheduled):
        request = report[0, i]
        if ledger.scheduled_ps[request] < 0:
            ledger.scheduled_ps[request] = rep.last_start_ps
        if report[1, i]:
            if report[2, i] > 1:
                _note_gap(ledger, rep.clock_ps - ledger.last_token_ps[request], 1)
            ledger.last_token_ps[request] = rep.clock_ps
