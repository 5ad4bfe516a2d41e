"""Taking measurements away before a fit, so that what is scored cannot have been fitted to.

Two protocols: `without_pair` leaves no number of one GPU and model, `without_gpu` none of a GPU at all. Both go over
every table of `Measurements` by its columns and refuse a table that they do not understand, so that a table added to
the fit cannot slip past them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..catalog.gpus import CatalogError, gpu
from ..catalog.models import MODELS, Model
from ..catalog.models import model as model_called
from ..perf.calibration import Measurements
from ..perf.check import ServingRow
from ..perf.fit import Table

SPLITS = (1, 2, 4, 8)
"""Tensor-parallel degrees whose shapes of a model are withheld from tables that name shapes, not models."""
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class ProtocolError(ValueError):
    """Nobody could say which rows of a table to withhold."""


def without_pair(measured: Measurements, gpu_name: str, model: Model) -> Measurements:
    """The measurements without any of `model` on this GPU.

    Tables of kernels name no model: there, the rows of the GPU that have one of the model's shapes (weight matrices,
    attention heads) under any of `SPLITS` go too, so that the model's shapes are unseen.
    """

    def of_pair(table: Table, name: str | None) -> Mask:
        return _of_gpu(table, gpu_name, name) & _of_model(table, model)

    def kept(row: ServingRow) -> bool:
        return row.gpu.name != gpu_name or row.model.name != model.name

    return _without(measured, of_pair, kept)


def without_gpu(measured: Measurements, gpu_name: str) -> Measurements:
    """The measurements without any of this GPU: all that is left of it is its data sheet."""
    return _without(measured, lambda table, name: _of_gpu(table, gpu_name, name), lambda row: row.gpu.name != gpu_name)


def _without(
    measured: Measurements, withheld: Callable[[Table, str | None], Mask], kept: Callable[[ServingRow], bool]
) -> Measurements:
    """`withheld(table, name of its GPU if the table is of one)` tells which rows go."""
    return replace(
        measured, **{f.name: _rest(getattr(measured, f.name), f.name, withheld, kept) for f in fields(measured)}
    )


def _rest(
    value: Any, name: str, withheld: Callable[[Table, str | None], Mask], kept: Callable[[ServingRow], bool]
) -> Any:
    """One field of `Measurements` without what is withheld: a table, tables by GPU, or rows of serving."""
    if isinstance(value, Mapping) and all(isinstance(column, np.ndarray) for column in value.values()):
        return _rows_left(value, withheld(value, None))
    if isinstance(value, Mapping):
        rest = {key: _rows_left(table, withheld(table, str(key))) for key, table in value.items()}
        return {key: table for key, table in rest.items() if len(next(iter(table.values())))}
    if all(isinstance(row, ServingRow) for row in value):
        return [row for row in value if kept(row)]
    raise ProtocolError(f"measurements.{name}: neither a table, tables by GPU nor rows of serving")


def _rows_left(table: Table, withheld: Mask) -> Table:
    return {name: column[~withheld] for name, column in table.items()}


def _of_gpu(table: Table, gpu_name: str, of_all: str | None) -> Mask:
    """`[R]` which rows were measured on this GPU."""
    rows = len(next(iter(table.values())))
    if of_all is not None:
        return np.full(rows, of_all == gpu_name)
    names = table["gpu"] if "gpu" in table else table.get("node")
    if names is None:
        raise ProtocolError(f"a table with columns {', '.join(table)}: nothing tells the GPU of its rows")
    same = {name: _gpu_name(str(name)) == gpu_name for name in np.unique(names)}
    return np.array([same[name] for name in names], dtype=np.bool_)


def _gpu_name(name: str) -> str:
    """The catalogue's name of a GPU, or of the GPUs of a node such as "L4x2" or "a100_pairwise_nvlink"."""
    stem = name.partition("_")[0]
    if stem.rpartition("x")[2].isdigit():
        stem = stem.rpartition("x")[0]
    try:
        return gpu(stem).name
    except CatalogError:
        return name


def _of_model(table: Table, model: Model) -> Mask:
    """`[R]` which rows are of this model, or have one of its shapes where they name none."""
    if "model" in table:
        same = {name: _model_name(str(name)) == model.name for name in np.unique(table["model"])}
        return np.array([same[name] for name in table["model"]], dtype=np.bool_)
    if "num_heads" in table:
        return _shaped(zip(table["num_heads"], table["num_kv_heads"], strict=True), head_shapes(model))
    if "n" in table and "k" in table:
        return _shaped(zip(table["n"], table["k"], strict=True), weight_shapes(model))
    if "message_bytes" in table:
        return np.zeros(len(table["message_bytes"]), dtype=np.bool_)  # a message has no model
    raise ProtocolError(f"a table with columns {', '.join(table)}: nothing tells the model or shape of its rows")


def _shaped(rows: Any, shapes: frozenset[tuple[int, int]]) -> Mask:
    return np.array([(round(a), round(b)) in shapes for a, b in rows], dtype=np.bool_)


def _model_name(name: str) -> str:
    """The catalogue's name; a source's spelling of one that the catalogue knows counts as the same."""
    if name in MODELS:
        return name
    try:
        return model_called(name).name
    except CatalogError:
        return name


def head_shapes(model: Model) -> frozenset[tuple[int, int]]:
    """(heads, KV heads) of one GPU under each of `SPLITS`."""
    return frozenset((model.heads // tp, max(1, model.kv_heads // tp)) for tp in SPLITS)


def weight_shapes(model: Model) -> frozenset[tuple[int, int]]:
    """(columns n, rows k) of each weight matrix of a layer, and of the output head, on one GPU under each split."""
    shapes: set[tuple[int, int]] = set()
    for tp in SPLITS:
        width, kv_width = model.heads // tp * model.head_dim, max(1, model.kv_heads // tp) * model.head_dim
        ffn = model.ffn // tp
        shapes |= {(width + 2 * kv_width, model.hidden), (model.hidden, width), (model.hidden, ffn)}
        shapes |= {((2 if model.gated_mlp else 1) * ffn, model.hidden), (ffn, model.hidden)}
        shapes.add((model.vocab // tp, model.hidden))
    return frozenset(shapes)
