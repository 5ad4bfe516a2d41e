"""The rows of a request log, CSV or Parquet, whatever its columns are called: times, tokens, names.

Symbols: `N` requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ..env.contract import BoolArray, FloatArray, IntArray
from ..env.workload.formats.columns import Column, Labels
from ..env.workload.formats.kinds import Format
from ..env.workload.formats.problems import bad_file, shown
from ..env.workload.formats.sources import rows_of
from .asked_columns import REQUIRED, bare, columns_of

MAX_REQUESTS: Final = 20_000_000
UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_EPOCH: Final = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
"""Numbers beyond are times since 1970 in a unit of so many seconds: 1e11 s is the year 5138."""
_FAILED: Final = 400
LEAST_TPOT_S: Final = 2e-4
"""A fifth of what the fastest GPUs take for a token of the smallest models."""
LONGEST_S: Final = 92 * 86_400.0


@dataclass(frozen=True)
class AskedLog:
    """A log and how to read it."""

    path: Path
    columns: Mapping[str, str]
    """By field of `asked_columns.FIELDS`, as told."""
    units: Mapping[str, str]
    """By field, one of `UNITS`, as told."""
    from_s: float | None = None
    """Unix seconds, or seconds of the log's own time: earlier requests are left out."""
    until_s: float | None = None
    speed_up: float = 1.0
    """Seconds of emulated engines in one of the log's."""


@dataclass(frozen=True, eq=False)
class Rows:
    """`[N]` each; times in the log's own seconds, NaN where the log does not tell."""

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    ttft_s: FloatArray
    e2e_s: FloatArray
    served: BoolArray
    class_name: Labels | None
    pool: Labels | None

    def picked(self, rows: BoolArray | IntArray) -> Rows:
        """Some of them."""
        return Rows(
            self.arrival_s[rows],
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            self.ttft_s[rows],
            self.e2e_s[rows],
            self.served[rows],
            None if self.class_name is None else self.class_name.picked(rows),
            None if self.pool is None else self.pool.picked(rows),
        )

    def stretched(self, origin_s: float, factor: float) -> Rows:
        """The same requests with `factor` times the time between them, from `origin_s` on, and within each."""
        arrival_s = origin_s + factor * (self.arrival_s - origin_s)
        return replace(self, arrival_s=arrival_s, ttft_s=factor * self.ttft_s, e2e_s=factor * self.e2e_s)

    @property
    def in_one_piece(self) -> BoolArray:
        """Whose tokens came faster than any engine makes them: not streamed, so the first byte says nothing of the first
        token."""
        gaps = self.output_tokens - 1
        with np.errstate(invalid="ignore"):
            return np.asarray((gaps > 0) & (self.e2e_s - self.ttft_s < LEAST_TPOT_S * gaps), dtype=np.bool_)

    def without_ttft(self, which: BoolArray) -> Rows:
        """The same requests, of some of which nobody knows when the first token was there."""
        return replace(self, ttft_s=np.where(which, math.nan, self.ttft_s))

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """Rows of one log, one part after another."""
        names = [[part.class_name for part in parts], [part.pool for part in parts]]
        labels = [Labels.joined([own for own in column if own is not None]) if column[0] else None for column in names]
        return Rows(
            np.concatenate([part.arrival_s for part in parts]),
            np.concatenate([part.prompt_tokens for part in parts]),
            np.concatenate([part.output_tokens for part in parts]),
            np.concatenate([part.ttft_s for part in parts]),
            np.concatenate([part.e2e_s for part in parts]),
            np.concatenate([part.served for part in parts]),
            *labels,
        )


def read_rows(asked: AskedLog) -> tuple[dict[str, str], Rows]:
    """By field the columns that hold them, and all rows.

    Raises:
        AuditError, TraceError: the log cannot be used; one line.
    """
    columns: dict[str, str] = {}

    def choose(names: Sequence[str]) -> Format:
        columns.update(columns_of(names, asked.columns, shown(asked.path)))
        more = {field: name for field, name in columns.items() if field not in REQUIRED}
        return Format("plain", columns["arrival"], columns["prompt_tokens"], columns["output_tokens"], labels=more)

    _, batches = rows_of(asked.path, choose)
    reader = _Reader(asked, columns)
    parts, held = [], 0
    for batch in batches:
        if batch.num_rows:
            parts.append(reader.read(batch))
            held += batch.num_rows
        if held > MAX_REQUESTS:
            raise bad_file(asked.path, f"has more than {MAX_REQUESTS} requests; audit a part of it")
    if not parts:
        raise bad_file(asked.path, "has no rows; wanted one row a request")
    return columns, Rows.joined(parts)


class _Reader:
    """What must be remembered from batch to batch: units and clocks are those of the first one."""

    def __init__(self, asked: AskedLog, columns: Mapping[str, str]) -> None:
        self._asked, self._columns = asked, columns
        self._rows = 0
        self._unit: dict[str, float] = {}
        self._has_zone: dict[str, bool] = {}

    def read(self, batch: Any) -> Rows:
        """The requests of a batch."""
        columns = self._columns
        arrival_s = self._moments(batch, "arrival")
        own = {field: self._column(batch, field) for field in columns}
        nan = np.full(batch.num_rows, math.nan)
        ttft_s = self._spans(batch, "ttft") if "ttft" in columns else nan
        if "first_token" in columns and "ttft" not in columns:
            ttft_s = self._moments(batch, "first_token", blanks=True) - arrival_s
        e2e_s = self._spans(batch, "duration") if "duration" in columns else nan
        if "end" in columns and "duration" not in columns:
            e2e_s = self._moments(batch, "end", blanks=True) - arrival_s
        for field, values in (("ttft", ttft_s), ("duration", e2e_s)):
            told = {"ttft": "first_token", "duration": "end"}[field] if field not in columns else field
            if told in columns:
                with np.errstate(invalid="ignore"):
                    own[told].check(values < 0, "no time before the request's arrival")
        served = np.ones(batch.num_rows, dtype=np.bool_)
        if "status" in columns:
            status = own["status"].with_blanks_as_zero().numbers()
            served = (status > 0) & (status < _FAILED)
        prompt, output = own["prompt_tokens"], own["output_tokens"]
        rows = Rows(
            arrival_s,
            prompt.with_blanks_as_zero().tokens(least=0),
            output.with_blanks_as_zero().tokens(least=0),
            ttft_s,
            e2e_s,
            served,
            own["class"].labels() if "class" in columns else None,
            own["pool"].labels() if "pool" in columns else None,
        )
        prompt.check(served & (rows.prompt_tokens < 1), "1 or more tokens of a request that was served")
        self._rows += batch.num_rows
        return rows

    def _column(self, batch: Any, field: str) -> Column:
        name = self._columns[field]
        return Column(self._asked.path, name, batch.column(name), self._rows)

    def _moments(self, batch: Any, field: str, blanks: bool = False) -> FloatArray:
        """`[N]` seconds of a clock; NaN where there may be blanks."""
        column = self._column(batch, field)
        blank = np.asarray(column.values.is_null())
        if blank.all() and blanks:
            return np.full(len(blank), math.nan)
        if blanks and blank.any():
            whole = np.full(len(blank), math.nan)
            rest = Column(column.path, column.name, column.values.drop_null(), column.first_row)
            whole[~blank] = self._clock(rest, field)
            return whole
        return self._clock(column, field)

    def _clock(self, column: Column, field: str) -> FloatArray:
        if field in self._has_zone or (field not in self._unit and not _is_number(column)):
            if field not in self._has_zone:
                column.check_filled()
                self._has_zone[field] = column.has_zone()
            return column.wall_clock_ns(self._has_zone[field]) / 1e9
        values = column.numbers()
        if field not in self._unit:
            self._unit[field] = self._unit_of(field, float(np.median(np.abs(values))))
        return values * self._unit[field]

    def _spans(self, batch: Any, field: str) -> FloatArray:
        """`[N]` seconds; NaN where blank."""
        column = self._column(batch, field)
        blank = np.asarray(column.values.is_null())
        unit = self._unit.setdefault(field, self._unit_of(field, 0.0))
        values = column.with_blanks_as_zero().numbers() * unit
        return np.where(blank, math.nan, values)

    def _unit_of(self, field: str, size: float) -> float:
        """Seconds in the unit of a column: as told, by its name, or by how large a time is."""
        if field in self._asked.units:
            return UNITS[self._asked.units[field]]
        named = bare(self._columns[field])[1]
        if named:
            return named
        return next((unit for above, unit in _EPOCH if size > above), 1.0)


def _is_number(column: Column) -> bool:
    """Whether the first value is one."""
    if pa.types.is_timestamp(column.values.type) or pa.types.is_date(column.values.type):
        return False
    first = column.values[0].as_py()
    try:
        float(first)
    except (TypeError, ValueError):
        return False
    return True


def in_range(rows: Rows, asked: AskedLog) -> tuple[Rows, float]:
    """Those asked for, in the order of arrival, counted from the beginning; and when that was."""
    order = np.argsort(rows.arrival_s, kind="stable")
    rows = rows.picked(order)
    first_s = asked.from_s if asked.from_s is not None else float(rows.arrival_s[0])
    until_s = math.inf if asked.until_s is None else asked.until_s
    inside = (rows.arrival_s >= first_s) & (rows.arrival_s < until_s)
    if not inside.any():
        raise bad_file(
            asked.path, f"has no request between {first_s:.15g} and {until_s:.15g} s, counted as its arrivals are"
        )
    rows = rows.picked(inside)
    span_s = float(rows.arrival_s[-1]) - first_s
    if span_s > LONGEST_S:
        raise bad_file(
            asked.path,
            f"spans {span_s / 86400:.4g} days; wanted at most {LONGEST_S / 86400:g}: give --from and --until, or --unit arrival=ms",
        )
    return rows, first_s
