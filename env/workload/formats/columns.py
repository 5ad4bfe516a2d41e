"""One column of a batch of rows: turned into numbers, or refused by row and value.

Symbols: `N` rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...contract import BoolArray, FloatArray, IntArray
from ..spec import MAX_TOKENS
from .problems import SHOWN, TraceError, bad_file, bad_value, short

MAX_NAMES = 10_000
"""Different models or classes in a trace; more is a column of something else."""
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of names, each kept once."""

    codes: IntArray
    """`[N]` place in `names`."""
    names: tuple[str, ...]

    def picked(self, rows: BoolArray | IntArray) -> Labels:
        """Some of the rows."""
        return Labels(self.codes[rows], self.names)

    @staticmethod
    def joined(parts: list[Labels]) -> Labels:
        """The rows of all parts, one after another."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        place = {name: i for i, name in enumerate(names)}
        codes = [np.array([place[name] for name in part.names], np.int64)[part.codes] for part in parts if part.names]
        return Labels(np.concatenate([np.empty(0, np.int64), *codes]), names)


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one column in consecutive rows of a file."""

    path: Path
    name: str
    values: Any
    """`[N]` a `pyarrow.Array`: numbers, text, times or lists."""
    first_row: int
    """The file's row, from 0, of the first value."""

    def __len__(self) -> int:
        """`N`."""
        return len(self.values)

    def bad(self, row: int, wanted: str) -> TraceError:
        """What is said of the value in a row of this batch."""
        return bad_value(self.path, self.first_row + row, self.name, self.shown(row), wanted)

    def shown(self, row: int) -> str:
        """A value as a message shows it; times by Arrow, since Python's have no nanoseconds."""
        value = self.values[row]
        if not value.is_valid:
            return "blank"
        if pa.types.is_timestamp(self.values.type):
            return str(value.cast(pa.string()))
        return short(repr(value.as_py()), 2 * SHOWN)

    def check(self, bad: BoolArray, wanted: str) -> None:
        """Refuse the first row that is `bad`."""
        if bad.any():
            raise self.bad(int(np.argmax(bad)), wanted)

    def check_filled(self) -> None:
        """Refuse the first row without a value."""
        if self.values.null_count:
            self.check(np.asarray(pc.is_null(self.values)), "a value in every row")

    def with_blanks_as_zero(self) -> Column:
        """The same, 0 where there is no value."""
        filled = self.values.cast(pa.int64()) if pa.types.is_null(self.values.type) else self.values
        zero = pa.scalar("0" if _is_text(filled.type) else 0, filled.type) if _is_plain(filled.type) else None
        return self if zero is None else Column(self.path, self.name, pc.fill_null(filled, zero), self.first_row)

    def numbers(self) -> FloatArray:
        """`[N]` float64, all finite."""
        self.check_filled()
        values = np.array(self._cast(pa.float64(), "a number"), dtype=np.float64)
        self.check(~np.isfinite(values), "a finite number")
        return values

    def tokens(self, least: int) -> IntArray:
        """`[N]` int64 token counts."""
        values = self.numbers()
        self.check(values < least, f"{least} or more tokens")
        self.check(values > MAX_TOKENS, f"at most {MAX_TOKENS} tokens in one request")
        self.check(values != np.rint(values), "a whole number of tokens")
        return values.astype(np.int64)

    def has_zone(self) -> bool:
        """Whether the first value, a wall-clock time as text, names its time zone."""
        if not _is_text(self.values.type):
            return False
        first = str(self.values[0].as_py()).strip()
        return first.endswith("Z") or any(sign in first[10:] for sign in "+-")

    def wall_clock_ns(self, has_zone: bool) -> IntArray:
        """`[N]` nanoseconds since 1970; all rows of a file either name their zone or leave it out."""
        self.check_filled()
        if pa.types.is_timestamp(self.values.type):
            values = self._cast(pa.timestamp("ns", tz=self.values.type.tz), "a date from 1678 to 2261")
        else:
            wanted = "a time like 2023-11-16 18:15:46.6805900" + ("+00:00" if has_zone else "")
            values = self._cast(pa.timestamp("ns", tz="UTC") if has_zone else pa.timestamp("ns"), wanted)
        ns: IntArray = np.asarray(values.cast(pa.int64()))
        return ns

    def labels(self) -> Labels:
        """`[N]` names; a blank is the empty name."""
        kind = self.values.type
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise bad_file(self.path, f"column {self.name}: holds {short(str(kind))}; wanted a name in each row")
        encoded = pc.fill_null(self.values.cast(pa.string()), "").dictionary_encode()
        names = tuple(encoded.dictionary.to_pylist())
        codes = np.asarray(encoded.indices).astype(np.int64)
        if len(names) > MAX_NAMES:
            raise bad_file(self.path, f"column {self.name}: more than {MAX_NAMES} different names; wanted few")
        long = np.array([len(name) > MAX_NAME for name in names], np.bool_)
        if long.any():
            self.check(long[codes], f"a name of at most {MAX_NAME} characters")
        return Labels(codes, names)

    def names_as_numbers(self) -> tuple[IntArray, BoolArray]:
        """`[N]` a number that stands for each name (the first 8 bytes of its BLAKE2b hash), and `[N]` whether it has
        one. Batches need not remember each other's names."""
        kind = self.values.type
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise bad_file(self.path, f"column {self.name}: holds {short(str(kind))}; wanted a name in each row")
        encoded = pc.fill_null(self.values.cast(pa.string()), "").dictionary_encode()
        names = encoded.dictionary.to_pylist()
        digests = [hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest() for name in names]
        codes = np.asarray(encoded.indices)
        numbers: IntArray = np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)[codes]
        return numbers, np.array([name != "" for name in names], np.bool_)[codes]

    def lists(self) -> tuple[IntArray, IntArray]:
        """`[B]` the whole numbers in all rows' lists, and `[N]` how many each row has (0 where it has none)."""
        values, kind = self.values, self.values.type
        if pa.types.is_null(kind):
            return np.empty(0, np.int64), np.zeros(len(values), np.int64)
        if _is_text(kind):  # as written by CSV files: "[0, 1, 2]" or "0 1 2"
            text = pc.utf8_trim(values, characters="[]() \t")
            filled = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
            values = pc.split_pattern_regex(filled, pattern=r"[,;\s]+")
        elif not _is_list_of_numbers(kind):
            raise bad_file(self.path, f"column {self.name}: holds {short(str(kind))}; wanted a list of whole numbers")

        def cast(part: Any) -> Any:
            flat = part.flatten()
            return flat.cast(pa.int64(), safe=True)

        counts = np.asarray(pc.fill_null(pc.list_value_length(values), 0)).astype(np.int64)
        try:
            flat = cast(values)
        except pa.ArrowInvalid:
            raise self.bad(_first_failing_row(values, cast), "a list of whole numbers") from None
        if flat.null_count:
            place = int(np.argmax(np.asarray(pc.is_null(flat))))
            raise self.bad(int(np.searchsorted(np.cumsum(counts), place, side="right")), "a list without blanks")
        ids: IntArray = np.asarray(flat).astype(np.int64)
        return ids, counts

    def _cast(self, to: Any, wanted: str) -> Any:
        """The values in another type; the first row that has no such value is named."""
        kind = self.values.type
        of_same_sort = _is_number(kind) if pa.types.is_floating(to) else pa.types.is_timestamp(kind)
        if not (_is_text(kind) or of_same_sort):
            raise bad_file(self.path, f"column {self.name}: holds {short(str(kind))}; wanted {wanted} in each row")

        def cast(part: Any) -> Any:
            # Whole numbers beyond 2**53 may be rounded: no valid figure is that large.
            return (pc.utf8_trim_whitespace(part) if _is_text(kind) else part).cast(to, safe=not _is_number(kind))

        try:
            return cast(self.values)
        except pa.ArrowInvalid:
            raise self.bad(_first_failing_row(self.values, cast), wanted) from None


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_plain(kind: Any) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list_of_numbers(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and (pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)))


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
