"""ServeGen's clients: when and how each of a service's clients sent, window by window.

Symbols: `W` windows, `L` tables of lengths.

Source: alibaba/ServeGen, `data/*/*/chunk-<client>-trace.csv` (no header: start s, requests/s, coefficient of variation,
Gamma or Weibull or nothing, shape, scale) and `chunk-<client>-dataset.json` (by start s, by field: a Python mapping
from tokens to probability, as text). Xiang et al., arXiv:2505.09999. The same as tables: one row a window with
`client, window_start_s, rate_rps, family, p1` and one row a client, bucket and field with the quantiles `q0` to `q100`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from ...contract import FloatArray, IntArray
from ..spec.fields import MAX_TOKENS
from .columns import Column
from .problems import TraceError, bad_file, bad_value, printable, short, unreadable

DEFAULT_WINDOW_S = 600.0
FAMILIES = ("", "Gamma", "Weibull")
"""Distribution of gaps; blank where a window has too few requests to fit one."""
FIELDS = ("input_tokens", "output_tokens")
MAX_FILE_BYTES = 1 << 30
MAX_SPAN_S = 10 * 365 * 86_400
MAX_RATE_PER_S = 1e6
_CHUNK = re.compile(r"chunk-(\d{1,9})-trace\.csv")
_PAIR = re.compile(r"\s*(\d{1,9})(?:\.0*)?\s*:\s*([-+.0-9eE]{1,40})\s*")
_QUANTILE = re.compile(r"q(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, eq=False)
class ClientWindows:
    """Windows in which clients sent, sorted by client and start."""

    client: IntArray
    """`[W]`"""
    start_s: FloatArray
    """`[W]`"""
    rate_per_s: FloatArray
    """`[W]` above 0."""
    family: IntArray
    """`[W]` place in `FAMILIES`."""
    shape: FloatArray
    """`[W]` of the gaps' distribution; 1 where there is none."""
    window_s: float
    """Length of every window."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """A distribution of token counts."""

    share: FloatArray
    """Rising from 0 (or above) to 1."""
    tokens: FloatArray
    """Quantile at each share."""
    steps: bool
    """Whether tokens are whole values with these cumulated probabilities; otherwise the quantile is straight between."""

    def at(self, uniform: FloatArray) -> IntArray:
        """Whole token counts at these shares."""
        if self.steps:
            place = np.minimum(np.searchsorted(self.share, uniform, side="right"), len(self.share) - 1)
            return self.tokens[place].astype(np.int64)
        return np.rint(np.interp(uniform, self.share, self.tokens)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Service:
    """All clients of one service."""

    windows: ClientWindows
    lengths: dict[int, list[tuple[float, Quantiles, Quantiles]]]
    """By client: from when, prompt and output lengths; sorted. A client may be missing."""


def read_service(path: Path, lengths: Path | None) -> Service:
    """A service from a folder of chunks, or from a table of clients and one of lengths.

    Raises:
        TraceError: one line naming the file, row, column, value and what would be right.
    """
    try:
        if path.is_dir():
            return _read_chunks(path)
        if lengths is None:
            if "_clients" not in path.name:
                raise bad_file(path, "name has no `_clients`, so the file of lengths is unknown; wanted `lengths`")
            lengths = path.with_name(path.name.replace("_clients", "_lengths"))
        return Service(_read_windows(path), _read_lengths(lengths))
    except TraceError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError, RecursionError) as error:
        raise unreadable(path, error) from None


def _table(path: Path, names: list[str]) -> Any:
    _check_file(path)
    with pa_parquet.ParquetFile(path) as file:
        found = file.schema_arrow.names
        missing = [name for name in names if found.count(name) != 1]
        if missing:
            raise bad_file(path, f"column {missing[0]}: there {found.count(missing[0])} times; wanted it once")
        table = file.read(columns=[*names, *(name for name in found if _QUANTILE.fullmatch(name))])
    table.validate(full=True)
    if not table.num_rows:
        raise bad_file(path, "has no rows; wanted one row a client and window")
    return table


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise bad_file(path, "no such file; wanted a table of a ServeGen service, or a folder of its chunks")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise bad_file(path, f"larger than {MAX_FILE_BYTES} bytes; wanted a table of clients")


def _column(path: Path, table: Any, name: str) -> Column:
    column = table.column(name)
    values = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return Column(path, name, values, 0)


def _read_windows(path: Path) -> ClientWindows:
    table = _table(path, ["client", "window_start_s", "rate_rps", "family", "p1"])
    return _windows(
        path,
        _column(path, table, "client"),
        *(_column(path, table, name) for name in ("window_start_s", "rate_rps", "family", "p1")),
    )


def _windows(path: Path, client: Column, start: Column, rate: Column, family: Column, shape: Column) -> ClientWindows:
    who = client.numbers()
    client.check((who != np.rint(who)) | (who < 0) | (who > 1e9), "a client's whole number, 0 or more")
    start_s, rate_per_s = start.numbers(), rate.numbers()
    start.check((start_s < 0) | (start_s > MAX_SPAN_S), f"seconds from 0 to {MAX_SPAN_S} (10 years)")
    rate.check((rate_per_s < 0) | (rate_per_s > MAX_RATE_PER_S), f"requests per second from 0 to {MAX_RATE_PER_S:g}")
    labels = family.labels()
    known = np.array([name in FAMILIES for name in labels.names], np.bool_)
    if len(labels.names):
        family.check(~known[labels.codes], "Gamma, Weibull or nothing")
    kinds = np.array([FAMILIES.index(name) for name in labels.names], np.int64)[labels.codes]
    shapes = np.where(kinds > 0, shape.with_blanks_as_zero().numbers(), 1.0)
    shape.check((shapes < 1e-3) | (shapes > 1e9), "a shape from 0.001 to 1e9")
    shape.check((kinds == 2) & (shapes < 0.1), "a Weibull shape of at least 0.1")
    rows = np.lexsort((start_s, who))
    rows = rows[rate_per_s[rows] > 0]
    starts = np.unique(start_s)
    window_s = float(np.diff(starts).min()) if len(starts) > 1 else DEFAULT_WINDOW_S
    twice = np.flatnonzero((np.diff(who[rows]) == 0) & (np.diff(start_s[rows]) == 0))
    if len(twice):
        raise start.bad(int(rows[twice[0] + 1]), "each of a client's windows once")
    return ClientWindows(
        who[rows].astype(np.int64), start_s[rows], rate_per_s[rows], kinds[rows], shapes[rows], window_s
    )


def _read_lengths(path: Path) -> dict[int, list[tuple[float, Quantiles, Quantiles]]]:
    table = _table(path, ["client", "bucket_start_s", "field"])
    names = sorted((float(m[1]), m[0]) for m in map(_QUANTILE.fullmatch, table.column_names) if m)
    if len(names) < 2 or names[-1][0] != 100:
        raise bad_file(path, f"has {len(names)} columns of quantiles; wanted q0 to q100, two or more")
    share = np.array([q for q, _ in names]) / 100.0
    client, start = _column(path, table, "client").numbers(), _column(path, table, "bucket_start_s").numbers()
    field = _column(path, table, "field").labels()
    columns = [_column(path, table, name) for _, name in names]
    tokens = np.stack([column.numbers() for column in columns], axis=1)
    for j, column in enumerate(columns):
        column.check((tokens[:, j] < 0) | (tokens[:, j] > MAX_TOKENS), f"from 0 to {MAX_TOKENS} tokens")
        if j:
            column.check(tokens[:, j] < tokens[:, j - 1], f"no less than {names[j - 1][1]}")
    found: dict[tuple[int, float], dict[str, Quantiles]] = {}
    for i, code in enumerate(field.codes):
        found.setdefault((int(client[i]), float(start[i])), {})[field.names[code]] = Quantiles(share, tokens[i], False)
    return _by_client(path, found)


def _by_client(
    path: Path, found: dict[tuple[int, float], dict[str, Quantiles]]
) -> dict[int, list[tuple[float, Quantiles, Quantiles]]]:
    lengths: dict[int, list[tuple[float, Quantiles, Quantiles]]] = {}
    for (client, start_s), fields in sorted(found.items()):
        if all(name in fields for name in FIELDS):
            lengths.setdefault(client, []).append((start_s, fields[FIELDS[0]], fields[FIELDS[1]]))
    if not lengths:
        raise bad_file(path, f"no client has lengths under both {FIELDS[0]} and {FIELDS[1]}")
    return lengths


def _read_chunks(folder: Path) -> Service:
    chunks = sorted((int(m[1]), entry) for entry in folder.iterdir() if (m := _CHUNK.fullmatch(entry.name)))
    if not chunks:
        raise bad_file(folder, "has no chunk-<client>-trace.csv; wanted a folder of a ServeGen service")
    tables: list[ClientWindows] = []
    found: dict[tuple[int, float], dict[str, Quantiles]] = {}
    for client, path in chunks:
        tables.append(_chunk_windows(client, path))
        found |= _chunk_lengths(client, path.with_name(path.name.replace("-trace.csv", "-dataset.json")))
    window_s = min(table.window_s for table in tables)
    windows = ClientWindows(
        np.concatenate([table.client for table in tables]),
        np.concatenate([table.start_s for table in tables]),
        np.concatenate([table.rate_per_s for table in tables]),
        np.concatenate([table.family for table in tables]),
        np.concatenate([table.shape for table in tables]),
        window_s,
    )
    return Service(windows, _by_client(folder, found))


def _chunk_windows(client: int, path: Path) -> ClientWindows:
    _check_file(path)
    names = ["start_s", "rate_per_s", "cv", "family", "shape", "scale"]
    table = pa_csv.read_csv(
        path,
        pa_csv.ReadOptions(column_names=names, use_threads=False),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    numbers = pa.table({"client": np.full(table.num_rows, client)})
    columns = [_column(path, table, name) for name in ("start_s", "rate_per_s", "family", "shape")]
    return _windows(path, _column(path, numbers, "client"), *columns)


def _chunk_lengths(client: int, path: Path) -> dict[tuple[int, float], dict[str, Quantiles]]:
    _check_file(path)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise bad_file(path, f"not JSON: {printable(short(str(error)))}") from None
    if not isinstance(document, dict):
        raise bad_file(path, f"holds a {type(document).__name__}; wanted an object of start times")
    found = {}
    for row, (start, fields) in enumerate(document.items()):
        if not start.isdecimal() or len(start) > 12 or not isinstance(fields, dict):
            raise bad_value(path, row, "start", repr(start), "whole seconds, with an object of fields")
        parsed = {name: _steps(path, row, name, fields.get(name, "{}")) for name in FIELDS}
        found[(client, float(start))] = {name: value for name, value in parsed.items() if value is not None}
    return found


def _steps(path: Path, row: int, name: str, text: Any) -> Quantiles | None:
    """A distribution written as {tokens: probability, ...}; None if it is empty."""
    wanted = "a text like {200: 0.25, 201: 0.75}"
    if not isinstance(text, str) or not (text.strip().startswith("{") and text.strip().endswith("}")):
        raise bad_value(path, row, name, repr(text), wanted)
    parts = [part for part in text.strip()[1:-1].split(",") if part.strip()]
    pairs = [(part, _PAIR.fullmatch(part)) for part in parts]
    if not pairs:
        return None
    tokens, weight = np.empty(len(pairs)), np.empty(len(pairs))
    for i, (part, match) in enumerate(pairs):
        try:
            if not match:
                raise ValueError
            tokens[i], weight[i] = float(match[1]), float(match[2])
        except ValueError:
            raise bad_value(path, row, name, repr(part), wanted) from None
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0) or tokens.max() > MAX_TOKENS:
        raise bad_value(path, row, name, repr(text), "probabilities of 0 or more, of plausible token counts")
    order = np.argsort(tokens)
    return Quantiles(np.cumsum(weight[order]) / weight.sum(), tokens[order], True)
