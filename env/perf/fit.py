"""Fitting the efficiency factors to measured kernels. Pure: tables in, factors out.

A table is a mapping from column name to a 1-D array. Whole shapes (not single rows) are held out of every fit, and the
error reported is that on the held-out shapes. Fits minimise the log of predicted over measured with a soft-L1 loss, so
that a kernel's odd shapes (a bad tile choice) do not bend the curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import least_squares

from ..catalog.gpus import Gpu
from ..catalog.links import Link
from ..catalog.models import Model
from .factors import (
    AttentionFactors,
    CommFactors,
    EngineFactors,
    FitError,
    GemmFactors,
    ServingFactors,
    TransferFactors,
)
from .kernels import (
    ACTIVATION_BYTES,
    allreduce_s,
    cache_read_s,
    decode_sequence_s,
    gemm_s,
    pair_s,
    prefill_token_s,
    transfer_s,
)
from .law import FloatArray
from .stage import SMALL_KERNELS
from .unseen import UNSEEN_MODELS, unseen_heads, unseen_products

Table = Mapping[str, np.ndarray[Any, Any]]
F = TypeVar("F", GemmFactors, AttentionFactors, CommFactors, TransferFactors, EngineFactors, ServingFactors)
NO_ERROR = FitError((), 0, 0, 0.0, 0.0, 0.0, {})
NO_ENGINE = EngineFactors(0.0, 0.0, 0.0, NO_ERROR)
"""An engine that adds nothing to its kernels: what remains to be explained by the fitted one."""
NO_ATTENTION = AttentionFactors(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, NO_ERROR)
"""Attention at the rates of the data sheet."""

HELD_OUT_EVERY = 4
"""Where no unseen layers are named, every fourth shape is kept out of a fit and judges it."""
_LEAST_WEIGHTS = 2.0**22
"""Products with fewer weights are not fitted: layers of the models served here have more."""
_LEAST_SIDE, _MOST_SIDE = 1024, 32768
_LEAST_LAUNCH_US = 0.5  # no kernel starts and ends faster
_TYPICAL_LAUNCH_S, _TYPICAL_BLEND = 5e-6, 1.6  # as fitted on A100 and A40
_MOST_DECODING = 16
_ROWS = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
"""Counts of rows with a factor of their own."""
_NOTHING = 1e-12
_CLOSE = 1e-6  # of a fit: nobody reads the sixth digit, and some fits creep along a bound for long
_REWEIGHTINGS, _ODD, _PENALTY = 10, 0.1, 1e-3
_LEAST_HEADS = 4
"""Fewer heads on one GPU are not fitted: no model served here is split that far."""
LEAST_CHUNK = 256
_LEAST_PROMPT, _MOST_CHUNK = 128, 16384
"""New tokens of a prompt and of an iteration that prefill attention is fitted to."""
_MOST_SEQUENCES, _MOST_CONTEXT, _MOST_SHARING = 512, 32768, 16
"""Decode attention is fitted to so many sequences, KV tokens of each, and query heads on one KV head."""
_REPEATED_FROM_CACHE_MB = 64.0
"""From this size a GPU's cache holds the weights of a benchmark that multiplies them again and again: on L40S (96 MB)
the products of less than 24 MB run above the memory's bandwidth, on A100 (40 MB) and H100 (50 MB) none do."""


def weights_from_memory(gpu: Gpu, precision: str, n: FloatArray, k: FloatArray) -> Any:
    """`[R]` which products were measured with weights from memory, as engines read them, and not from the cache."""
    least = gpu.cache_mb * 1e6 / 4.0 if gpu.cache_mb >= _REPEATED_FROM_CACHE_MB else 0.0
    return n * k * (1.0 if precision == "fp8" else 2.0) >= least


class FitInputError(ValueError):
    """Measurements that nothing can be fitted to."""


def held_out(keys: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """`[R]` whether each row's key is one of every `HELD_OUT_EVERY` distinct keys, in sorted order."""
    order = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.array([order[key] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for key in keys], dtype=np.bool_)


def fit_error(
    predicted: FloatArray, measured: FloatArray, judged: Any, sources: Sequence[str], **quantities: FloatArray
) -> FitError:
    """The error over the rows where `judged` is true; NaN if none is.

    Args:
        quantities: `[R]` each of the quantities (`factors.QUANTITIES`) that the rows range over.
    """
    off = predicted[judged] / measured[judged] - 1.0
    scored = len(off) > 0
    return FitError(
        sources=tuple(sources),
        fitted_rows=int((~judged).sum()),
        held_out_rows=len(off),
        median=round(float(np.median(np.abs(off))), 4) if scored else math.nan,
        p90=round(float(np.quantile(np.abs(off), 0.9)), 4) if scored else math.nan,
        bias=round(float(off.mean()), 4) if scored else math.nan,
        ranges={name: (float(np.min(column)), float(np.max(column))) for name, column in quantities.items()},
    )


def fit_gemm(gpu: Gpu, precision: str, table: Table, sources: Sequence[str]) -> GemmFactors:
    """Factors of matrix products; those of the unseen layers are held out.

    Args:
        precision: "bf16", or "fp8" for those that first quantise their activations.
        table: columns m, n, k, latency_s.
    """
    n, k = _floats(table, "n", "k")
    sides = (np.minimum(n, k) >= _LEAST_SIDE) & (np.maximum(n, k) <= _MOST_SIDE) & (n * k >= _LEAST_WEIGHTS)
    table = _where(table, sides & weights_from_memory(gpu, precision, n, k))
    return _fit_products(gpu, precision, table, unseen_products(table["n"], table["k"]), sources)


def _fit_products(gpu: Gpu, precision: str, table: Table, judged: Any, sources: Sequence[str]) -> GemmFactors:
    m, n, k, measured = _floats(table, "m", "n", "k", "latency_s")
    quantised = precision == "fp8"

    def factors(
        p: FloatArray, by_rows: tuple[tuple[float, float], ...] = (), error: FitError = NO_ERROR
    ) -> GemmFactors:
        quantise_s = p[7] * 1e-12 if quantised else 0.0
        return GemmFactors(p[0], p[1], p[2] * 1e-6, p[3] * 1e-9, p[4], p[5], p[6], quantise_s, by_rows, error)

    def predict(p: FloatArray) -> FloatArray:
        return gemm_s(gpu, factors(p), precision, m, n, k)

    #            flops bytes launch depth blend wave tile quantise
    start = np.array([0.7, 0.8, 5.0, 0.1, 2.0, 0.3, 0.3, 5.0])
    low = np.array([0.05, 0.05, _LEAST_LAUNCH_US, 0.0, 1.0, 0.0, 0.0, 0.0])
    high = np.array([1.0, 1.0, 50.0, 5.0, 8.0, 1.0, 1.0, 100.0])
    p = _solve(predict, measured, ~judged, start, low, high)
    by_rows = _left_over_by_rows(m[~judged], measured[~judged] / predict(p)[~judged])
    fitted = _rounded(factors(p, by_rows))
    predicted = gemm_s(gpu, fitted, precision, m, n, k)
    return replace(fitted, error=fit_error(predicted, measured, judged, sources, tokens=m))


def _left_over_by_rows(m: FloatArray, ratio: FloatArray) -> tuple[tuple[float, float], ...]:
    """The factor at each of `_ROWS` that brings measured over predicted to 1 on average, odd shapes weighing less.

    A factor per count of rows, between them interpolated; a small penalty keeps those without data at 1.
    """
    nodes = np.log([r for r in _ROWS if m.min() <= r <= m.max()])
    hats = np.stack([np.interp(np.log(m), nodes, unit) for unit in np.eye(len(nodes))], axis=1)
    left = np.log(ratio)
    fitted: FloatArray = np.zeros(len(nodes))
    for _ in range(_REWEIGHTINGS):
        weights = 1.0 / np.maximum(1.0, np.abs(left - hats @ fitted) / _ODD)
        weighted = hats * weights[:, None]
        fitted = np.asarray(np.linalg.solve(hats.T @ weighted + _PENALTY * np.eye(len(nodes)), weighted.T @ left))
    return tuple((float(f"{np.exp(r):.4g}"), float(f"{np.exp(c):.3g}")) for r, c in zip(nodes, fitted, strict=True))


def fit_layers(gpu: Gpu, models: Mapping[str, Model], table: Table, sources: Sequence[str]) -> GemmFactors:
    """Factors of matrix products from tables of whole projections.

    Args:
        table: columns model, tp, num_tokens, product (one of `PRODUCTS`), latency_s. `UNSEEN_MODELS` are held out.
    """
    return _fit_products(gpu, "fp16", product_table(models, table), np.isin(table["model"], UNSEEN_MODELS), sources)


def product_table(models: Mapping[str, Model], table: Table) -> Table:
    """Columns m, n, k, latency_s of a table of whole projections."""
    shapes = [_product_shape(models[str(name)], int(tp), str(product)) for name, tp, product in _keys(table)]
    n, k = (np.array(side, dtype=np.float64) for side in zip(*shapes, strict=True))
    m = np.asarray(table["num_tokens"], dtype=np.float64)
    return {"m": m, "n": n, "k": k, "latency_s": table["latency_s"]}


PRODUCTS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
"""The four projections of a layer, as vidur's tables name them."""


def _keys(table: Table) -> list[tuple[Any, Any, Any]]:
    return list(zip(table["model"], table["tp"], table["product"], strict=True))


def _product_shape(model: Model, tp: int, product: str) -> tuple[float, float]:
    """Columns n and rows k of a projection's weights on one GPU."""
    heads, kv_heads, ffn = model.heads / tp, max(1.0, model.kv_heads / tp), model.ffn / tp
    return {
        "attn_pre_proj": ((heads + 2 * kv_heads) * model.head_dim, float(model.hidden)),
        "attn_post_proj": (float(model.hidden), heads * model.head_dim),
        "mlp_up_proj": ((2 if model.gated_mlp else 1) * ffn, float(model.hidden)),
        "mlp_down_proj": (float(model.hidden), ffn),
    }[product]


def fit_whole_layers(gpu: Gpu, models: Mapping[str, Model], table: Table, sources: Sequence[str]) -> GemmFactors:
    """Two factors of matrix products from the times of whole layers, the rest as on measured relatives.

    Args:
        table: columns model, phase ("prompt", "decode"), tokens_or_batch, latency_s. Larger decode batches are left
            out: their time is mostly attention over a context that the table does not state.
    """
    tokens = np.asarray(table["tokens_or_batch"], dtype=np.float64)
    known = (tokens > 0) & ((table["phase"] == "prompt") | (tokens <= _MOST_DECODING))
    tokens, measured = tokens[known], np.asarray(table["latency_s"], dtype=np.float64)[known]
    names = [str(name) for name in table["model"][known]]
    sides = np.array([[_product_shape(models[name], 1, product) for product in PRODUCTS] for name in names])

    def factors(p: FloatArray, error: FitError) -> GemmFactors:
        return GemmFactors(p[0], p[1], _TYPICAL_LAUNCH_S, 0.0, _TYPICAL_BLEND, 0.0, 0.0, 0.0, (), error)

    def predict(p: FloatArray) -> FloatArray:
        products = gemm_s(gpu, factors(p, NO_ERROR), "fp16", tokens[:, None], sides[:, :, 0], sides[:, :, 1])
        return np.asarray(products.sum(axis=1), dtype=np.float64)

    judged = held_out(list(zip(names, tokens, strict=True)))
    p = _solve(predict, measured, ~judged, np.array([0.6, 0.7]), np.array([0.05, 0.05]), np.array([1.0, 1.0]))
    return _rounded(factors(p, fit_error(predict(p), measured, judged, sources, tokens=tokens)))


def fit_engine(
    kernels_s: FloatArray,
    layers: FloatArray,
    sequences: FloatArray,
    measured: FloatArray,
    judged: Any,
    sources: Sequence[str],
) -> EngineFactors:
    """What the engine adds to its kernels.

    Args:
        kernels_s: `[R]` predicted seconds of each row's mean iteration with `NO_ENGINE`.
        layers: `[R]` layers of the model.
        sequences: `[R]` decoding sequences.
        measured: `[R]` seconds.
        judged: `[R]` rows held out.
    """
    parts = np.stack([np.full_like(kernels_s, 1e-3), SMALL_KERNELS * layers * 1e-6, sequences * 1e-6], axis=1)

    def predict(p: FloatArray) -> FloatArray:
        return np.asarray(kernels_s + parts @ p, dtype=np.float64)

    p = _solve(predict, measured, ~judged, np.array([1.0, 1.0, 20.0]), np.zeros(3), np.array([20.0, 20.0, 200.0]))
    error = fit_error(predict(p), measured, judged, sources, sequences=sequences)
    return _rounded(EngineFactors(p[0] * 1e-3, p[1] * 1e-6, p[2] * 1e-6, error))


def fit_serving(
    predict: Callable[[ServingFactors, Any], FloatArray], measured: FloatArray, judged: Any, sources: Sequence[str]
) -> ServingFactors:
    """What end-to-end runs say of a GPU without kernels.

    Args:
        predict: seconds of the runs that a mask `[R]` picks, with these factors.
        measured: `[R]` seconds.
        judged: `[R]` runs held out.
    """

    def factors(p: FloatArray, error: FitError = NO_ERROR) -> ServingFactors:
        return ServingFactors(p[0], p[1], p[2] * 1e-3, p[3] * 1e-6, error)

    fitted = ~judged

    def predicted(p: FloatArray) -> FloatArray:
        return predict(factors(p), fitted)

    start, low, high = (0.5, 0.5, 2.0, 50.0), (0.02, 0.02, 0.0, 0.0), (1.2, 1.1, 100.0, 2000.0)
    everything = np.ones(int(fitted.sum()), dtype=np.bool_)
    p = _solve(predicted, measured[fitted], everything, np.array(start), np.array(low), np.array(high))
    found = factors(p)
    return _rounded(factors(p, fit_error(predict(found, fitted | judged), measured, judged, sources)))


def fit_attention(gpu: Gpu, table: Table, sources: Sequence[str]) -> AttentionFactors:
    """Factors of one layer's attention; the heads of the unseen layers are held out.

    Args:
        table: columns phase ("prefill", "decode"), batch_size, new_tokens, context_len, num_heads, num_kv_heads,
            head_dim, latency_s; a prefill row attends its own new tokens only.
    """
    table = _where(table, table["num_heads"] >= _LEAST_HEADS)
    prompts = (table["phase"] == "prefill") & (table["new_tokens"] >= _LEAST_PROMPT)
    total = table["batch_size"] * table["new_tokens"]
    prefill = _where(table, prompts & (total >= LEAST_CHUNK) & (total <= _MOST_CHUNK))
    decode = _where(table, (table["phase"] == "decode") & read_from_memory(gpu, table))
    flop_eff, layer_s, head_s, kv_s, prefill_error = _fit_prefill(gpu, prefill, sources)
    mem_eff, decode_layer_s, decode_head_s, decode_kv_s, decode_error = _fit_decode(gpu, decode, sources)
    error = FitError(
        sources=tuple(sources),
        fitted_rows=prefill_error.fitted_rows + decode_error.fitted_rows,
        held_out_rows=prefill_error.held_out_rows + decode_error.held_out_rows,
        median=max(prefill_error.median, decode_error.median),
        p90=max(prefill_error.p90, decode_error.p90),
        bias=max(prefill_error.bias, decode_error.bias, key=abs),
        ranges={**prefill_error.ranges, **decode_error.ranges},
    )
    parts = (flop_eff, layer_s, head_s, kv_s, mem_eff, decode_layer_s, decode_head_s, decode_kv_s)
    return _rounded(AttentionFactors(*parts, error))


def read_from_memory(gpu: Gpu, table: Table) -> Any:
    """`[R]` decode rows of loads that engines run, and too large for the cache that a repeated benchmark reads from."""
    batch, context, heads, kv_heads, dim = _floats(
        table, "batch_size", "context_len", "num_heads", "num_kv_heads", "head_dim"
    )
    served = (batch <= _MOST_SEQUENCES) & (context <= _MOST_CONTEXT) & (heads <= _MOST_SHARING * kv_heads)
    return served & (2.0 * ACTIVATION_BYTES * batch * context * kv_heads * dim >= 1.5 * gpu.cache_mb * 1e6)


Parts = tuple[float, float, float, float, FitError]


def _fit_prefill(gpu: Gpu, table: Table, sources: Sequence[str]) -> Parts:
    batch, new, heads, kv_heads, dim, measured = _floats(
        table, "batch_size", "new_tokens", "num_heads", "num_kv_heads", "head_dim", "latency_s"
    )

    def factors(p: FloatArray) -> AttentionFactors:
        return replace(NO_ATTENTION, prefill_flop_eff=p[0], prefill_head_s=p[2] * 1e-9, prefill_kv_s=p[3] * 1e-9)

    def predict(p: FloatArray) -> FloatArray:
        f = factors(p)
        pairs = pair_s(gpu, f, heads, dim, "fp16") * batch * new * new / 2.0
        return np.asarray(p[1] * 1e-6 + batch * new * prefill_token_s(f, heads, kv_heads) + pairs, dtype=np.float64)

    judged = unseen_heads(heads, kv_heads)
    start, high = np.array([0.5, 10.0, 0.5, 3.0]), np.array([1.0, 99.0, 50.0, 99.0])
    p = _solve(predict, measured, ~judged, start, np.array([0.05, 0.0, 0.0, 0.0]), high)
    error = fit_error(predict(p), measured, judged, sources, tokens=batch * new)
    # Fewer tokens than were fitted run the decode kernel, whose fit covers them.
    error = replace(error, ranges={"tokens": (1.0, error.ranges["tokens"][1])})
    return p[0], p[1] * 1e-6, p[2] * 1e-9, p[3] * 1e-9, error


def _fit_decode(gpu: Gpu, table: Table, sources: Sequence[str]) -> Parts:
    batch, context, heads, kv_heads, dim, measured = _floats(
        table, "batch_size", "context_len", "num_heads", "num_kv_heads", "head_dim", "latency_s"
    )
    read = 2.0 * ACTIVATION_BYTES * batch * context * kv_heads * dim

    def predict(p: FloatArray) -> FloatArray:
        f = replace(NO_ATTENTION, decode_mem_eff=p[0], decode_head_s=p[2] * 1e-9, decode_kv_s=p[3] * 1e-9)
        sequences = batch * decode_sequence_s(f, heads, kv_heads)
        return np.asarray(p[1] * 1e-6 + sequences + cache_read_s(gpu, f, read), dtype=np.float64)

    judged = unseen_heads(heads, kv_heads)
    start, high = np.array([0.8, 10.0, 1.0, 10.0]), np.array([1.0, 99.0, 50.0, 500.0])
    p = _solve(predict, measured, ~judged, start, np.array([0.05, 0.0, 0.0, 0.0]), high)
    error = fit_error(predict(p), measured, judged, sources, sequences=batch, context_tokens=context)
    # One sequence takes no longer than two; a short context less than a long one.
    least = {
        "sequences": (1.0, error.ranges["sequences"][1]),
        "context_tokens": (1.0, error.ranges["context_tokens"][1]),
    }
    return p[0], p[1] * 1e-6, p[2] * 1e-9, p[3] * 1e-9, replace(error, ranges=least)


def fit_comm(table: Table, tp: int, sources: Sequence[str]) -> CommFactors:
    """Factors of one all-reduce over `tp` GPUs; columns message_bytes, latency_s (the best library at each size)."""
    size, measured = _floats(table, "message_bytes", "latency_s")

    def factors(p: FloatArray, error: FitError = NO_ERROR) -> CommFactors:
        return CommFactors(tp, p[0] * 1e-6, p[1] * 1e9, p[2] * 1e-6, p[3] * 1e9, error)

    def predict(p: FloatArray) -> FloatArray:
        return allreduce_s(factors(p), size)

    judged = held_out(list(size))
    start, low, high = (8.0, 50.0, 30.0, 50.0), (0.1, 0.05, 0.1, 0.05), (500.0, 2000.0, 9999.0, 2000.0)
    p = _solve(predict, measured, ~judged, np.array(start), np.array(low), np.array(high))
    return _rounded(factors(p, fit_error(predict(p), measured, judged, sources, message_bytes=size)))


def fit_transfer(link: Link, table: Table, sources: Sequence[str]) -> TransferFactors:
    """Factors of sending to one neighbour over `link`; columns message_bytes, latency_s."""
    size, measured = _floats(table, "message_bytes", "latency_s")

    def factors(p: FloatArray, error: FitError = NO_ERROR) -> TransferFactors:
        return TransferFactors(p[0] * 1e-6, p[1], error)

    def predict(p: FloatArray) -> FloatArray:
        return transfer_s(link, factors(p), size)

    judged = held_out(list(size))
    p = _solve(predict, measured, ~judged, np.array([10.0, 0.5]), np.array([0.1, 0.001]), np.array([500.0, 1.5]))
    return _rounded(factors(p, fit_error(predict(p), measured, judged, sources, message_bytes=size)))


def _solve(
    predict: Callable[[FloatArray], FloatArray],
    measured: FloatArray,
    fitted: Any,
    start: FloatArray,
    low: FloatArray,
    high: FloatArray,
) -> FloatArray:
    """Parameters that bring predictions closest to the fitted rows, by share of the measured time."""
    if fitted.sum() < len(start):
        raise FitInputError(f"{int(fitted.sum())} rows to fit {len(start)} factors to, wanted at least as many")
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise FitInputError(f"a measured time is {np.nanmin(measured):g} s or blank, wanted all above 0")

    def residuals(p: FloatArray) -> FloatArray:
        return np.asarray(np.log(predict(p)[fitted] / measured[fitted]), dtype=np.float64)

    solution = least_squares(
        residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale=start, ftol=_CLOSE, xtol=_CLOSE
    )
    return np.asarray(solution.x, dtype=np.float64)


def _where(table: Table, rows: Any) -> Table:
    return {name: column[rows] for name, column in table.items()}


def _floats(table: Table, *names: str) -> tuple[FloatArray, ...]:
    return tuple(np.asarray(table[name], dtype=np.float64) for name in names)


def _rounded(fitted: F) -> F:
    """The same factors with four significant digits: more would only make reviews noisy. What a fit left at its lower
    bound is 0."""
    values = {f.name: getattr(fitted, f.name) for f in fields(fitted)}
    short: dict[str, Any] = {
        name: float(f"{v:.4g}") if v >= _NOTHING else 0.0 for name, v in values.items() if isinstance(v, float)
    }
    return replace(fitted, **short)
