"""A fleet's past out of a log of its requests.

Symbols: `N` requests, `T` steps, `C` classes, `P` pools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ..env.contract import FloatArray, IntArray
from ..env.scenario.classes import Target
from ..env.workload.formats.columns import Labels
from ..env.workload.formats.problems import shown
from ..env.workload.requests import Workload
from ..training.observed import ClassSeen
from .description import Description
from .measured import AuditError, Measured
from .request_rows import AskedLog, Rows, in_range, read_rows

_SINCE_S: Final = 1e8
"""Seconds beyond are times since 1970 (from 1973 on)."""
STEPS: Final = 720
"""At most so many steps; none shorter than `LEAST_STEP_S`."""
LEAST_STEP_S: Final = 10.0
NOTE_COUNTS: Final = "A request log knows no replicas: the description's counts are taken for what was paid for."
NOTE_ROUTING: Final = (
    "The log does not tell which pool served what: each class is spread over the pools in proportion to what their replicas"
    " can carry."
)


def read_request_log(asked: AskedLog, description: Description) -> Measured:
    """What a log tells of a fleet.

    Raises:
        AuditError, TraceError: the log cannot be used; one line.
    """
    for name, pool in description.pools.items():
        if not pool.steps:
            raise AuditError(
                f"pools.{name}: wanted count or moves; a request log does not tell how many replicas were up"
            )
    columns, rows = read_rows(asked)
    rows, origin_s = in_range(rows, asked)
    rows = rows.stretched(origin_s, asked.speed_up)
    return _measured(rows, origin_s, columns, asked, description)


def _measured(
    rows: Rows, origin_s: float, columns: Mapping[str, str], asked: AskedLog, description: Description
) -> Measured:
    classes, pools = tuple(description.classes), tuple(description.pools)
    since_s = rows.arrival_s - origin_s
    # Until the last answer, so that a burst is not cut off before it was served.
    ends_s = since_s + np.nan_to_num(rows.e2e_s)
    whole = float(ends_s.max()) if asked.until_s is None else (asked.until_s - origin_s) * asked.speed_up
    duration_s = max(whole, 60.0)
    step_s = max(LEAST_STEP_S, duration_s / STEPS)
    steps = max(1, math.ceil(duration_s / step_s - 1e-9))
    edges_s: FloatArray = np.asarray(np.arange(steps + 1) * step_s, dtype=np.float64)
    class_index = _places(rows.class_name, classes, "class", asked.path, len(since_s))
    arrived = np.zeros((steps, len(classes)))
    step = np.minimum((since_s / step_s).astype(np.int64), steps - 1)
    np.add.at(arrived, (step[rows.served], class_index[rows.served]), 1.0)
    notes = [NOTE_COUNTS]
    whole_answers = rows.in_one_piece
    if whole_answers.any():
        rows = rows.without_ttft(whole_answers)
        notes.append(
            f"{int(whole_answers.sum())} answers came in one piece, not streamed: the log does not tell when their first"
            " tokens were there, so their TTFT and TPOT are left out."
        )
    if len(pools) == 1 or rows.pool is not None:
        pool_index = _places(rows.pool, pools, "pool", asked.path, len(since_s))
        got = np.zeros((steps, len(classes), len(pools)))
        np.add.at(got, (step[rows.served], class_index[rows.served], pool_index[rows.served]), 1.0)
        share = np.divide(got, arrived[:, :, None], out=np.zeros_like(got), where=arrived[:, :, None] > 0)
        work = np.zeros((len(pools), len(classes)))
        tokens = (rows.prompt_tokens + rows.output_tokens)[rows.served]
        np.add.at(work, (pool_index[rows.served], class_index[rows.served]), tokens)
    else:
        share = np.full((steps, len(classes), len(pools)), math.nan)
        tokens_of = np.bincount(
            class_index[rows.served],
            weights=(rows.prompt_tokens + rows.output_tokens)[rows.served],
            minlength=len(classes),
        )
        work = np.full((len(pools), len(classes)), math.nan)
        work[0] = tokens_of  # spread with the routing (`measured.with_routing`)
        notes.append(NOTE_ROUTING)
    failed = int((~rows.served).sum())
    if failed:
        notes.append(f"{failed} requests of the log failed: they are no load in the replay, and count as missed.")
    up = np.stack([_counts(pool.steps, edges_s) for pool in description.pools.values()], axis=1)
    served = rows.picked(rows.served)
    requests = Workload(
        served.arrival_s - origin_s, served.prompt_tokens, served.output_tokens, class_index[rows.served], classes
    )
    seen = {
        name: _seen(rows.picked(class_index == c), own.target)
        for c, (name, own) in enumerate(description.classes.items())
    }
    return Measured(
        source=shown(Path(asked.path.name)) + _columns_named(columns),
        began_at_s=origin_s if origin_s > _SINCE_S else None,
        class_names=classes,
        pool_names=pools,
        edges_s=edges_s,
        arrived=arrived,
        share=share,
        up=up,
        starting=np.zeros_like(up),
        start_s=np.full(len(pools), math.nan),
        busy_frac=np.full(up.shape, math.nan),
        useful_frac=np.full(len(pools), math.nan),
        work_tokens=work,
        waiting=np.full(steps, math.nan),
        running=_in_flight(served, origin_s, edges_s[:-1]),
        kv_used_frac=np.full(up.shape, math.nan),
        classes=seen,
        attainment={name: _between(own) for name, own in seen.items()},
        latencies={},
        lengths={},
        requests=requests,
        known_frac=1.0,
        notes=tuple(notes),
    )


def _columns_named(columns: Mapping[str, str]) -> str:
    """Which columns were taken for what, where their names do not say it."""
    named = [f"{field}: {name}" for field, name in columns.items() if field != name]
    return f" ({', '.join(named)})" if named else ""


def _places(labels: Labels | None, names: Sequence[str], what: str, path: Path, count: int) -> IntArray:
    """`[N]` place of each request's class or pool; all in the only one where one is described."""
    if len(names) == 1:
        return np.zeros(count, dtype=np.int64)
    if labels is None:
        raise AuditError(
            f"{shown(path)}: has no column that tells the {what}, and {len(names)} are described; give --column"
            f" {what}=NAME, or describe one"
        )
    unknown = [name for name in labels.names if name not in names]
    if unknown:
        raise AuditError(
            f"{shown(path)}: {what} {unknown[0]!r} is not described; wanted one of {', '.join(names)} in every row"
        )
    return np.array([names.index(name) for name in labels.names], dtype=np.int64)[labels.codes]


def _counts(moves: Sequence[tuple[float, int]], edges_s: FloatArray) -> FloatArray:
    """`[T]` mean replicas in each step."""
    at = np.array([second for second, _ in moves], dtype=np.float64)
    counts = np.array([count for _, count in moves], dtype=np.float64)
    spent = np.append(0.0, np.cumsum(np.diff(at) * counts[:-1])).astype(np.float64)
    place = np.searchsorted(at, edges_s, side="right") - 1
    upto = spent[place] + (edges_s - at[place]) * counts[place]
    return np.asarray(np.diff(upto) / np.diff(edges_s), dtype=np.float64)


def _in_flight(rows: Rows, origin_s: float, at_s: FloatArray) -> FloatArray:
    """`[T]` requests under way; NaN if the log does not tell when they ended."""
    if np.isnan(rows.e2e_s).any() or not len(rows.e2e_s):
        return np.full(len(at_s), math.nan)
    begun = np.sort(rows.arrival_s - origin_s)
    ended = np.sort(rows.arrival_s - origin_s + rows.e2e_s)
    inside = np.searchsorted(begun, at_s, side="right") - np.searchsorted(ended, at_s, side="right")
    return inside.astype(np.float64)


def _seen(rows: Rows, target: Target) -> ClassSeen:
    """What came of one class's requests."""
    served = rows.served
    gaps = np.maximum(rows.output_tokens - 1, 1)
    tpot_s = np.where(rows.output_tokens > 1, (rows.e2e_s - rows.ttft_s) / gaps, math.nan)
    end_limit = target.e2e_s or target.deadline_s
    limits = {"ttft": (rows.ttft_s, target.ttft_s), "tpot": (tpot_s, target.tpot_s), "e2e": (rows.e2e_s, end_limit)}
    figures: dict[str, float] = {}
    met, known = served.copy(), True
    for label, (values, limit) in limits.items():
        told = values[served & np.isfinite(values)]
        if len(told):
            figures[f"{label}_mean_s"] = float(told.mean())
            figures[f"{label}_p50_s"], figures[f"{label}_p95_s"] = (float(np.quantile(told, q)) for q in (0.5, 0.95))
        if limit is None:
            continue
        figures[f"{label}_target_s"] = limit
        if not len(told):
            known = False
            continue
        with np.errstate(invalid="ignore"):
            met &= ~(values > limit)  # what is not known of a request is not held against it
        if label in ("ttft", "tpot"):
            figures[f"{label}_met"] = float((told <= limit).mean())
    whole = len(served)
    attainment = float(met.sum()) / whole if known and whole else math.nan
    return ClassSeen(requests=float(whole), attainment=attainment, **figures)


def _between(seen: ClassSeen) -> tuple[float, float]:
    """Between which values the attainment lies."""
    if not math.isnan(seen.attainment):
        return seen.attainment, seen.attainment
    known = [share for share in (seen.ttft_met, seen.tpot_met) if not math.isnan(share)]
    return 0.0, min(known, default=1.0)
