"""Reading the tables that calibration works on. The only I/O of this package besides the factors file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from ..catalog.gpus import CatalogError, Gpu, gpu
from ..catalog.models import Model, model
from .check import ServingRow
from .fit import Table

SERVING_COLUMNS = (
    *("source", "gpu", "n_gpu", "tp", "pp", "model", "precision", "engine", "input_tokens", "output_tokens"),
    *("batch_or_concurrency", "request_rate", "ttft_ms", "tpot_ms", "throughput_out_tok_s", "slo_note"),
)
_PRECISIONS = {
    "": "fp16",  # the sources that leave it blank served 16-bit checkpoints
    "fp16/bf16": "fp16",
    "fp16/bf16 (default dtype)": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    **{name: name for name in ("fp32", "fp16", "bf16", "fp8", "int8", "int4")},
}


class TableError(ValueError):
    """A table cannot be used; the message is one line naming file, column and value."""


def read_table(path: Path, columns: tuple[str, ...]) -> Table:
    """The wanted columns of a CSV or Parquet file, as arrays (blank numbers are NaN, blank text is "").

    Raises:
        TableError: no such file, not such a file, a column is missing, or text stands where a number should.
    """
    try:
        table = pa_parquet.read_table(path) if path.suffix == ".parquet" else pa_csv.read_csv(path)
        names = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read as {path.suffix or 'CSV'}: {str(error).splitlines()[0]}") from None
    for name in columns:
        if names.count(name) != 1:
            problem = "is missing" if name not in names else "stands twice"
            raise TableError(f"{path}: column {name} {problem}; wanted {', '.join(columns)}")
    if not table.num_rows:
        raise TableError(f"{path}: no rows")
    return {name: _text(table[name]) if name in _TEXT else _numbers(path, name, table[name]) for name in columns}


_TEXT = frozenset(
    (
        *("run", "source", "gpu", "model", "precision", "engine", "slo_note"),
        *("dtype", "phase", "op", "node", "task", "note"),
    )
)


def _text(column: Any) -> np.ndarray[Any, Any]:
    return np.array(["" if value is None else str(value) for value in column.to_pylist()], dtype=np.str_)


def _numbers(path: Path, name: str, column: Any) -> np.ndarray[Any, Any]:
    """Blank is NaN."""
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (pa.ArrowException, ValueError):
        seen = next((v for v in column.to_pylist() if not _is_number(v)), None)
        raise TableError(f"{path}: column {name}: {seen!r}, wanted a number or blank") from None


def _is_number(value: Any) -> bool:
    try:
        return value is None or float(value) == float(value)
    except (TypeError, ValueError):
        return False


def read_serving(path: Path) -> tuple[list[ServingRow], Mapping[str, int]]:
    """The rows of a table of measured serving that describe one replica of a known GPU and model.

    Returns:
        the rows, and how many others there were for each reason.

    Raises:
        TableError: as `read_table`, or a number that cannot be (negative, zero tokens); names file, column, value.
    """
    table = read_table(path, SERVING_COLUMNS)
    _check_numbers(path, table)
    rows: list[ServingRow] = []
    others: dict[str, int] = {}
    for i in range(len(table["gpu"])):
        record = {name: table[name][i] for name in SERVING_COLUMNS}
        row = _serving_row(record)
        if isinstance(row, ServingRow):
            rows.append(row)
        else:
            others[row] = others.get(row, 0) + 1
    return rows, others


_POSITIVE = (
    *("n_gpu", "tp", "input_tokens", "output_tokens", "batch_or_concurrency", "request_rate"),
    *("ttft_ms", "tpot_ms", "throughput_out_tok_s"),
)


def _check_numbers(path: Path, table: Table) -> None:
    for name in _POSITIVE:
        column = table[name]
        wrong = ~(np.isnan(column) | ((column > 0) & np.isfinite(column)))
        if wrong.any():
            i = int(np.argmax(wrong))
            raise TableError(f"{path}: row {i + 1}: {name}: {column[i]:g}, wanted a number above 0, or blank")


def _serving_row(record: Mapping[str, Any]) -> ServingRow | str:
    """The row, or why it is not one that an iteration law speaks about."""
    note = str(record["slo_note"])
    engine = str(record["engine"])
    if "disagg" in note:
        return "prefill and decode on separate workers"
    if "batch_size_not_concurrency" in note:
        return "the concurrency is not stated"
    if "prefix caching on" in note:
        return "prefix caching hides an unknown part of the prompts"
    if "llama.cpp" in engine.lower():
        return "llama.cpp does not batch continuously"
    precision = _PRECISIONS.get(str(record["precision"]))
    if precision is None:
        return f"precision {record['precision']} is not modelled"
    n_gpu, pp = _number(record["n_gpu"]), _number(record["pp"])
    tp = _number(record["tp"]) or n_gpu
    if tp is None or tp % 1 or (pp or 1) != 1 or (n_gpu or tp) != tp:
        return "not one tensor-parallel replica"
    prompt, output = _number(record["input_tokens"]), _number(record["output_tokens"])
    decode_only = prompt is None and "tpot=median ITL" in note and _task(note) in _SHORT_PROMPTS
    if decode_only:
        prompt = 0.0
    if prompt is None or output is None:
        return "input_tokens or output_tokens blank"
    found = _look_up(str(record["gpu"]), str(record["model"]))
    if isinstance(found, str):
        return found
    card, shape = found
    return ServingRow(
        source=str(record["source"]),
        gpu=card,
        model=shape,
        precision=precision,
        tensor_parallel=int(tp),
        engine=engine,
        prompt_tokens=prompt,
        output_tokens=output,
        concurrency=_number(record["batch_or_concurrency"]),
        request_rate_per_s=_number(record["request_rate"]),
        static_batch="static batch" in note,
        tpot_s=_scaled(record["tpot_ms"], 1e-3),
        output_tokens_per_s=_number(record["throughput_out_tok_s"]),
        max_num_seqs=_noted(note, "max_num_seqs"),
        decode_only=decode_only,
    )


_SHORT_PROMPTS = frozenset(("lm-arena-chat", "gpqa"))
"""ML.ENERGY's tasks of a typed question each: the context that decoding reads is mostly the answer itself."""


def _task(note: str) -> str:
    return note.partition("task=")[2].partition(";")[0]


@lru_cache(maxsize=1024)
def _look_up(gpu_name: str, model_name: str) -> tuple[Gpu, Model] | str:
    """Both from the catalogue, or what is unknown; cached, since finding the closest names is slow."""
    try:
        return gpu(gpu_name), model(model_name)
    except CatalogError as error:
        return str(error).split(";")[0]


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _scaled(value: Any, factor: float) -> float | None:
    number = _number(value)
    return None if number is None else number * factor


def _noted(note: str, key: str) -> float | None:
    """A number from a `key=value` or `key: value` detail of the note."""
    for part in note.replace(": ", "=").split(";"):
        name, _, value = part.partition("=")
        if name.strip() == key and value.strip().isdigit():
            return float(value)
    return None
