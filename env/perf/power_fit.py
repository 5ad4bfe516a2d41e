"""Fitting what GPUs draw to measured power. Pure but for `read_power_rows`.

A row tells how many tokens a replica made with how many sequences, and what its GPUs drew meanwhile; from the model's
shapes follow bytes moved and operations done, and from these the draw (`power`). Each GPU's shares of TDP are drawn a
little towards those of all GPUs, so that few rows do not tell more than they can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ..catalog.gpus import CatalogError, Gpu, gpu
from ..catalog.models import Model, bytes_per_weight, model
from .fit import FitInputError
from .law import FloatArray
from .power import (
    IDLE_TDP_FRAC,
    PowerError,
    PowerFactors,
    PowerTable,
    flops_per_token,
    limited_frac,
    weight_bytes_read,
)
from .roofline import DoesNotFit, LayoutError, kv_bytes_per_gpu, kv_capacity_tokens
from .tables import TableError, read_table

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
POWER_TABLE = "energy_measured.csv"
POWER_COLUMNS = (
    *("source", "gpu", "n_gpu", "model", "precision", "task", "batch", "input_tokens", "output_tokens"),
    *("avg_power_w", "throughput_out_tok_s", "itl_ms", "avg_power_frac_tdp", "note"),
)
_PRECISIONS = {"bfloat16": "bf16", "fp16": "fp16", "fp16/bf16": "bf16", "fp8": "fp8", "int8": "int8", "int4": "int4"}
_PROMPT_TOKENS = {"lm-arena-chat": 100.0, "gpqa": 250.0}
"""Typical prompts of ML.ENERGY's tasks, which its rows leave blank. Assumptions; a few per cent of the tokens beside
answers of 400 and more. Tasks with long prompts (images, videos, code) are not used: their prompts are most of the work.
"""
_JUDGES = (("argonne_llm_inference_bench", "H100-SXM-80GB"),)
"""Rows of another lab on a GPU that has better ones: not fitted, they judge."""
_LEAST_FRAC = 0.2
"""Rows that read less of TDP while decoding at full speed measured something else (three of Splitwise's)."""
_START = np.array([0.35, 0.5, 3.5, 0.1, 0.2])
_LOW = np.array([IDLE_TDP_FRAC, 0.0, 0.0, 0.0, 0.0])
_HIGH = np.array([1.0, 2.0, 10.0, 1.0, 1.0])
_PRIOR_SIGMA = 0.5
"""A GPU's own share this far (relatively) from that of all GPUs counts like a row that is one `_LOSS` off."""
_LOSS = 0.1


@dataclass(frozen=True, slots=True)
class PowerRow:
    """One measured point."""

    source: str
    gpu: Gpu
    gpus: int
    model: Model
    precision: str
    sequences: float
    context_tokens: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    tdp_frac: float
    """Measured draw of one GPU."""


@dataclass(frozen=True, slots=True)
class PowerFit:
    """What came of a folder's measured power."""

    table: PowerTable
    judged: tuple[JudgedPower, ...]
    left_out: Mapping[str, int]
    """How many rows were not used, for each reason."""


@dataclass(frozen=True, slots=True)
class JudgedPower:
    """Rows that nothing was fitted to."""

    source: str
    gpu: str
    error: PowerError


def read_power_rows(path: Path) -> tuple[list[PowerRow], Mapping[str, int]]:
    """The rows that tell a replica's work and draw.

    Returns:
        the rows, and how many others there were for each reason.

    Raises:
        TableError: as `tables.read_table`, or a draw that is not above 0; names file, row, column.
    """
    table = read_table(path, POWER_COLUMNS)
    rows: list[PowerRow] = []
    others: dict[str, int] = {}
    for i in range(len(table["gpu"])):
        record = {name: table[name][i] for name in POWER_COLUMNS}
        row = _power_row(record)
        if isinstance(row, str):
            others[row] = others.get(row, 0) + 1
        elif not (np.isfinite(row.tdp_frac) and row.tdp_frac > 0):
            raise TableError(f"{path}: row {i + 1}: avg_power_w: {record['avg_power_w']:g}, wanted watts above 0")
        else:
            rows.append(row)
    return rows, others


def _power_row(record: Mapping[str, object]) -> PowerRow | str:
    """The row, or why it is not used."""
    task, note = str(record["task"]), str(record["note"])
    number = {name: float(value) for name, value in record.items() if isinstance(value, float)}
    if task != "static batch" and task not in _PROMPT_TOKENS:
        return f"task {task}: most of the work is prompts, whose length is not stated"
    if task == "static batch" and "vLLM" not in note and np.isnan(number["avg_power_frac_tdp"]):
        return "another engine than vLLM"
    precision = _PRECISIONS.get(str(record["precision"]))
    if precision is None:
        return f"precision {record['precision']} is not modelled"
    try:
        card, shape = gpu(str(record["gpu"])), model(str(record["model"]))
    except CatalogError as error:
        return str(error).split(";")[0]
    gpus, sequences, output = int(number["n_gpu"]), number["batch"], number["output_tokens"]
    prompt = _PROMPT_TOKENS.get(task, number["input_tokens"])
    context = prompt + output / 2.0
    try:
        if sequences * context > kv_capacity_tokens(card, shape, precision, gpus, 0.95):
            return "more tokens in flight than the KV cache holds: fewer ran than the row says"
    except (LayoutError, DoesNotFit) as error:
        return str(error)
    frac = number["avg_power_frac_tdp"]
    decoding_only = not np.isnan(frac)  # Splitwise's figure is of the token phase
    if np.isnan(frac):
        frac = number["avg_power_w"] / gpus / card.tdp_w
    elif frac < _LEAST_FRAC:
        return f"draws below {_LEAST_FRAC:g} of TDP while decoding"
    made = sequences * 1e3 / number["itl_ms"] if decoding_only else number["throughput_out_tok_s"]
    return PowerRow(
        source=str(record["source"]),
        gpu=card,
        gpus=gpus,
        model=shape,
        precision=precision,
        sequences=sequences,
        context_tokens=context,
        output_tokens_per_s=made,
        prompt_tokens_per_s=0.0 if decoding_only else made * prompt / output,
        tdp_frac=frac,
    )


def refit_power(folder: Path) -> PowerFit:
    """Shares of TDP fitted anew to the folder's `POWER_TABLE`.

    Raises:
        TableError, FitInputError: as `read_power_rows` and `fit_power`.
    """
    rows, left_out = read_power_rows(folder / POWER_TABLE)
    table, judged = fit_power(rows)
    return PowerFit(table, tuple(judged), left_out)


def fit_power(
    rows: Sequence[PowerRow], sources: Sequence[str] = (POWER_TABLE,)
) -> tuple[PowerTable, list[JudgedPower]]:
    """Shares of TDP of every measured GPU and of all together, and how they do on rows of other labs.

    Raises:
        FitInputError: fewer than two GPUs or models, so that nothing could judge the fit.
    """
    fitted = [row for row in rows if (row.source, row.gpu.name) not in _JUDGES]
    cards = np.array([row.gpu.name for row in fitted])
    names = np.array([row.model.name for row in fitted])
    if len(set(cards.tolist())) < 2 or len(set(names.tolist())) < 2:
        raise FitInputError("wanted measured power of two or more GPUs and models")
    work, measured = features(fitted), np.array([row.tdp_frac for row in fitted])
    everything = np.ones(len(fitted), dtype=np.bool_)

    def predicted(seen: BoolArray, wanted: BoolArray, *, own: bool) -> FloatArray:
        """`[R]` for rows in `wanted`, each by the shares of its GPU (or of all) fitted to rows in `seen`."""
        out = np.full(len(fitted), np.nan)
        common = _fit_common(work[seen], measured[seen], cards[seen])
        for name in np.unique(cards[wanted]):
            rows_of = seen & (cards == name)
            shares = _fit_own(work[rows_of], measured[rows_of], common) if own and rows_of.any() else common
            of = wanted & (cards == name)
            out[of] = predicted_frac(shares, work[of])
        return out

    def each_left_out(keys: np.ndarray[Any, np.dtype[np.str_]], *, own: bool) -> FloatArray:
        parts = [predicted(keys != key, keys == key, own=own) for key in np.unique(keys)]
        return np.asarray(np.nansum(parts, axis=0), dtype=np.float64)

    common = _fit_common(work, measured, cards)
    own_rows = predicted(everything, everything, own=True)
    common_rows = predicted(everything, everything, own=False)
    new_model = each_left_out(names, own=True)
    new_model_common = each_left_out(names, own=False)
    new_gpu = each_left_out(cards, own=False)

    def factors(shares: FloatArray, of: BoolArray, inside: FloatArray, unseen_model: FloatArray) -> PowerFactors:
        floor, memory, compute, experts, narrow_experts = (float(f"{share:.4g}") for share in shares)
        return PowerFactors(
            floor_frac=floor,
            memory_frac=memory,
            compute_frac=compute,
            experts_frac=experts,
            narrow_experts_frac=narrow_experts,
            sources=tuple(sources),
            fitted=power_error(inside[of], measured[of]),
            new_model=power_error(unseen_model[of], measured[of]),
            new_gpu=power_error(new_gpu[of], measured[of]),
        )

    gpus = {}
    for name in np.unique(cards):
        of = cards == name
        gpus[str(name)] = factors(_fit_own(work[of], measured[of], common), of, own_rows, new_model)
    table = PowerTable(any_gpu=factors(common, everything, common_rows, new_model_common), gpus=gpus)
    return table, _judge(rows, table)


def _judge(rows: Sequence[PowerRow], table: PowerTable) -> list[JudgedPower]:
    judged = []
    for source, name in _JUDGES:
        of = [row for row in rows if (row.source, row.gpu.name) == (source, name)]
        if of and name in table.gpus:
            frac = predicted_frac(shares_of(table.gpus[name]), features(of))
            judged.append(JudgedPower(source, name, power_error(frac, np.array([row.tdp_frac for row in of]))))
    return judged


def features(rows: Sequence[PowerRow]) -> FloatArray:
    """`[R, 5]` what each of `_START` is multiplied with: 1, share of bandwidth, share of peak, experts, 8-bit experts."""
    return np.array([_features(row) for row in rows], dtype=np.float64)


def _features(row: PowerRow) -> tuple[float, ...]:
    shape, precision = row.model, row.precision
    iterations_per_s = row.output_tokens_per_s / row.sequences
    tokens_per_s = row.output_tokens_per_s + row.prompt_tokens_per_s
    dense_bytes, expert_bytes = weight_bytes_read(shape, precision)
    untouched = (1.0 - shape.experts_per_token / shape.experts) ** (tokens_per_s / iterations_per_s)
    kv_bytes = row.sequences * row.context_tokens * kv_bytes_per_gpu(shape, precision, row.gpus)
    moved = (dense_bytes + expert_bytes * (1.0 - untouched)) / row.gpus + kv_bytes
    memory = moved * iterations_per_s / (row.gpu.bandwidth_gb_per_s * 1e9)
    compute = flops_per_token(shape) * tokens_per_s / (row.gpu.tflops(precision) * 1e12 * row.gpus)
    mixture = shape.experts > 1
    return 1.0, memory, compute, float(mixture), float(mixture and bytes_per_weight(precision) == 1.0)


def predicted_frac(shares: FloatArray, work: FloatArray) -> FloatArray:
    """`[R]` shares of TDP from `features` `[R, 5]`."""
    return np.asarray(limited_frac(work @ shares), dtype=np.float64)


def shares_of(factors: PowerFactors) -> FloatArray:
    """`[5]` in the order of `features`."""
    f = factors
    return np.array([f.floor_frac, f.memory_frac, f.compute_frac, f.experts_frac, f.narrow_experts_frac])


def power_error(predicted: FloatArray, measured: FloatArray) -> PowerError:
    """The error over rows."""
    off = predicted / measured - 1.0
    shares = (float(np.median(np.abs(off))), float(np.quantile(np.abs(off), 0.9)), float(off.mean()))
    return PowerError(len(off), *(round(share, 4) for share in shares))


def _fit_common(work: FloatArray, measured: FloatArray, cards: np.ndarray[Any, np.dtype[np.str_]]) -> FloatArray:
    """Shares for all GPUs, each of which weighs the same, however many rows it has."""
    _, place, count = np.unique(cards, return_inverse=True, return_counts=True)
    weight = np.sqrt(len(cards) / (len(count) * count[place]))
    return _solve(lambda shares: np.log(predicted_frac(shares, work) / measured) * weight, _START)


def _fit_own(work: FloatArray, measured: FloatArray, common: FloatArray) -> FloatArray:
    """Shares of one GPU, drawn towards the common ones."""
    scale = _LOSS / (_PRIOR_SIGMA * np.maximum(common, 0.1))

    def residuals(shares: FloatArray) -> FloatArray:
        off = np.log(predicted_frac(shares, work) / measured)
        return np.concatenate([off, (shares - common) * scale])

    return _solve(residuals, common)


def _solve(residuals: Callable[[FloatArray], FloatArray], start: FloatArray) -> FloatArray:
    inside = np.clip(start, _LOW + 1e-6, _HIGH - 1e-6)
    solution = least_squares(residuals, inside, bounds=(_LOW, _HIGH), loss="soft_l1", f_scale=_LOSS)
    return np.asarray(solution.x, dtype=np.float64)
