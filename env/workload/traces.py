"""Reading request traces: CSV or Parquet, checked row by row, and giving each request a class.

Symbols: `N` requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from ..contract import BoolArray, FloatArray, IntArray
from .requests import Workload, check_class_names
from .spec import MAX_TOKENS, AssignRule

TraceFormat: TypeAlias = Literal["azure", "plain"]
COLUMNS: dict[str, tuple[str, str, str]] = {
    # Azure/AzurePublicDataset, AzureLLMInferenceTrace_*.csv
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "plain": ("arrival_s", "input_tokens", "output_tokens"),
}
MAX_SPAN_S = 10 * 365 * 86_400
"""A trace longer than ten years has its times in another unit."""
PARQUET_MAGIC = b"PAR1"
SHOWN = 60  # characters of a value or a list of names that fit into a one-line message


class TraceError(ValueError):
    """A trace cannot be used; the message is one line: file, row, column, value, and what would be right."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests as read, before they have classes."""

    arrival_s: FloatArray
    """`[N]` float64, sorted, from the first row."""
    prompt_tokens: IntArray
    """`[N]` int64, >= 1."""
    output_tokens: IntArray
    """`[N]` int64, >= 0."""

    def __len__(self) -> int:
        """`N`."""
        return len(self.arrival_s)


def read_trace(path: Path | str, format: TraceFormat | None = None) -> Trace:
    """Read a trace; `format` is told from the columns if left out, CSV or Parquet from the first bytes.

    Rows are counted from 1, a CSV file's header not counted.

    Raises:
        TraceError: the file cannot be read as a trace.
    """
    path = Path(path)
    table = _read_table(path)
    names = COLUMNS[_format_of(path, table, format)]
    if table.num_rows == 0:
        raise TraceError(f"{path}: has no rows; wanted one row a request under {', '.join(names)}")
    time, prompt, output = (table.column(name) for name in names)
    for name, column in zip(names, (time, prompt, output), strict=True):
        if column.null_count:
            row = int(np.argmax(pc.is_null(column).to_numpy()))
            raise _bad_value(path, row, name, "blank", "a value in every row")
    arrival_s = (_timestamps if names == COLUMNS["azure"] else _numbers)(path, names[0], time)
    return Trace(
        _from_first(path, names[0], time, arrival_s),
        _tokens(path, names[1], prompt, least=1),
        _tokens(path, names[2], output, least=0),
    )


def assign_classes(trace: Trace, rules: Sequence[AssignRule], class_names: Sequence[str], seed: int) -> Workload:
    """Give each request the class of the first rule that takes it; the last rule must take all that are left.

    Shares are drawn from a stream of their own for each rule, so that editing one leaves the draws of the others.

    Raises:
        WorkloadError: a rule names a class that is not in `class_names`.
    """
    names = tuple(class_names)
    check_class_names([rule.class_name for rule in rules], names)
    class_index = np.full(len(trace), -1, dtype=np.int64)
    for i, rule in enumerate(rules):
        takes = (class_index < 0) & _meets(rule, trace)
        if rule.share < 1.0:
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
            takes &= rng.random(len(trace)) < rule.share
        class_index[takes] = names.index(rule.class_name)
    return Workload(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, class_index, names)


def _meets(rule: AssignRule, trace: Trace) -> BoolArray:
    """`[N]` whether each request is within the rule's bounds, which are inclusive."""
    meets = np.ones(len(trace), dtype=np.bool_)
    for tokens, low, high in (
        (trace.prompt_tokens, rule.min_prompt_tokens, rule.max_prompt_tokens),
        (trace.output_tokens, rule.min_output_tokens, rule.max_output_tokens),
    ):
        if low is not None:
            meets &= tokens >= low
        if high is not None:
            meets &= tokens <= high
    return meets


def _read_table(path: Path) -> Any:
    """The file as a `pyarrow.Table`; a CSV file's known columns as text, so that bad values can be shown."""
    try:
        if not path.is_file():
            raise TraceError(f"{path}: no such file; wanted a CSV or Parquet trace")
        with path.open("rb") as file:
            magic = file.read(len(PARQUET_MAGIC))
        if magic == PARQUET_MAGIC:
            return _read_parquet(path)
        if not magic:
            raise TraceError(f"{path}: is empty; wanted a CSV or Parquet trace")
        text = {name: pa.string() for names in COLUMNS.values() for name in names}
        options = pa_csv.ConvertOptions(column_types=text, strings_can_be_null=True, null_values=[""])
        table = pa_csv.read_csv(path, convert_options=options)
        table.column_names  # noqa: B018 -- decodes the header, which need not be text
        return table
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise TraceError(f"{path}: not readable as CSV or Parquet: {_one_line(str(error))}") from None


def _read_parquet(path: Path) -> Any:
    file = pa_parquet.ParquetFile(path)
    wanted = {name for names in COLUMNS.values() for name in names}
    found = file.schema_arrow.names
    if not wanted.intersection(found):
        return file.schema_arrow.empty_table()
    table = file.read(columns=[name for name in found if name in wanted])
    table.validate(full=True)
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(plain))


def _format_of(path: Path, table: Any, format: TraceFormat | None) -> TraceFormat:
    found = table.column_names
    candidates: tuple[TraceFormat, ...] = (format,) if format else ("azure", "plain")
    for candidate in candidates:
        if all(found.count(name) == 1 for name in COLUMNS[candidate]):
            return candidate
    wanted = ", or ".join(f"{', '.join(COLUMNS[candidate])} ({candidate})" for candidate in candidates)
    raise TraceError(f"{path}: has columns {_short(', '.join(map(repr, found)))}; wanted each once: {wanted}")


def _timestamps(path: Path, name: str, column: Any) -> FloatArray:
    """Wall-clock times as seconds, exact to the nanosecond relative to the first row."""
    zoned = pa.timestamp("ns", tz="UTC")
    if pa.types.is_timestamp(column.type):
        column = _cast(path, name, column, pa.timestamp("ns", tz=column.type.tz), "a date from 1678 to 2261")
    else:
        # All rows of a file either name their zone or leave it out.
        first = str(column[0].as_py()).strip()
        has_zone = first.endswith("Z") or any(sign in first[10:] for sign in "+-")
        wanted = "a time like 2023-11-16 18:15:46.6805900" + ("+00:00" if has_zone else "")
        column = _cast(path, name, column, zoned if has_zone else pa.timestamp("ns"), wanted)
    ns = column.cast(pa.int64()).to_numpy()
    # As Python integers the span of two far dates cannot overflow.
    if (int(ns.max()) - int(ns.min())) / 1e9 > MAX_SPAN_S:
        seconds: FloatArray = ns / 1e9
    else:
        seconds = (ns - ns[0]) / 1e9
    return seconds


def _numbers(path: Path, name: str, column: Any) -> FloatArray:
    """A column of numbers as float64, all finite."""
    values = _cast(path, name, column, pa.float64(), "a number").to_numpy()
    _check(path, name, column, ~np.isfinite(values), "a finite number")
    return np.array(values, dtype=np.float64)


def _tokens(path: Path, name: str, column: Any, least: int) -> IntArray:
    """A column of token counts as int64."""
    values = _numbers(path, name, column)
    _check(path, name, column, values < least, f"{least} or more tokens")
    _check(path, name, column, values > MAX_TOKENS, f"at most {MAX_TOKENS} tokens in one request")
    _check(path, name, column, values != np.rint(values), "a whole number of tokens")
    return values.astype(np.int64)


def _from_first(path: Path, name: str, column: Any, times_s: FloatArray) -> FloatArray:
    """Times counted from the first row, if they are sorted and span a plausible time."""
    late = np.zeros(len(times_s), dtype=np.bool_)
    late[1:] = times_s[1:] < times_s[:-1]
    if late.any():
        row = int(np.argmax(late))
        wanted = f"no earlier than row {row}'s {_shown(column, row - 1)}; sort the file by {name}"
        raise _bad_value(path, row, name, _shown(column, row), wanted)
    with np.errstate(over="ignore"):
        from_first: FloatArray = times_s - times_s[0]
    if from_first[-1] > MAX_SPAN_S:
        row = int(np.argmax(from_first > MAX_SPAN_S))
        wanted = f"at most {MAX_SPAN_S} s (10 years) after the first row; are the times in seconds?"
        raise _bad_value(path, row, name, _shown(column, row), wanted)
    return from_first


def _cast(path: Path, name: str, column: Any, to: Any, wanted: str) -> Any:
    """`column` in another type; the first row that has no such value is named."""
    kind = column.type
    of_same_sort = _is_number(kind) if pa.types.is_floating(to) else pa.types.is_timestamp(kind)
    if not (_is_text(kind) or of_same_sort):
        raise TraceError(f"{path}: column {name}: holds {_short(str(kind))}; wanted {wanted} in each row")

    def cast(part: Any) -> Any:
        # Whole numbers beyond 2**53 may be rounded: no valid figure is that large.
        return (pc.utf8_trim_whitespace(part) if _is_text(kind) else part).cast(to, safe=not _is_number(kind))

    try:
        return cast(column)
    except pa.ArrowInvalid:
        row = _first_failing_row(column, cast)
        raise _bad_value(path, row, name, _shown(column, row), wanted) from None


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _first_failing_row(column: Any, cast: Callable[[Any], Any]) -> int:
    """By halving: the first half either fails, or the failure is in the second."""
    first, last = 0, len(column)
    while last - first > 1:
        middle = (first + last) // 2
        try:
            cast(column.slice(first, middle - first))
            first = middle
        except pa.ArrowInvalid:
            last = middle
    return first


def _check(path: Path, name: str, column: Any, bad: BoolArray, wanted: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise _bad_value(path, row, name, _shown(column, row), wanted)


def _bad_value(path: Path, row: int, name: str, seen: str, wanted: str) -> TraceError:
    return TraceError(f"{path}: row {row + 1}: {name}: {_short(seen)}: wanted {wanted}")


def _shown(column: Any, row: int) -> str:
    """A value as a message shows it; times by Arrow, since Python's have no nanoseconds."""
    value = column[row]
    return str(value.cast(pa.string())) if pa.types.is_timestamp(column.type) else repr(value.as_py())


def _one_line(text: str) -> str:
    """A library's reason, fit for a terminal."""
    return _short("".join(c if c.isprintable() else "?" for c in " ".join(text.split())), 2 * SHOWN)


def _short(text: str, most: int = SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
