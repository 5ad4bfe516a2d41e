"""Fitting the efficiency factors to measured kernels. Pure: tables in, factors out.

A table is a mapping from column name to a 1-D array. Whole shapes (not single rows) are held out of every fit, and the
error reported is that on the held-out shapes. Fits minimise the log of predicted over measured with a soft-L1 loss, so
that a kernel's odd shapes (a bad tile choice) do not bend the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import least_squares

from ..catalog.gpus import Gpu
from ..catalog.models import Model
from .factors import AttentionFactors, CommFactors, EngineFactors, FitError, GemmFactors
from .law import FloatArray
from .roofline import SMALL_KERNELS, gemm_s

Table = Mapping[str, np.ndarray[Any, Any]]
F = TypeVar("F", GemmFactors, AttentionFactors, CommFactors, EngineFactors)
NO_ERROR = FitError((), 0, 0, 0.0, 0.0, 0.0, {})
NO_ENGINE = EngineFactors(0.0, 0.0, 0.0, NO_ERROR)
"""An engine that adds nothing to its kernels: what remains to be explained by the fitted one."""

HELD_OUT_EVERY = 4
"""Every fourth shape is kept out of a fit and judges it."""
_LEAST_WEIGHTS = 2.0**22
"""Products with fewer weights are not fitted: layers of the models served here have more."""
_LEAST_SIDE, _MOST_SIDE = 1024, 32768
_LEAST_LAUNCH_US = 1.0  # no kernel starts and ends faster
_TYPICAL_LAUNCH_S, _TYPICAL_BLEND = 5e-6, 1.6  # as fitted on A100 and A40
_MOST_DECODING = 16
_CACHE_BYTES = 256e6
"""Decode rows that read fewer bytes may be served from the GPU's L2 cache (up to 96 MB), repeated as they are."""


class FitInputError(ValueError):
    """Measurements that nothing can be fitted to."""


def held_out(keys: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """`[R]` whether each row's key is one of every `HELD_OUT_EVERY` distinct keys, in sorted order."""
    order = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.array([order[key] % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for key in keys], dtype=np.bool_)


def fit_error(
    predicted: FloatArray, measured: FloatArray, judged: Any, sources: Sequence[str], **quantities: FloatArray
) -> FitError:
    """The error over the rows where `judged` is true.

    Args:
        quantities: `[R]` each of the quantities (`factors.QUANTITIES`) that the rows range over.
    """
    off = predicted[judged] / measured[judged] - 1.0
    return FitError(
        sources=tuple(sources),
        fitted_rows=int((~judged).sum()),
        held_out_rows=int(judged.sum()),
        median=round(float(np.median(np.abs(off))), 4),
        p90=round(float(np.quantile(np.abs(off), 0.9)), 4),
        bias=round(float(off.mean()), 4),
        ranges={name: (float(np.min(column)), float(np.max(column))) for name, column in quantities.items()},
    )


def fit_gemm(gpu: Gpu, precision: str, table: Table, sources: Sequence[str]) -> GemmFactors:
    """Factors of matrix products.

    Args:
        precision: "bf16", or "fp8" for those that first quantise their activations.
        table: columns m, n, k, latency_s.
    """
    m, n, k, measured = (np.asarray(table[c], dtype=np.float64) for c in ("m", "n", "k", "latency_s"))
    sides = (np.minimum(n, k) >= _LEAST_SIDE) & (np.maximum(n, k) <= _MOST_SIDE) & (n * k >= _LEAST_WEIGHTS)
    m, n, k, measured = m[sides], n[sides], k[sides], measured[sides]

    quantised = precision == "fp8"

    def factors(p: FloatArray, error: FitError) -> GemmFactors:
        return GemmFactors(p[0], p[1], p[2] * 1e-6, p[3], p[4] * 1e-12 if quantised else 0.0, error)

    def predict(p: FloatArray) -> FloatArray:
        return gemm_s(gpu, factors(p, NO_ERROR), precision, m, n, k)

    start = np.array([0.7, 0.8, 5.0, 2.0, 5.0])
    low = np.array([0.05, 0.05, _LEAST_LAUNCH_US, 1.0, 0.0])
    high = np.array([1.0, 1.0, 50.0, 8.0, 100.0])
    judged = held_out(list(zip(n, k, strict=True)))
    p = _solve(predict, measured, ~judged, start, low, high)
    return _rounded(factors(p, fit_error(predict(p), measured, judged, sources, tokens=m)))


def fit_layers(gpu: Gpu, models: Mapping[str, Model], table: Table, sources: Sequence[str]) -> GemmFactors:
    """Factors of matrix products from tables of whole projections.

    Args:
        table: columns model, tp, num_tokens, product (one of `PRODUCTS`), latency_s. Whole models are held out.
    """
    shapes = [_product_shape(models[str(name)], int(tp), str(product)) for name, tp, product in _keys(table)]
    n, k = (np.array(side, dtype=np.float64) for side in zip(*shapes, strict=True))
    m = np.asarray(table["num_tokens"], dtype=np.float64)
    return fit_gemm(gpu, "fp16", {"m": m, "n": n, "k": k, "latency_s": table["latency_s"]}, sources)


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
        return GemmFactors(p[0], p[1], _TYPICAL_LAUNCH_S, _TYPICAL_BLEND, 0.0, error)

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


def fit_attention(gpu: Gpu, table: Table, sources: Sequence[str]) -> AttentionFactors:
    """Factors of one layer's attention.

    Args:
        table: columns phase ("prefill", "decode"), batch_size, new_tokens, context_len, num_heads, num_kv_heads,
            head_dim, latency_s; a prefill row attends its own new tokens only.
    """
    prefill = table["phase"] == "prefill"
    layer_s, prefill_eff, token_eff, prefill_error = _fit_prefill(gpu, _where(table, prefill), sources)
    decode_eff, seq_s, decode_error = _fit_decode(gpu, _where(table, ~prefill), sources)
    error = FitError(
        sources=tuple(sources),
        fitted_rows=prefill_error.fitted_rows + decode_error.fitted_rows,
        held_out_rows=prefill_error.held_out_rows + decode_error.held_out_rows,
        median=max(prefill_error.median, decode_error.median),
        p90=max(prefill_error.p90, decode_error.p90),
        bias=max(prefill_error.bias, decode_error.bias, key=abs),
        ranges={**prefill_error.ranges, **decode_error.ranges},
    )
    return _rounded(AttentionFactors(prefill_eff, token_eff, decode_eff, layer_s, seq_s, error))


def _fit_prefill(gpu: Gpu, table: Table, sources: Sequence[str]) -> tuple[float, float, float, FitError]:
    batch, new, heads, kv_heads, dim, measured = _floats(
        table, "batch_size", "new_tokens", "num_heads", "num_kv_heads", "head_dim", "latency_s"
    )
    flops = 4.0 * heads * dim * batch * new * new / 2.0
    moved = 2.0 * 2.0 * batch * new * (heads + kv_heads) * dim

    def predict(p: FloatArray) -> FloatArray:
        compute = flops / (gpu.fp16_tflops * 1e12 * p[1])
        return np.asarray(p[0] * 1e-6 + compute + moved / (gpu.bandwidth_gb_per_s * 1e9 * p[2]), dtype=np.float64)

    judged = held_out(list(zip(heads, kv_heads, strict=True)))
    p = _solve(
        predict, measured, ~judged, np.array([10.0, 0.5, 0.5]), np.array([0.0, 0.05, 0.05]), np.array([99.0, 1, 1])
    )
    error = fit_error(predict(p), measured, judged, sources, tokens=batch * new)
    return p[0] * 1e-6, p[1], p[2], error


def _fit_decode(gpu: Gpu, table: Table, sources: Sequence[str]) -> tuple[float, float, FitError]:
    batch, context, heads, kv_heads, dim, measured = _floats(
        table, "batch_size", "context_len", "num_heads", "num_kv_heads", "head_dim", "latency_s"
    )
    read = 2.0 * 2.0 * batch * context * kv_heads * dim
    real = read >= _CACHE_BYTES
    batch, context, heads, kv_heads = batch[real], context[real], heads[real], kv_heads[real]
    read, measured = read[real], measured[real]

    def predict(p: FloatArray) -> FloatArray:
        reading = read / (gpu.bandwidth_gb_per_s * 1e9 * p[0])
        return np.asarray(p[1] * 1e-6 * batch * heads / 32.0 + reading, dtype=np.float64)

    judged = held_out(list(zip(heads, kv_heads, strict=True)))
    p = _solve(predict, measured, ~judged, np.array([0.7, 0.05]), np.array([0.05, 0.0]), np.array([1.0, 5.0]))
    error = fit_error(predict(p), measured, judged, sources, sequences=batch, context_tokens=context)
    return p[0], p[1] * 1e-6, error


def fit_comm(table: Table, tp: int, sources: Sequence[str]) -> CommFactors:
    """Factors of one all-reduce over `tp` GPUs; columns message_bytes, latency_s (the best library at each size)."""
    size, measured = _floats(table, "message_bytes", "latency_s")

    def predict(p: FloatArray) -> FloatArray:
        return np.asarray(p[0] * 1e-6 + size / (p[1] * 1e9), dtype=np.float64)

    judged = held_out(list(size))
    p = _solve(predict, measured, ~judged, np.array([8.0, 50.0]), np.array([0.1, 0.05]), np.array([500.0, 2000.0]))
    return _rounded(
        CommFactors(tp, p[0] * 1e-6, p[1] * 1e9, fit_error(predict(p), measured, judged, sources, message_bytes=size))
    )


def _solve(
    predict: Callable[[FloatArray], FloatArray],
    measured: FloatArray,
    fitted: Any,
    start: FloatArray,
    low: FloatArray,
    high: FloatArray,
) -> FloatArray:
    """Parameters that bring predictions closest to the fitted rows, by share of the measured time."""
    if fitted.sum() < len(start) or fitted.all():
        raise FitInputError(
            f"{len(measured)} rows, wanted more than {len(start)} with several shapes, to fit and to judge"
        )
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise FitInputError(f"a measured time is {np.nanmin(measured):g} s or blank, wanted all above 0")

    def residuals(p: FloatArray) -> FloatArray:
        return np.asarray(np.log(predict(p)[fitted] / measured[fitted]), dtype=np.float64)

    solution = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale=start)
    return np.asarray(solution.x, dtype=np.float64)


def _where(table: Table, rows: Any) -> Table:
    return {name: column[rows] for name, column in table.items()}


def _floats(table: Table, *names: str) -> tuple[FloatArray, ...]:
    return tuple(np.asarray(table[name], dtype=np.float64) for name in names)


def _rounded(fitted: F) -> F:
    """The same factors with four significant digits: more would only make reviews noisy."""
    values = {f.name: getattr(fitted, f.name) for f in fields(fitted)}
    short: dict[str, Any] = {name: float(f"{v:.4g}") for name, v in values.items() if isinstance(v, float)}
    return replace(fitted, **short)
