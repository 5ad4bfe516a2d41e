"""Whole iterations put together from measured kernels, against the model's: what the small errors come to.

An iteration here is the matrix products and the attention of one layer that no fit saw, at the tokens, sequences and
contexts that were measured for all of them. What an engine adds is judged by end-to-end runs instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..catalog.gpus import Gpu
from .factors import AttentionFactors, Factors, FitError, GemmFactors, IterationErrors, donor
from .fit import LEAST_CHUNK, Table, fit_error, read_from_memory, weights_from_memory
from .kernels import ACTIVATION_BYTES, cache_read_s, decode_sequence_s, gemm_s, pair_s, prefill_token_s
from .stage import gemm_kind
from .unseen import UNSEEN_LAYERS, LayerShape

_MOST_DECODING = 512.0
Row = tuple[float, float, float, float, float]
"""Predicted and measured seconds, tokens, sequences, context."""


def iteration_errors(
    gpu: Gpu, kind: str, gemm_table: Table, attention_table: Table, factors: Factors, sources: Sequence[str]
) -> IterationErrors | None:
    """The error of unseen layers on one GPU; None if nothing was measured for all kernels of any.

    Args:
        kind: "16bit" or "8bit", of the products; attention is of 16 bits.
        gemm_table: columns m, n, k, latency_s, of this GPU and kind.
        attention_table: as for `fit_attention`, of this GPU.
        factors: those of the GPU, or of whoever stands in for it.
    """
    kinds = factors.gemm[donor(gpu, factors.gemm)]
    gemm = kinds.get(kind, kinds["16bit"])
    attention = factors.attention[donor(gpu, factors.attention)]
    precision = "fp8" if kind == "8bit" else "bf16"
    rows = [
        row
        for layer in UNSEEN_LAYERS
        for row in _layer_rows(gpu, precision, layer, gemm_table, attention_table, gemm, attention)
    ]
    decode = [row for row in rows if row[3] > 0]
    prefill = [row for row in rows if row[3] == 0]
    if not decode or not prefill:
        return None
    return IterationErrors(decode=_error(decode, sources), prefill=_error(prefill, sources))


def _error(rows: Sequence[Row], sources: Sequence[str]) -> FitError:
    predicted, measured, tokens, sequences, context = np.array(rows).T
    judged = np.ones(len(rows), dtype=np.bool_)
    ranges = {"tokens": tokens} if not sequences.any() else {"sequences": sequences, "context_tokens": context}
    return fit_error(predicted, measured, judged, sources, **ranges)


def _layer_rows(
    gpu: Gpu,
    precision: str,
    layer: LayerShape,
    gemm_table: Table,
    attention_table: Table,
    gemm: GemmFactors,
    attention: AttentionFactors,
) -> Iterator[Row]:
    n, k = (np.array(side, dtype=np.float64) for side in zip(*layer.products, strict=True))
    if not weights_from_memory(gpu, precision, n, k).all():
        return
    measured = _measured_products(layer, gemm_table)
    rows = (attention_table["num_heads"] == layer.heads) & (attention_table["num_kv_heads"] == layer.kv_heads)
    of_layer = {name: column[rows] for name, column in attention_table.items()}
    from_memory = read_from_memory(gpu, of_layer)
    for i in range(len(of_layer["phase"])):
        batch, new, context = (float(of_layer[c][i]) for c in ("batch_size", "new_tokens", "context_len"))
        decoding = str(of_layer["phase"][i]) == "decode"
        tokens = batch if decoding else batch * new
        if tokens not in measured:
            continue
        products = float(gemm_s(gpu, gemm, precision, tokens, n, k).sum())
        if decoding and batch <= _MOST_DECODING and from_memory[i]:
            read = 2.0 * ACTIVATION_BYTES * batch * context * layer.kv_heads * 128
            sequences = batch * float(decode_sequence_s(attention, layer.heads, layer.kv_heads))
            own = attention.decode_layer_s + sequences + float(cache_read_s(gpu, attention, read))
            yield products + own, measured[tokens] + float(of_layer["latency_s"][i]), tokens, batch, context
        elif not decoding and tokens >= LEAST_CHUNK and new >= LEAST_CHUNK / 2:
            pairs = batch * new * new / 2.0 * float(pair_s(gpu, attention, layer.heads, 128, "fp16"))
            each = tokens * float(prefill_token_s(attention, layer.heads, layer.kv_heads))
            own = attention.prefill_layer_s + each + pairs
            yield products + own, measured[tokens] + float(of_layer["latency_s"][i]), tokens, 0.0, new


def _measured_products(layer: LayerShape, table: Table) -> dict[float, float]:
    """Seconds of all four products by tokens, where all were measured."""
    sums: dict[float, float] = {}
    counts: dict[float, int] = {}
    for n, k in layer.products:
        rows = (table["n"] == n) & (table["k"] == k)
        for m, seconds in zip(table["m"][rows], table["latency_s"][rows], strict=True):
            sums[float(m)] = sums.get(float(m), 0.0) + float(seconds)
            counts[float(m)] = counts.get(float(m), 0) + 1
    return {m: seconds for m, seconds in sums.items() if counts[m] == len(layer.products)}


def kinds_of(gpu: Gpu, factors: Factors) -> tuple[str, ...]:
    """The kinds of products that the GPU would run: "8bit" only where it has the units and they were measured."""
    return ("16bit", "8bit") if gemm_kind(gpu, "fp8", factors) == "8bit" else ("16bit",)
