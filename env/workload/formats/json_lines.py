"""JSON lines as batches of rows: fast by Arrow, and by Python's own parser where a line must be shown."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from .kinds import Format
from .problems import bad_file, bad_value, printable, short, unreadable

CHUNK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20
"""A longer line is no request: a prompt of ten million tokens has 5 MB of block ids."""


def json_names(path: Path, stream: Any) -> list[str]:
    """The keys of the first line."""
    for line in _chunks(path, stream):
        first = line.lstrip().split(b"\n", 1)[0]
        if first.strip():
            return list(_object(path, first, 0))
    return []


def json_batches(path: Path, stream: Any, kind: Format) -> Iterator[Any]:
    """Rows as `pyarrow.RecordBatch`es with the format's columns; optional ones that no line has are null."""
    schema = _schema(kind)
    parse = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    row = 0
    for chunk in _chunks(path, stream):
        if not chunk.strip():
            continue
        try:
            read = pa_json.ReadOptions(use_threads=False, block_size=len(chunk) + 1)
            table = pa_json.read_json(io.BytesIO(chunk), read_options=read, parse_options=parse)
        except pa.ArrowException as error:
            _show_bad_line(path, chunk, row, kind)
            raise unreadable(path, error) from None
        yield from table.to_batches()
        row += table.num_rows


def _schema(kind: Format) -> Any:
    number, text = pa.float64(), pa.string()
    types = {
        kind.time: text if kind.unit == "timestamp" else number,
        kind.prompt: number,
        kind.output: number,
        **dict.fromkeys(kind.labels.values(), text),
    }
    if kind.blocks:
        types[kind.blocks] = pa.list_(pa.int64())
    if kind.prefix:
        types |= {kind.prefix[0]: text, kind.prefix[1]: number}
    return pa.schema(types)


def _chunks(path: Path, stream: Any) -> Iterator[bytes]:
    """Some megabytes of whole lines at a time."""
    rest = b""
    while block := stream.read(CHUNK_BYTES):
        whole, newline, after = block.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = after
        else:
            rest += block
        if len(rest) > MAX_LINE_BYTES:
            raise bad_file(path, f"a line is longer than {MAX_LINE_BYTES} bytes; wanted one request a line")
    if rest:
        yield rest


def _object(path: Path, line: bytes, row: int) -> dict[str, Any]:
    """One line as an object, or the reason why it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = printable(short(" ".join(str(error).split())))
        raise bad_file(path, f"row {row + 1}: not JSON: {reason}; wanted an object like {{...}}") from None
    if not isinstance(value, dict):
        raise bad_file(path, f"row {row + 1}: holds a {type(value).__name__}; wanted an object like {{...}}")
    return value


def _show_bad_line(path: Path, chunk: bytes, row: int, kind: Format) -> None:
    """Raise for the first line that has a value of the wrong type; return if Python finds none."""
    for line in chunk.split(b"\n"):
        if not line.strip():
            continue
        found = _object(path, line, row)
        for field in _schema(kind):
            if field.name in found and not _fits(found[field.name], field.type):
                seen = short(json.dumps(found[field.name]))
                raise bad_value(path, row, field.name, seen, _WANTED.get(str(field.type), "a list of whole numbers"))
        row += 1


_WANTED = {"double": "a number", "string": "a text"}


def _fits(value: Any, kind: Any) -> bool:
    if value is None:
        return True
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if pa.types.is_floating(kind):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and -(2**63) <= v < 2**63 for v in value
    )
