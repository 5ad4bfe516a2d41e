"""`poolpilot control --replay`: a log of decisions decided again, and what came out otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from ..controller.decision_replay import Replay, replay
from ..telemetry.record import TickRecord, read_entries, read_log
from ..telemetry.store import Store, TickEntry
from .printing import console, log_console, print_json, table

DIFFERENCES_SHOWN: Final = 20
_PAGE: Final = 500
_SCHEMES: Final = ("redis://", "rediss://", "unix://")


def show_replay(source: str, prefix: str, as_json: bool) -> bool:
    """Decide again what a file, or a store's stream, holds; whether all came out the same.

    Raises:
        DecisionLogError: it is no log, or not of this build.
        ReplayError: who decided cannot be made here.
        StoreError: the store does not answer.
        OSError: the file cannot be read.
    """
    outcome = replay(_records(source, prefix))
    if as_json:
        print_json(_document(source, outcome))
    else:
        _print(source, outcome)
    return outcome.ticks > 0 and not outcome.differences


def _records(source: str, prefix: str) -> Iterable[TickRecord]:
    if is_store(source):
        return read_entries(streamed(source, prefix))
    return read_log(Path(source), lambda message: log_console().print(message, highlight=False))


def is_store(source: str) -> bool:
    """Whether it names a store, and no file."""
    return source.startswith(_SCHEMES)


def streamed(url: str, prefix: str) -> Iterator[tuple[str, TickEntry]]:
    """Every tick of a stream, with where it is in words; never more than a page of it in memory."""
    store, after = Store(url, prefix=prefix, timeout_s=10.0), "0"
    with asyncio.Runner() as runner:
        try:
            while page := runner.run(store.ticks(_PAGE, after)):
                for entry_id, entry in page:
                    yield f"{prefix}:ticks {entry_id}", entry
                after = page[-1][0]
        finally:
            runner.run(store.close())


def _document(source: str, outcome: Replay) -> dict[str, Any]:
    return {
        "log": source,
        "ticks": outcome.ticks,
        "fell_back": outcome.fell_back,
        "decided_by": dict(outcome.decided),
        "same": not outcome.differences,
        "differences": [
            {"tick": d.tick, "field": d.field, "logged": d.logged, "replayed": d.replayed} for d in outcome.differences
        ],
    }


def _print(source: str, outcome: Replay) -> None:
    out = console()
    if not outcome.ticks:
        out.print(f"{source}: no ticks, so nothing was decided again")
        return
    differing = {difference.tick for difference in outcome.differences}
    rows = [(who, count) for who, count in outcome.decided.items()]
    caption = f"of these {outcome.fell_back} by the fallback because the policy did not"
    out.print(table("decided again", ("by", "ticks"), rows, caption))
    if not differing:
        out.print(f"{outcome.ticks} ticks decided again: every decision is the same")
        return
    out.print(f"{outcome.ticks} ticks decided again: {len(differing)} came out otherwise")
    out.print(table("differences", ("tick", "field", "logged", "now"), _shown(outcome)))
    left = len(outcome.differences) - DIFFERENCES_SHOWN
    if left > 0:
        out.print(f"and {left} more; --json lists them all")


def _shown(outcome: Replay) -> Iterator[tuple[str, str, str, str]]:
    for difference in outcome.differences[:DIFFERENCES_SHOWN]:
        yield str(difference.tick), difference.field, difference.logged, difference.replayed
