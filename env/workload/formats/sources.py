"""Trace files as batches of rows, however they are packed, never more than some megabytes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from ..spec import TraceFormat
from .json_lines import json_batches, json_names
from .kinds import FORMATS, Format, format_of
from .problems import TraceError, bad_file, unreadable

PARQUET_MAGIC = b"PAR1"
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
BLOCK_BYTES = 4 << 20
"""Of a CSV file, parsed at once; no row may be longer."""
BATCH_ROWS = 65_536
"""Of a Parquet file, read at once."""
BUFFER_BYTES = 1 << 20

Choose: TypeAlias = Callable[[Sequence[str]], Format]
"""Says which of a file's columns hold what, from their names; TraceError if none does."""


def batches_of(path: Path, stated: TraceFormat | None) -> tuple[Format, Iterator[Any]]:
    """The format of a file, and its rows as `pyarrow.RecordBatch`es with (at least) the columns that were found.

    CSV values stay text, so that bad ones can be shown.

    Raises:
        TraceError: the file cannot be read, here or while iterating.
    """
    return rows_of(path, lambda names: format_of(path, names, stated))


def rows_of(path: Path, choose: Choose) -> tuple[Format, Iterator[Any]]:
    """As `batches_of`, of any columns: `choose` is told their names.

    Raises:
        TraceError: the file cannot be read, here or while iterating.
    """
    with _refusing(path):
        _check_file(path)
        with path.open("rb") as file:
            magic = file.read(len(PARQUET_MAGIC))
        if not magic:
            raise bad_file(path, "is empty; wanted a CSV, Parquet or JSON lines trace")
        if magic == PARQUET_MAGIC:
            return _parquet(path, choose)
        codec = next((name for start, name in PACKED.items() if magic.startswith(start)), None)
        with _opened(path, codec) as stream:
            begins = stream.read(BUFFER_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if begins == b"[":
            raise bad_file(path, "holds a JSON array; wanted JSON lines: one object a line")
        return (_json_lines if begins == b"{" else _csv)(path, codec, choose)


def _check_file(path: Path) -> None:
    """Only a regular file: a pipe or a device might never end."""
    wanted = "wanted a CSV, Parquet or JSON lines trace"
    try:
        if path.is_file():
            return
        there = path.exists()
    except ValueError:  # a NUL in the name
        there = False
    except OSError as error:
        raise bad_file(path, f"cannot be opened: {error.strerror or error}; {wanted}") from None
    raise bad_file(path, f"is no regular file; {wanted}" if there else f"no such file; {wanted}")


def _csv(path: Path, codec: str | None, choose: Choose) -> tuple[Format, Iterator[Any]]:
    read = pa_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
    # The header first: types that are guessed for other columns could turn out wrong many rows later.
    text = {name: pa.string() for kind in FORMATS for name in kind.columns}
    with _opened(path, codec) as stream:
        names = pa_csv.open_csv(stream, read, convert_options=pa_csv.ConvertOptions(column_types=text)).schema.names
    kind = choose(names)
    convert = pa_csv.ConvertOptions(
        column_types=text | dict.fromkeys(kind.columns, pa.string()),
        include_columns=[name for name in kind.columns if name in names],
        strings_can_be_null=True,
        null_values=[""],
    )

    def batches() -> Iterator[Any]:
        with _refusing(path), _opened(path, codec) as stream:
            yield from pa_csv.open_csv(stream, read, convert_options=convert)

    return kind, batches()


def _json_lines(path: Path, codec: str | None, choose: Choose) -> tuple[Format, Iterator[Any]]:
    with _opened(path, codec) as stream:
        names = json_names(path, stream)
    kind = choose(names)

    def batches() -> Iterator[Any]:
        with _refusing(path), _opened(path, codec) as stream:
            yield from json_batches(path, stream, kind)

    return kind, batches()


def _parquet(path: Path, choose: Choose) -> tuple[Format, Iterator[Any]]:
    with pa_parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
    kind = choose(names)
    columns = [name for name in kind.columns if name in names]

    def batches() -> Iterator[Any]:
        # Buffered: otherwise whole columns of a row group would be held.
        with _refusing(path), pa_parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                batch.validate(full=True)
                yield _plain(batch)

    return kind, batches()


def _plain(batch: Any) -> Any:
    """Without dictionaries."""
    arrays = [a.cast(a.type.value_type) if pa.types.is_dictionary(a.type) else a for a in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


@contextmanager
def _opened(path: Path, codec: str | None) -> Iterator[Any]:
    with pa.OSFile(str(path), "rb") as raw:
        if codec is None:
            yield raw
        else:
            with pa.CompressedInputStream(raw, codec) as unpacked:
                yield unpacked


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what libraries raise on damaged files into one line."""
    try:
        yield
    except TraceError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise unreadable(path, error) from None
