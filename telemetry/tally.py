"""From the access log's records to per-class tallies, and the sliding window over them. Pure.

An emulation may run `speed_up` times faster than the wall. Envoy times with the wall's clock, so every duration from
its log is multiplied by `speed_up` here; window lengths and tick times are the decider's seconds already.

Symbols: `C` classes, `P` pools, `W` = `env.window.TALLY_WIDTH`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ..env.contract import CLASS_COLUMNS, Cluster, FloatArray, Targets
from ..env.window import (
    ARRIVED,
    E2E,
    E2E_SUM_S,
    FINISHED,
    LOST,
    MET,
    MET_OUTPUT_SUM,
    OUTPUT_SQUARES,
    OUTPUT_SUM,
    PROMPT_SQUARES,
    PROMPT_SUM,
    SHED,
    TPOT,
    TTFT,
    bucket_of,
    class_columns,
    empty_tally,
)
from .envoy_log import LogRecord, RequestRecord, StartRecord, still_open, tpot_s

CLIENT_LEFT: Final = "DC"
"""Envoy's flag for a client that closed its connection."""
LONGEST_OPEN_S: Final = 3600.0
"""Wall seconds after which a request without an end counts as gone: its proxy died before it could log."""
_TOKEN_SUMS: Final = (PROMPT_SUM, PROMPT_SQUARES, OUTPUT_SUM, OUTPUT_SQUARES)


@dataclass(frozen=True)
class TickTally:
    """What one tick's records say."""

    counts: FloatArray
    """`[C, W]` as `env.window` lays it out; token sums over the requests in `told` only."""
    told: FloatArray
    """`[C]` finished requests whose token usage is known (a stream tells only if its client asked)."""
    in_flight: FloatArray
    """`[C]` handed to a replica and not over, at the end of the tick."""
    work_tokens: FloatArray
    """`[P, C]` prompt and output tokens of the tick's finished requests."""
    response_bytes: FloatArray
    """`[P, C]` sent to clients by requests that ended in the tick."""
    open_requests: Mapping[str, StartRecord]
    """Those in flight, for the next tick."""
    unclassified: int
    """Records that no class of the cluster could be given to; they are counted nowhere else."""


def tally(
    records: Sequence[LogRecord],
    open_before: Mapping[str, StartRecord],
    cluster: Cluster,
    now_unix_s: float,
    speed_up: float = 1.0,
) -> TickTally:
    """Count one tick's `records`, in the order of the log.

    A request arrives when it is first handed to a replica, or, if it never was, when it is over. What becomes of it:

    - status 429, or the proxy's own 503 while no replica is ready anywhere (both with Retry-After): shed;
    - 2xx in full: finished, and met if no target was missed. A target that cannot be measured is not held against it:
      a plain (not streamed) answer does not tell its TTFT and TPOT, nor does a stream without usage tell its TPOT;
    - left by its client: lost if a target was already missed by then, else not counted: nobody's promise was broken;
    - other 4xx: not counted, the client's own mistake;
    - anything else (5xx, a stream that was cut): lost.

    The deadline counts from this attempt's first byte: the log does not tell when a client that was turned away had
    first come.

    Args:
        records: starts and ends, as `envoy_log.LogTail.read` gives them.
        open_before: `open_requests` of the tick before; empty at first.
        cluster: names of classes and pools, and the targets.
        now_unix_s: the wall's time, to forget requests whose end was never logged.
        speed_up: emulated seconds per wall second.
    """
    class_of = {name: i for i, name in enumerate(cluster.class_names)}
    ends = [r for r in records if isinstance(r, RequestRecord) and r.class_name in class_of]
    open_after = {
        stream_id: start
        for stream_id, start in still_open(open_before, records).items()
        if start.started_at_s > now_unix_s - LONGEST_OPEN_S
    }
    counts = empty_tally(len(class_of))
    counts[:, ARRIVED] = _per_class(_arrivals(records, open_before), class_of)
    fates = [_fate(r, cluster.targets, class_of[str(r.class_name)], speed_up) for r in ends]
    for fate in (SHED, LOST, FINISHED, MET):
        # A request that met its targets has finished too.
        wanted = {fate, MET} if fate == FINISHED else {fate}
        counts[:, fate] = _per_class((r.class_name for r, f in zip(ends, fates, strict=True) if f in wanted), class_of)
    finished = [r for r, f in zip(ends, fates, strict=True) if f in (FINISHED, MET)]
    told = [r for r in finished if not math.isnan(r.prompt_tokens + _output_tokens(r))]
    _add_latencies(counts, finished, class_of, speed_up)
    _add_tokens(counts, told, class_of)
    _add_met_tokens(counts, [r for r, f in zip(ends, fates, strict=True) if f == MET], class_of)
    return TickTally(
        counts=counts,
        told=_per_class((r.class_name for r in told), class_of),
        in_flight=_per_class((start.class_name for start in open_after.values()), class_of),
        work_tokens=_by_pool(told, [r.prompt_tokens + _output_tokens(r) for r in told], cluster),
        response_bytes=_by_pool(ends, [float(r.response_bytes) for r in ends], cluster),
        open_requests=open_after,
        unclassified=sum(r.class_name not in class_of for r in records),
    )


def first_token_s(record: RequestRecord) -> float:
    """Wall seconds to the first token; NaN for a plain answer of several tokens, which comes whole and does not tell.

    An answer without output tokens (an embedding) or with one is its own first token.
    """
    return record.first_body_s if record.streamed or not _output_tokens(record) > 1 else math.nan


def _output_tokens(record: RequestRecord) -> float:
    """Output tokens; a plain answer that names its prompt's tokens only has none (an embedding)."""
    if math.isnan(record.completion_tokens) and not record.streamed and not math.isnan(record.prompt_tokens):
        return 0.0
    return record.completion_tokens


def _arrivals(records: Iterable[LogRecord], open_before: Mapping[str, StartRecord]) -> list[str | None]:
    """The class of each request that arrived in the tick."""
    seen = set(open_before)
    arrived: list[str | None] = []
    for record in records:
        is_start = isinstance(record, StartRecord)
        # An end that a replica was tried for, but whose start is not known, arrived before this log was followed.
        if record.stream_id not in seen and (is_start or (isinstance(record, RequestRecord) and record.attempts == 0)):
            arrived.append(record.class_name)
        seen.add(record.stream_id)
    return arrived


def _fate(record: RequestRecord, targets: Targets, c: int, speed_up: float) -> int | None:
    """SHED, MET, FINISHED (but not met), LOST, or None for a request that is not counted."""
    if record.code == 429 or record.shed:
        return SHED
    if record.succeeded:
        return FINISHED if _missed(record, targets, c, speed_up) else MET
    if CLIENT_LEFT in record.flags.split(","):
        return LOST if _missed(record, targets, c, speed_up) else None
    return None if 400 <= record.code < 500 else LOST


def _missed(record: RequestRecord, targets: Targets, c: int, speed_up: float) -> bool:
    """Whether the request has broken one of its class's targets; comparisons with NaN are False."""
    waited_s = record.total_s if math.isnan(record.first_body_s) else first_token_s(record)
    return bool(
        waited_s * speed_up > targets.ttft_s[c]
        or tpot_s(record) * speed_up > targets.tpot_s[c]
        or record.total_s * speed_up > targets.e2e_s[c]
        or record.total_s * speed_up > targets.deadline_s[c]
    )


def _per_class(names: Iterable[str | None], class_of: Mapping[str, int]) -> FloatArray:
    """`[C]` how often each class is named."""
    rows = [class_of[name] for name in names if name is not None and name in class_of]
    return np.bincount(np.array(rows, dtype=np.int64), minlength=len(class_of)).astype(np.float64)


def _rows(records: Sequence[RequestRecord], class_of: Mapping[str, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([class_of[str(r.class_name)] for r in records], dtype=np.int64)


def _add_latencies(
    counts: FloatArray, finished: Sequence[RequestRecord], class_of: Mapping[str, int], speed_up: float
) -> None:
    rows = _rows(finished, class_of)
    np.add.at(counts[:, E2E_SUM_S], rows, np.array([r.total_s for r in finished]) * speed_up)
    for first_column, measure in ((TTFT, first_token_s), (TPOT, tpot_s), (E2E, _total_s)):
        seconds = np.array([measure(r) for r in finished], dtype=np.float64) * speed_up
        known = ~np.isnan(seconds)
        np.add.at(counts, (rows[known], first_column + bucket_of(seconds[known])), 1.0)


def _total_s(record: RequestRecord) -> float:
    return record.total_s


def _add_tokens(counts: FloatArray, told: Sequence[RequestRecord], class_of: Mapping[str, int]) -> None:
    rows = _rows(told, class_of)
    prompt = np.array([r.prompt_tokens for r in told], dtype=np.float64)
    output = np.array([_output_tokens(r) for r in told], dtype=np.float64)
    for column, values in zip(_TOKEN_SUMS, (prompt, prompt**2, output, output**2), strict=True):
        np.add.at(counts[:, column], rows, values)


def _add_met_tokens(counts: FloatArray, met: Sequence[RequestRecord], class_of: Mapping[str, int]) -> None:
    output = np.array([_output_tokens(r) for r in met], dtype=np.float64)
    np.add.at(counts[:, MET_OUTPUT_SUM], _rows(met, class_of), np.nan_to_num(output))


def _by_pool(records: Sequence[RequestRecord], amounts: Sequence[float], cluster: Cluster) -> FloatArray:
    """`[P, C]` sum of the amounts; a request that no pool answered counts nowhere."""
    total = np.zeros((len(cluster.pool_names), len(cluster.class_names)))
    for record, amount in zip(records, amounts, strict=True):
        if record.pool in cluster.pool_names:
            place = cluster.pool_names.index(str(record.pool)), cluster.class_names.index(str(record.class_name))
            total[place] += amount
    return total


@dataclass(frozen=True)
class _Tick:
    end_s: float
    span_s: float
    tally: TickTally


@dataclass(frozen=True)
class ClassWindow:
    """The last ticks' tallies. A tick whose log could not be read is not pushed, and is no part of any rate."""

    window_s: float
    """The decider's seconds; ticks that ended longer ago have left the window."""
    _ticks: tuple[_Tick, ...] = field(default=(), repr=False)

    def pushed(self, end_s: float, span_s: float, tick: TickTally) -> ClassWindow:
        """The window after a tick of `span_s` seconds that ended at `end_s`."""
        if not span_s > 0.0:
            raise ValueError(f"span_s: {span_s}, wanted above 0")
        return replace(self, _ticks=(*self._within(end_s), _Tick(end_s, span_s, tick)))

    def columns(self, now_s: float, n_classes: int) -> FloatArray:
        """`[C, len(CLASS_COLUMNS)]` the class block of a Snapshot at `now_s`; all NaN if no tick is in the window."""
        ticks = self._within(now_s)
        if not ticks:
            return np.full((n_classes, len(CLASS_COLUMNS)), np.nan)
        total = np.sum([t.tally.counts for t in ticks], axis=0)
        told = np.sum([t.tally.told for t in ticks], axis=0)
        # Means and spreads are of the requests that told; the window divides by all that finished.
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.where(told > 0, total[:, FINISHED] / told, np.nan)
        total[:, _TOKEN_SUMS] *= scale[:, None]
        return class_columns(total, sum(t.span_s for t in ticks), ticks[-1].tally.in_flight)

    def _within(self, now_s: float) -> tuple[_Tick, ...]:
        return tuple(t for t in self._ticks if t.end_s > now_s - self.window_s)
