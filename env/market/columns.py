"""Tables that strangers wrote: columns of CSV or Parquet files as text, and errors that say where, what and what would
be right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from ..contract import FloatArray
from ..one_line import MAX_SHOWN, one_line, shown
from .series import SeriesError

MAX_FILE_BYTES: Final = 64 << 20
MAX_USD_PER_HR: Final = 1e4

Columns: TypeAlias = dict[str, NDArray[Any]]


def stamp(path: Path) -> tuple[int, int]:
    """What changes when the file does: many worlds are drawn from one file, which is read once."""
    try:
        status = path.stat()
    except OSError as error:
        raise problem(path, f"cannot be read: {error.strerror or error}") from None
    if not path.is_file():
        raise problem(path, "no file; wanted a CSV or Parquet file")
    if status.st_size > MAX_FILE_BYTES:
        raise problem(path, f"{status.st_size} bytes, wanted at most {MAX_FILE_BYTES}")
    return status.st_mtime_ns, status.st_size


def read_columns(
    path: Path, formats: Sequence[tuple[str, ...]], others: Sequence[str] = ()
) -> tuple[Columns, tuple[str, ...]]:
    """The columns of a file as text, those of the formats and the `others`, and which of the formats it has."""
    try:
        columns = _columns(path, {*others}.union(*formats))
    except OSError as error:
        raise problem(path, f"cannot be read: {error.strerror or error}") from None
    for names in formats:
        if set(names) <= columns.keys():
            if not len(columns[names[0]]):
                raise problem(path, f"has no rows; wanted rows of {', '.join(names)}")
            return columns, names
    wanted = "; or ".join(", ".join(names) for names in formats)
    raise problem(path, f"columns are {some(list(columns))}; wanted {wanted}")


def _columns(path: Path, known: set[str]) -> Columns:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            table = pa_parquet.read_table(path)
        else:
            names = pa_csv.open_csv(path).schema.names
            as_text = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
            table = pa_csv.read_csv(path, convert_options=as_text)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise problem(path, f"neither CSV nor Parquet: {error}") from None
    # Of a file without any column that some format has, all are told, so that the message can name them.
    names = table.column_names
    wanted = [i for i, name in enumerate(names) if name in known] or list(range(len(names)))
    texts: Columns = {}
    for i in wanted:
        if names[i] in texts and names[i] in known:
            raise problem(path, f"column {shown(names[i])} stands there twice")
        values = table.column(i).to_pylist()
        texts[names[i]] = np.array(["" if value is None else str(value) for value in values], dtype=object)
    return texts


def rows(table: Columns, which: NDArray[Any]) -> Columns:
    """Those rows of every column."""
    return {name: values[which] for name, values in table.items()}


def numbers(
    path: Path, table: Columns, name: str, most: float = np.inf, above_zero: bool = False, whole: bool = False
) -> FloatArray:
    """A column as numbers; SeriesError names the first that is none."""
    texts = enumerate(table[name])
    return np.array([number(path, row, name, text, most, above_zero, whole) for row, text in texts], dtype=np.float64)


def number(
    path: Path, row: int, name: str, text: str, most: float = np.inf, above_zero: bool = False, whole: bool = False
) -> float:
    """A cell as a number of 0 or more; SeriesError if it is none."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    fits = 0.0 <= value <= most and np.isfinite(value) and (value > 0.0 or not above_zero)
    if not fits or (whole and value != round(value)):
        wanted = "a whole number" if whole else "a number"
        wanted += " above 0" if above_zero else " of 0 or more"
        wanted += f", at most {most:g}" if np.isfinite(most) else ""
        raise bad(path, row, name, text, wanted)
    return value


def some(names: Sequence[str]) -> str:
    """The first six names, and how many more there are."""
    head = ", ".join(str(name)[:MAX_SHOWN] for name in names[:6])
    return head if len(names) <= 6 else f"{head} and {len(names) - 6} more"


def bad(path: Path, row: int, column: str, value: str, wanted: str) -> SeriesError:
    """What is wrong with a cell; rows count from 1, the header apart."""
    return problem(path, f"row {row + 1}: {column}: {shown(value)}: wanted {wanted}")


def problem(path: Path, message: str) -> SeriesError:
    """What is wrong with a file, as one line."""
    return SeriesError(one_line(f"{path}: {message}"))
