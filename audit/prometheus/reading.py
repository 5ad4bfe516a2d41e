"""Asks a Prometheus server for a fleet's past: which figures, over which moments.

Symbols: `K` moments, `R` replicas of a pool, `C` classes, `S` stretches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ...env.contract import FloatArray
from ...telemetry.engine_dialects import HISTOGRAMS, SGLANG, VLLM, Dialect
from ..description import Description, Select
from ..histograms import Histogram
from ..measured import AuditError
from .answers import Series, by_label, histograms_of
from .asking import STARTED, Asking, selector
from .client import Client, Window

READABLE: Final = (VLLM, SGLANG)
"""Whose past can be read: Triton's pages count neither lengths nor latencies."""
_GAUGES: Final = {"running": "sum", "waiting": "sum", "kv_used_frac": "avg"}
_COUNTERS: Final = ("prompt_tokens_total", "generation_tokens_total", "busy_s_total", "useful_s_total")
_HINTS: Final = 6
"""Values of labels that an error names."""


@dataclass(frozen=True, eq=False)
class PoolPast:
    """One pool as Prometheus saw it."""

    dialect: Dialect
    replicas: tuple[str, ...]
    """`[R]` their names."""
    figures: Mapping[str, FloatArray]
    """`[R, K]` by name: gauges, counters as they stand, and `started_s` (Unix); NaN where there is none."""
    finished: Mapping[str, FloatArray]
    """By class, `[R, K]` requests that ended, a counter."""
    inside: Mapping[str, FloatArray]
    """By class, `[R, K]` requests in the engines."""
    histograms: Mapping[str, Mapping[str, Sequence[Histogram | None]]]
    """By class, then what is counted (`HISTOGRAMS`): `[S]` of each stretch."""


@dataclass(frozen=True, eq=False)
class Past:
    """A whole fleet's."""

    window: Window
    """In the server's time."""
    speed: float
    """Seconds of the fleet in one of the server's."""
    stretch_steps: int
    """Steps of a stretch: for each of them lengths and latencies are told."""
    pools: Mapping[str, PoolPast]
    lacking: tuple[str, ...] = field(default=())
    """What was looked for and not found, one line each."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    window: Window
    stretch_steps: int
    replica_label: str = "instance"
    speed: float = 1.0


OnQuery = Callable[[], None]


def query_count(description: Description) -> int:
    """How many queries there will be at most: for a progress bar."""
    per_class = 2 + 3 * len(HISTOGRAMS)
    return len(description.pools) * (1 + len(_GAUGES) + len(_COUNTERS) + 1 + per_class * len(description.classes))


async def read_past(client: Client, description: Description, wanted: Wanted, on_query: OnQuery) -> Past:
    """Ask for everything.

    Raises:
        AuditError: the server does not answer, or has nothing of a pool; says what was looked for.
    """
    many = len(description.pools) > 1
    for name, pool in description.pools.items():
        if many and not pool.select:
            raise AuditError(f"pools.{name}.select: wanted labels that tell its series in Prometheus from other pools'")
    if len(description.classes) > 1 and any(not own.select for own in description.classes.values()):
        lone = next(name for name, own in description.classes.items() if not own.select)
        raise AuditError(
            f"classes.{lone}.select: wanted labels that tell its requests in Prometheus; engines know no classes: describe"
            " one class, or audit a request log"
        )
    tasks = {
        name: asyncio.create_task(_pool(client, description, name, pool.select, wanted, on_query))
        for name, pool in description.pools.items()
    }
    try:
        pools = {name: await task for name, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return Past(
        wanted.window,
        wanted.speed,
        wanted.stretch_steps,
        {name: past for name, (past, _) in pools.items()},
        tuple(line for _, lines in pools.values() for line in lines),
    )


async def _pool(
    client: Client, description: Description, name: str, select: Select, wanted: Wanted, on_query: OnQuery
) -> tuple[PoolPast, list[str]]:
    window, lacking = wanted.window, []

    async def over(query: str) -> list[Series]:
        found = await client.over(query, window)
        on_query()
        return found

    for dialect in READABLE:
        ask = Asking(dialect, wanted.replica_label, (select,))
        running = await over(ask.by_replica(_places(dialect, "running")))
        if running:
            break
    else:
        raise AuditError(await _nothing(client, name, select, wanted))
    replicas, values = by_label(running, wanted.replica_label)
    if replicas == ("",):
        raise AuditError(
            f"pools.{name}: its series have no label {wanted.replica_label!r} that tells replicas apart; give --replica-label"
        )
    figures = {"running": values}
    for figure, together in _GAUGES.items():
        if figure != "running":
            found = await over(ask.by_replica(_places(dialect, figure), together))
            figures[figure] = by_label(found, wanted.replica_label, replicas)[1]
    for figure in _COUNTERS:
        names = _places(dialect, figure)
        found = await over(ask.by_replica(names)) if names else []
        if found:
            figures[figure] = by_label(found, wanted.replica_label, replicas)[1]
    started = await over(ask.by_replica([STARTED], "max"))
    if not started:  # labels of the engine, such as model_name, are not on the process's own series
        inside = ask.by_replica(_places(dialect, "running"))
        label = wanted.replica_label
        started = await over(f"max by ({label}) ({STARTED}) and on ({label}) ({inside})")
    if started:
        figures["started_s"] = by_label(started, wanted.replica_label, replicas)[1]
    else:
        lacking.append(f"{name}: no {STARTED}: when replicas began to cost is counted from when they served")
    finished, inside_by, histograms = {}, {}, {}
    for class_name, own in description.classes.items():
        if own.pools is not None and name not in own.pools:
            continue
        asked = Asking(dialect, wanted.replica_label, (select, own.select))
        ended = await over(asked.by_replica(dialect.history["finished"]))
        finished[class_name] = _aligned(ended, wanted, replicas, values)
        if own.select:
            found = await over(_in_engines(asked))
            inside_by[class_name] = _aligned(found, wanted, replicas, values)
        else:
            inside_by[class_name] = figures["running"] + np.nan_to_num(figures["waiting"])
        histograms[class_name] = await _histograms(client, asked, wanted, on_query)
        for kind in ("prompt_tokens", "output_tokens", "ttft_s"):
            if not any(histograms[class_name].get(kind, ())):
                looked = " or ".join(dialect.history.get(kind, ()))
                lacking.append(f"{name}, class {class_name}: nothing in {looked}")
    return PoolPast(dialect, replicas, figures, finished, inside_by, histograms), lacking


def _places(dialect: Dialect, figure: str) -> list[str]:
    """The metrics that hold a figure of `EnginePage`, the newest first."""
    return [place.name for own in dialect.figures if own.field == figure for place in own.places]


def _in_engines(ask: Asking) -> str:
    running, waiting = (ask.by_replica(_places(ask.dialect, figure)) for figure in ("running", "waiting"))
    return f"({running}) + ({waiting})"


def _aligned(found: Sequence[Series], wanted: Wanted, replicas: Sequence[str], like: FloatArray) -> FloatArray:
    """`[R, K]`; where a class has none yet, nothing ended: its counters come with the first request."""
    if not found:
        return np.where(np.isnan(like), np.nan, 0.0)
    own = by_label(found, wanted.replica_label, replicas)[1]
    return np.where(np.isnan(own) & ~np.isnan(like), 0.0, own)


async def _histograms(
    client: Client, ask: Asking, wanted: Wanted, on_query: OnQuery
) -> dict[str, Sequence[Histogram | None]]:
    """Of each stretch: at its end, how much each bucket grew since its beginning."""
    window, span_s = wanted.window, wanted.stretch_steps * wanted.window.step_s
    ends = Window(window.begin_s + span_s, window.end_s, span_s)
    found: dict[str, Sequence[Histogram | None]] = {}
    for kind in HISTOGRAMS:
        names = ask.dialect.history.get(kind, ())
        if not names:
            continue
        queries = (ask.buckets(names, span_s), ask.grown(names, "_sum", span_s), ask.grown(names, "_count", span_s))
        answers = [await client.over(query, ends) for query in queries]
        for _ in queries:
            on_query()
        found[kind] = histograms_of(*answers)
    return found


async def _nothing(client: Client, name: str, select: Select, wanted: Wanted) -> str:
    """Why a pool has no series, with what there is instead."""
    looked_for = " or ".join(
        selector(place, select) for dialect in READABLE for place in _places(dialect, "running")[:1]
    )
    middle = f"pools.{name}: Prometheus has no {looked_for} in the range"
    labels = sorted(select) or ["job"]
    for dialect in READABLE:
        running = selector(dialect.told_by)
        span = f"{max(round(1000 * (wanted.window.end_s - wanted.window.begin_s)), 1)}ms"
        there = await client.at(
            f"count by ({', '.join(labels)}) (last_over_time({running}[{span}]))", wanted.window.end_s
        )
        if there:
            shown = [", ".join(f"{key}={value!r}" for key, value in one.labels.items()) for one in there[:_HINTS]]
            return f"{middle}; {dialect.told_by} is there with {' | '.join(shown) or 'none of these labels'}: correct `select`"
    return f"{middle}, nor any other engine's; is this the right server, and --range?"
