"""Reading request traces batch by batch: only what is used is held.

Symbols: `N` requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import FloatArray, IntArray
from .draws import uniform_of_rows
from .formats.columns import Column, Labels
from .formats.kinds import Format
from .formats.problems import TraceError, bad_file
from .formats.sources import batches_of
from .prefixes import Blocks
from .spec import TraceFormat
from .spec.fields import MAX_TOKENS

__all__ = ["Selection", "Trace", "TraceError", "read_trace", "read_trace_batches"]

MAX_SPAN_S = 10 * 365 * 86_400
"""A trace longer than ten years has its times in another unit."""
MAX_HELD = 50_000_000
"""Requests held at once; longer traces are read in parts."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests as read, before they have classes."""

    arrival_s: FloatArray
    """`[N]` float64, sorted, from the first row of the file."""
    prompt_tokens: IntArray
    """`[N]` int64, >= 1."""
    output_tokens: IntArray
    """`[N]` int64, >= 0."""
    row: IntArray = field(default_factory=lambda: _UNSAID)
    """`[N]` int64, the request's row in the file, from 0. Left out: 0 to N - 1."""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    """What the trace says of each request, such as its model, by name."""
    blocks: Blocks | None = None
    """What the prompts consist of, if the trace says it."""
    clock_s: float | None = None
    """Time of the day of the file's first row, in seconds; None if times are no clock times."""
    seen_s: float = 0.0
    """Time of the last row that was read, selected or not."""

    def __post_init__(self) -> None:
        """Count the rows if nobody has."""
        if self.row is _UNSAID:
            object.__setattr__(self, "row", np.arange(len(self.arrival_s)))

    def __len__(self) -> int:
        """`N`."""
        return len(self.arrival_s)

    def picked(self, rows: IntArray) -> Trace:
        """Some of the requests, by place."""
        return Trace(
            self.arrival_s[rows],
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            self.row[rows],
            {name: labels.picked(rows) for name, labels in self.labels.items()},
            self.blocks.picked(rows) if self.blocks else None,
            self.clock_s,
            self.seen_s,
        )

    @staticmethod
    def joined(parts: list[Trace]) -> Trace:
        """Consecutive parts of one trace as one."""
        blocks = [part.blocks for part in parts if part.blocks]
        return Trace(
            np.concatenate([part.arrival_s for part in parts]),
            np.concatenate([part.prompt_tokens for part in parts]),
            np.concatenate([part.output_tokens for part in parts]),
            np.concatenate([part.row for part in parts]),
            {name: Labels.joined([part.labels[name] for part in parts]) for name in parts[0].labels},
            Blocks.joined(blocks) if blocks else None,
            parts[0].clock_s,
            parts[-1].seen_s,
        )


_UNSAID: IntArray = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests of a trace are used; decided while reading, so that others are never held."""

    start_s: float = 0.0
    """From the file's first row."""
    end_s: float = math.inf
    """Reading stops at the first row at or after it: what comes then is not looked at."""
    keep: float = 1.0
    """Share of the requests, drawn one by one."""
    seed: int = 0
    """Draws them: the same ones, however the trace is cut."""
    keep_failed: bool = False
    """Whether requests that the trace marks as failed are used too."""
    block_tokens: int = 512
    """Tokens that one block of a prompt stands for."""


EVERYTHING = Selection()


def read_trace(path: Path | str, format: TraceFormat | None = None, selection: Selection = EVERYTHING) -> Trace:
    """Read a trace, or the part that is selected; `format` is told from the columns if left out.

    Rows are counted from 1, a CSV file's header not counted. The trace may be empty where the file is not.

    Raises:
        TraceError: the file cannot be read as a trace, or more is selected than memory is meant for.
    """
    parts = []
    held = 0
    for part in read_trace_batches(path, format, selection):
        held += len(part)
        if held > MAX_HELD:
            wanted = "select a shorter part (start_s, end_s) or a share (keep) of it"
            raise bad_file(Path(path), f"has more than {MAX_HELD} requests in what is selected; {wanted}")
        parts.append(part)
    return Trace.joined(parts)


def read_trace_batches(
    path: Path | str, format: TraceFormat | None = None, selection: Selection = EVERYTHING
) -> Iterator[Trace]:
    """A trace of any length, some ten thousand rows at a time; times go on from batch to batch.

    A batch may be empty: there is one for each stretch of the file that was read.

    Raises:
        TraceError: the file cannot be read as a trace; while iterating.
    """
    path = Path(path)
    kind, batches = batches_of(path, format)
    reader = _Reader(path, kind, selection)
    for batch in batches:
        if not batch.num_rows:
            continue
        yield reader.read(batch)
        if reader.ended:
            return
    if not reader.rows:
        raise bad_file(path, f"has no rows; wanted one row a request under {', '.join(kind.required)}")


class _Reader:
    """What must be remembered from batch to batch."""

    def __init__(self, path: Path, kind: Format, selection: Selection) -> None:
        self.path = path
        self.kind = kind
        self.selection = selection
        self.rows = 0
        self.ended = False
        self._has_zone = False
        self._origin: int | float = 0
        self._last_s = 0.0
        self._last_shown = ""

    def read(self, batch: Any) -> Trace:
        """The selected requests of the next batch."""
        selection = self.selection
        arrival_s = self._arrivals(self._column(batch, self.kind.time))
        output = self._column(batch, self.kind.output)
        output_tokens = output.tokens(least=0)
        failed = output_tokens == 0 if self.kind.failed_are_empty else np.zeros(len(output), np.bool_)
        prompt = self._column(batch, self.kind.prompt)
        # A failed request may be logged without a prompt.
        prompt_tokens = prompt.tokens(least=0 if self.kind.failed_are_empty else 1)
        used = np.ones(len(output), np.bool_) if selection.keep_failed else ~failed
        prompt.check(used & (prompt_tokens < 1), "1 or more tokens")
        row = self.rows + np.arange(batch.num_rows)
        used &= (arrival_s >= selection.start_s) & (arrival_s < selection.end_s)
        if selection.keep < 1.0:
            used &= uniform_of_rows(row, selection.seed) < selection.keep
        trace = Trace(
            arrival_s,
            prompt_tokens,
            output_tokens,
            row,
            {
                label: self._column(batch, name).labels()
                for label, name in self.kind.labels.items()
                if name in batch.schema.names
            },
            self._blocks(batch, prompt_tokens),
            self._clock_s(),
            float(arrival_s[-1]),
        )
        self.rows += batch.num_rows
        self.ended = bool(arrival_s[-1] >= selection.end_s)
        return trace if used.all() else trace.picked(np.flatnonzero(used))

    def _column(self, batch: Any, name: str) -> Column:
        return Column(self.path, name, batch.column(name), self.rows)

    def _arrivals(self, column: Column) -> FloatArray:
        """`[N]` seconds from the file's first row, if they are sorted and span a plausible time."""
        if self.kind.unit == "timestamp":
            if not self.rows:
                column.check_filled()
                self._has_zone = column.has_zone()
            ns = column.wall_clock_ns(self._has_zone)
            if not self.rows:
                self._origin = int(ns[0])
            # Whole numbers keep all digits; as Python's the span of two far dates cannot overflow.
            far = max(abs(int(ns.max()) - int(self._origin)), abs(int(ns.min()) - int(self._origin))) > 2**62
            from_first = (ns / 1e9 - self._origin / 1e9) if far else (ns - self._origin) / 1e9
        else:
            times = column.numbers()
            if not self.rows:
                self._origin = float(times[0])
            with np.errstate(over="ignore"):
                from_first = (times - self._origin) * (1e-3 if self.kind.unit == "ms" else 1.0)
        before = np.concatenate([[self._last_s], from_first[:-1]])
        late = from_first < before
        if late.any():
            row = int(np.argmax(late))
            shown = column.shown(row - 1) if row else self._last_shown
            raise column.bad(row, f"no earlier than row {self.rows + row}'s {shown}; sort the file by {column.name}")
        wanted = f"at most {MAX_SPAN_S} s (10 years) after the first row; are the times in "
        wanted += {"timestamp": "order?", "s": "seconds?", "ms": "milliseconds?"}[self.kind.unit]
        column.check(from_first > MAX_SPAN_S, wanted)
        self._last_s, self._last_shown = float(from_first[-1]), column.shown(len(column) - 1)
        return np.asarray(from_first, dtype=np.float64)

    def _clock_s(self) -> float | None:
        if not self.kind.clock:
            return None
        if self.kind.unit == "timestamp":
            return (int(self._origin) % (DAY_S * 10**9)) / 1e9
        return float(self._origin % DAY_S)

    def _blocks(self, batch: Any, prompt_tokens: IntArray) -> Blocks | None:
        found = batch.schema.names
        if self.kind.blocks and self.kind.blocks in found:
            column = self._column(batch, self.kind.blocks)
            ids, counts = column.lists()
            block_tokens = self.selection.block_tokens
            begun = (counts - 1) * block_tokens
            column.check(
                (counts > 0) & (begun >= np.maximum(prompt_tokens, 1)),
                f"no more blocks of {block_tokens} tokens than the prompt has",
            )
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            return Blocks(ids, starts, block_tokens, prompt_tokens)
        if self.kind.prefix and self.kind.prefix[0] in found:
            ids, has = self._column(batch, self.kind.prefix[0]).names_as_numbers()
            column = self._column(batch, self.kind.prefix[1])
            tokens = column.with_blanks_as_zero().tokens(least=0)
            column.check(has & (tokens < 1), "1 or more tokens where there is a prefix_id")
            column.check(has & (tokens > prompt_tokens), "no more tokens than the prompt has")
            starts = np.concatenate([[0], np.cumsum(has)]).astype(np.int64)
            return Blocks(ids[has], starts, MAX_TOKENS, tokens)
        return None
