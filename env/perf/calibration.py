"""Fitting every factor from the public measurements: what is fitted to what, and what judges it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..catalog.gpus import GPUS
from ..catalog.links import BETWEEN_MACHINES, link
from ..catalog.models import MODELS
from .assembled import iteration_errors
from .check import Comparison, ServingRow, compare, compare_all
from .factors import (
    AttentionFactors,
    CommFactors,
    EngineFactors,
    Factors,
    GemmFactors,
    IterationErrors,
    ServingFactors,
    TransferFactors,
)
from .fit import (
    NO_ENGINE,
    PRODUCTS,
    Table,
    fit_attention,
    fit_comm,
    fit_engine,
    fit_gemm,
    fit_layers,
    fit_serving,
    fit_transfer,
    fit_whole_layers,
    held_out,
)
from .law import FloatArray
from .tables import TableError, read_serving, read_table

_GEMM = "aic_gemm.parquet"
_ATTENTION = "aic_attention.parquet"
_COMM = "aic_comm.csv"
_HELIX = "helix_layer_times.csv"
_VIDUR = {"A40-48GB": "vidur_mlp_a40.parquet", "A100-SXM-80GB": "vidur_mlp_a100.parquet"}
_NETWORK = "vidur_network.parquet"
_TRANSFERS = {
    # node and GPUs of a machine that take part: the link between the two
    ("a100_dgx", 2): "NVLink3",
    ("a40_pairwise_nvlink", 2): "PCIe4",  # 4 GB/s measured: not the bridge that the node's name promises
    ("a100_dgx", 1): BETWEEN_MACHINES,
}
_SERVING = "measured_serving.csv"
_HELIX_NODES = {"L4": "L4-24GB", "T4": "T4-16GB", "V100": "V100-SXM-16GB"}
_MESSAGE_BYTES = (2.0**11, 2.0**28)
"""All-reduce sizes fitted: one token of a small model to a full prefill of a large one."""
ENGINE_MODEL = "Qwen/Qwen3-32B"
"""The engine's factors are fitted to this model's 16-bit runs (to the most frequent model's where they are withheld);
every other model's runs judge them."""


T = TypeVar("T")


@dataclass(frozen=True)
class Measurements:
    """The tables that the factors are fitted to; see `read_measurements`."""

    gemm: Table
    attention: Table
    comm: Table
    layers: Mapping[str, Table]
    """By GPU: columns as `fit_layers` wants them. They are fitted where single products were not measured, and judge
    the factors where they were."""
    whole_layers: Table
    transfers: Table
    """Sending to one neighbour: columns node, devices_per_node, message_bytes, latency_s."""
    serving: Sequence[ServingRow]


def read_measurements(folder: Path) -> Measurements:
    """The tables in `folder` (measured_serving.csv) and `folder`/kernels.

    Raises:
        TableError: a file or column is missing; names it.
    """
    kernels = folder / "kernels"
    if not kernels.is_dir():
        raise TableError(f"{kernels}: no such folder; wanted one with {_GEMM}, {_ATTENTION}, {_COMM}, {_HELIX}")
    gemm = read_table(kernels / _GEMM, ("gpu", "dtype", "m", "n", "k", "latency_ms"))
    shape = ("batch_size", "new_tokens", "context_len", "num_heads", "num_kv_heads", "head_dim")
    attention = read_table(kernels / _ATTENTION, ("gpu", "phase", *shape, "latency_ms"))
    comm = read_table(kernels / _COMM, ("gpu", "op", "num_gpus", "message_elems", "dtype_bytes", "latency_ms"))
    helix = read_table(kernels / _HELIX, ("model", "node", "phase", "tokens_or_batch", "ms_per_layer"))
    products = tuple(f"{product}_ms" for product in PRODUCTS)
    vidur = {gpu: read_table(kernels / name, ("model", "tp", "num_tokens", *products)) for gpu, name in _VIDUR.items()}
    network = read_table(
        kernels / _NETWORK, ("node", "op", "num_workers", "devices_per_node", "message_bytes", "latency_ms")
    )
    serving, _ = read_serving(folder / _SERVING)
    return Measurements(
        gemm=_seconds(gemm),
        attention=_seconds(attention),
        comm=_seconds({**comm, "message_bytes": comm["message_elems"] * comm["dtype_bytes"]}),
        layers={gpu: long_layers(table) for gpu, table in vidur.items()},
        whole_layers=_seconds({**helix, "latency_ms": helix["ms_per_layer"]}),
        transfers=_seconds(_where(network, network["op"] == "send_recv")),
        serving=serving,
    )


Remembered = dict[tuple[Any, ...], Any]
"""Groups of factors by the rows that they were fitted to: many fits that differ in few rows need not begin anew."""


def refit(measured: Measurements, progress: Callable[[str], None], remembered: Remembered | None = None) -> Factors:
    """All factors, fitted anew; `progress` is told what is being fitted.

    Args:
        remembered: groups fitted before, filled with those fitted now; with it the errors of whole iterations, which
            take as long as all fits together, are left out.
    """
    known: Remembered = {} if remembered is None else remembered
    gemm = _refit_gemm(measured, progress, known)
    attention: dict[str, AttentionFactors] = {}
    for name in _gpus(measured.attention):
        progress(f"attention on {name}")
        rows = _of_gpu(measured.attention, name)
        attention[name] = _once(
            known, ("attention", name), rows, partial(fit_attention, GPUS[name], rows, [_ATTENTION])
        )
    progress("all-reduce and transfers")
    comm, transfer = _refit_comm(measured.comm), _refit_transfer(measured.transfers)
    progress("engine")
    factors = Factors(gemm=gemm, attention=attention, comm=comm, transfer=transfer, engine=NO_ENGINE)
    if remembered is None:
        factors = replace(factors, iterations=iterations(measured, factors))
    factors = replace(factors, engine=_refit_engine(measured.serving, factors))
    progress("end-to-end runs of GPUs without kernels")
    return replace(factors, serving=_refit_serving(measured.serving, factors, known))


def fit_steps(measured: Measurements) -> int:
    """How often `refit` will tell its progress."""
    products = set(_gpus(measured.gemm)) | set(measured.layers)
    return len(products) + len(_HELIX_NODES) + len(_gpus(measured.attention)) + 3


def iterations(measured: Measurements, factors: Factors) -> dict[str, dict[str, IterationErrors]]:
    """Errors of whole iterations of unseen layers, by GPU and kind of product, wherever kernels were measured.

    The factors may be those of other GPUs (one left out of the fit, say): then these stand in.
    """
    errors: dict[str, dict[str, IterationErrors]] = {}
    for name in _gpus(measured.gemm):
        card, products, attention = GPUS[name], _of_gpu(measured.gemm, name), _of_gpu(measured.attention, name)
        for dtype, kind, _ in _DTYPES:
            rows = _where(products, products["dtype"] == dtype)
            found = iteration_errors(card, kind, rows, attention, factors, [_GEMM, _ATTENTION])
            if found is not None:
                errors.setdefault(name, {})[kind] = found
    return errors


_DTYPES = (("bfloat16", "16bit", "bf16"), ("fp8", "8bit", "fp8"))


def _once(known: Remembered, key: tuple[str, ...], rows: Table, fit: Callable[[], T]) -> T:
    """The fit to these rows, made now if nobody made it before."""
    whole = (*key, *((name, column.tobytes()) for name, column in sorted(rows.items())))
    if whole not in known:
        known[whole] = fit()
    fitted: T = known[whole]
    return fitted


def _refit_gemm(
    measured: Measurements, progress: Callable[[str], None], remembered: Remembered
) -> dict[str, dict[str, GemmFactors]]:
    gemm: dict[str, dict[str, GemmFactors]] = {}
    for name in _gpus(measured.gemm):
        progress(f"matrix products on {name}")
        table = _of_gpu(measured.gemm, name)
        for dtype, kind, precision in _DTYPES:
            rows = table["dtype"] == dtype
            if rows.any():
                own = _where(table, rows)
                fit = partial(fit_gemm, GPUS[name], precision, own, [_GEMM])
                gemm.setdefault(name, {})[kind] = _once(remembered, ("gemm", name, kind), own, fit)
    for name, table in measured.layers.items():
        if name in gemm:
            continue
        progress(f"matrix products on {name}")
        fit = partial(fit_layers, GPUS[name], MODELS, table, [_VIDUR[name]])
        gemm[name] = {"16bit": _once(remembered, ("layers", name), table, fit)}
    for node, name in _HELIX_NODES.items():
        progress(f"matrix products on {name}")
        rows = measured.whole_layers["node"] == node
        known = np.isin(measured.whole_layers["model"], list(_HELIX_MODELS))
        table = _where(measured.whole_layers, rows & known)
        if len(table["node"]):
            gemm[name] = {"16bit": fit_whole_layers(GPUS[name], _HELIX_MODELS, table, [_HELIX])}
    return gemm


_HELIX_MODELS = {
    "huggyllama/llama-30b": MODELS["huggyllama/llama-30b"],
    "meta-llama/Llama-2-70b": MODELS["meta-llama/Llama-2-70b-hf"],
}


def _refit_comm(table: Table) -> dict[str, dict[str, CommFactors]]:
    """By GPU and degree: the faster library at each message size, as engines choose."""
    low, high = _MESSAGE_BYTES
    comm: dict[str, dict[str, CommFactors]] = {}
    for name in _gpus(table):
        reduces = _where(table, (table["gpu"] == name) & (table["op"] == "all_reduce"))
        for degree in np.unique(reduces["num_gpus"]):
            rows = _where(reduces, reduces["num_gpus"] == degree)
            sizes = np.unique(rows["message_bytes"])
            sizes = sizes[(sizes >= low) & (sizes <= high)]
            best = np.array([rows["latency_s"][rows["message_bytes"] == size].min() for size in sizes])
            fitted = fit_comm({"message_bytes": sizes, "latency_s": best}, int(degree), [_COMM])
            comm.setdefault(name, {})[str(int(degree))] = fitted
    return comm


def _refit_transfer(table: Table) -> dict[str, TransferFactors]:
    """By kind of link."""
    transfer: dict[str, TransferFactors] = {}
    for (node, devices), name in _TRANSFERS.items():
        rows = (table["node"] == node) & (table["devices_per_node"] == devices)
        way = link(name)
        if rows.any():
            transfer[way.kind] = fit_transfer(way, _where(table, rows), [_NETWORK])
    return transfer


def _refit_engine(serving: Sequence[ServingRow], kernels: Factors) -> EngineFactors:
    """The engine's factors from closed-loop vLLM runs on GPUs whose kernels were measured, or share a die with one."""
    compared, _ = compare_all(engine_rows(serving), kernels)
    judged = _judged([c.row for c in compared])
    return fit_engine(
        kernels_s=np.array([c.predicted_s for c in compared]),
        layers=np.array([float(c.row.model.layers) for c in compared]),
        sequences=np.array([c.row.concurrency or 0.0 for c in compared]),
        measured=np.array([c.measured_s for c in compared]),
        judged=judged,
        sources=[_SERVING],
    )


def _refit_serving(
    serving: Sequence[ServingRow], factors: Factors, remembered: Remembered
) -> dict[str, ServingFactors]:
    """By GPU whose architecture has no card with measured kernels, nor a relative of the same maker."""
    fitted: dict[str, ServingFactors] = {}
    for name in _UNRELATED:
        rows = [row for row in serving if row.gpu.name == name and row.static_batch and row.engine_family == "vllm"]
        compared, _ = compare_all(rows, factors)
        models = sorted({c.row.model.name for c in compared})
        judged = np.array([models.index(c.row.model.name) % 3 == 2 for c in compared], dtype=np.bool_)
        chosen = [c for c, j, i in zip(compared, judged, range(len(compared)), strict=True) if j or i % _EVERY_ROW == 0]
        judged = np.array([models.index(c.row.model.name) % 3 == 2 for c in chosen], dtype=np.bool_)
        if (~judged).sum() < _LEAST_ROWS:
            continue

        def predict(
            own: ServingFactors, picked: Any, name: str = name, chosen: Sequence[Comparison] = chosen
        ) -> FloatArray:
            tried = replace(factors, serving={name: own})
            return np.array([compare(c.row, tried).predicted_s for c, pick in zip(chosen, picked, strict=True) if pick])

        # What the law believes of the rows stands for all that it rests on.
        rows_of: Table = {
            "measured": np.array([c.measured_s for c in chosen]),
            "predicted": np.array([c.predicted_s for c in chosen]),
        }
        fit = partial(fit_serving, predict, rows_of["measured"], judged, [_SERVING])
        fitted[name] = _once(remembered, ("serving", name), rows_of, fit)
    return fitted


_UNRELATED = ("MI250-128GB", "MI300X-192GB")
_EVERY_ROW, _LEAST_ROWS = 4, 16
"""Runs of a GPU differ by batch and lengths in small steps: each fourth says as much, and so many are asked for."""


def engine_rows(serving: Sequence[ServingRow]) -> list[ServingRow]:
    """Rows that tell what a recent vLLM adds to its kernels, on Hopper cards."""
    return [
        row
        for row in serving
        if row.source == "aiconfigurator_silicon"
        and row.engine.startswith("vllm")
        and row.gpu.architecture == "Hopper"
        and row.concurrency is not None
    ]


def _judged(rows: Sequence[ServingRow]) -> Any:
    """`[R]` the rows held out: those of all models but one. If there is only one, every fourth of its shapes."""
    names = [row.model.name for row in rows]
    fitted = ENGINE_MODEL if ENGINE_MODEL in names else max(sorted(set(names)), key=names.count, default="")
    if set(names) == {fitted}:
        return held_out([(r.prompt_tokens, r.output_tokens, r.concurrency, r.tensor_parallel) for r in rows])
    return np.array([name != fitted for name in names], dtype=np.bool_)


def long_layers(table: Table) -> Table:
    """A vidur table with one row for each product; only models of the catalogue."""
    known = np.isin(table["model"], list(MODELS))
    count = int(known.sum())
    return {
        "model": np.tile(table["model"][known], len(PRODUCTS)),
        "tp": np.tile(table["tp"][known], len(PRODUCTS)),
        "num_tokens": np.tile(table["num_tokens"][known], len(PRODUCTS)),
        "product": np.repeat(np.array(PRODUCTS), count),
        "latency_s": np.concatenate([table[f"{product}_ms"][known] for product in PRODUCTS]) * 1e-3,
    }


def _gpus(table: Table) -> list[str]:
    """GPUs of the table that the catalogue knows."""
    return [str(name) for name in np.unique(table["gpu"]) if str(name) in GPUS]


def _of_gpu(table: Table, name: str) -> Table:
    return _where(table, table["gpu"] == name)


def _where(table: Table, rows: Any) -> Table:
    return {name: column[rows] for name, column in table.items()}


def _seconds(table: Table) -> Table:
    return {**table, "latency_s": table["latency_ms"] * 1e-3}
