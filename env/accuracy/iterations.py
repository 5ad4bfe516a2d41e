"""Whole engine iterations put together from measured kernels of models, layer by layer.

An iteration is `layers` times the time of one layer: its matrix products and small kernels from one table, its attention
from another. What an engine adds (scheduling, sampling), the output head and all-reduces are in neither: the law is taken
without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..catalog.gpus import GPUS, gpu
from ..catalog.models import MODELS, Model
from ..perf.factors import Factors
from ..perf.fit import Table
from ..perf.law import FloatArray
from ..perf.roofline import DoesNotFit, LayoutError, iteration_law, kv_capacity_tokens
from ..perf.tables import read_table
from .points import ITERATION, Correction, IntArray, Points, Predict

GROUP = "kernels"
DECODE, NO_ATTENTION = "decode", "without attention"
PREFILL, SHORT_PREFILL = "prefill, chunks >= 256", "prefill, chunks < 256"
LONG_CHUNK_TOKENS = 256.0
_LEAST_CONTEXT = 32.0
"""Sequences and prompts shorter than any request are not scored."""
_OPERATIONS = (
    *("input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm"),
    *("mlp_up_proj", "mlp_act", "mlp_down_proj", "add"),
)
_LAYER_TABLES = {"A100-SXM-80GB": "vidur_mlp_a100.parquet", "A40-48GB": "vidur_mlp_a40.parquet"}
_ATTENTION_TABLE = "aic_attention.parquet"
_HELIX_TABLE = "helix_layer_times.csv"
_HELIX_MODELS = {"huggyllama/llama-30b": "huggyllama/llama-30b", "meta-llama/Llama-2-70b": "meta-llama/Llama-2-70b-hf"}
_MOST_DECODING = 16.0
"""Larger decode batches of the whole-layer table are mostly attention over a context that it does not state."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One measured iteration."""

    tensor_parallel: int
    kind: str
    prefill_tokens: float
    pairs: float
    sequences: float
    kv_tokens: float
    seconds: float


def iteration_points(folder: Path) -> list[Points]:
    """Points by GPU and model from the tables in `folder`/kernels; TableError as for `read_table`."""
    kernels = folder / "kernels"
    shape = ("batch_size", "new_tokens", "context_len", "num_heads", "num_kv_heads", "head_dim")
    attention = read_table(kernels / _ATTENTION_TABLE, ("gpu", "phase", *shape, "latency_ms"))
    points: list[Points] = []
    for name, file in _LAYER_TABLES.items():
        columns = ("model", "tp", "num_tokens", *(f"{operation}_ms" for operation in _OPERATIONS))
        layers = read_table(kernels / file, columns)
        own = _where(attention, attention["gpu"] == name)
        for model_name in np.unique(layers["model"]):
            model = MODELS.get(str(model_name))
            if model is not None:
                found = _assembled(name, model, _where(layers, layers["model"] == model_name), own)
                points += [_points(name, model, found, file)] if found else []
    helix = read_table(kernels / _HELIX_TABLE, ("model", "node", "phase", "tokens_or_batch", "ms_per_layer"))
    for node in np.unique(helix["node"]):
        if "x" not in str(node):  # how a node of several GPUs splits its layers is not told
            for theirs, ours in _HELIX_MODELS.items():
                rows = _where(helix, (helix["node"] == node) & (helix["model"] == theirs))
                found = _whole_layers(MODELS[ours], rows)
                points += [_points(gpu(str(node)).name, MODELS[ours], found, _HELIX_TABLE)] if found else []
    return sorted(points, key=lambda p: (p.gpu.name, p.model.name, p.sources[0]))


def _assembled(gpu_name: str, model: Model, layers: Table, attention: Table) -> list[Iteration]:
    """Iterations of a model whose layers were measured operation by operation."""
    found: list[Iteration] = []
    for tp in np.unique(layers["tp"]):
        rows = _where(layers, layers["tp"] == tp)
        order = np.argsort(rows["num_tokens"])
        tokens = rows["num_tokens"][order]
        layer_s = np.sum([np.nan_to_num(rows[f"{name}_ms"][order]) for name in _OPERATIONS], axis=0) * 1e-3
        try:
            kv_tokens = kv_capacity_tokens(GPUS[gpu_name], model, "fp16", int(tp), 0.95)
        except (LayoutError, DoesNotFit):
            continue
        if not len(attention["phase"]):
            found += [
                _iteration(int(tp), NO_ATTENTION, t, 0.0, 0.0, 0.0, model, s)
                for t, s in zip(tokens, layer_s, strict=True)
            ]
            continue
        heads = (
            (attention["num_heads"] == model.heads // tp)
            & (attention["num_kv_heads"] == max(1, model.kv_heads // int(tp)))
            & (attention["head_dim"] == model.head_dim)
        )
        found += _with_attention(int(tp), model, tokens, layer_s, _where(attention, heads), kv_tokens)
    return found


def _with_attention(
    tp: int, model: Model, tokens: FloatArray, layer_s: FloatArray, attention: Table, kv_tokens: float
) -> list[Iteration]:
    found: list[Iteration] = []
    for i in range(len(attention["phase"])):
        batch, new, context = (float(attention[c][i]) for c in ("batch_size", "new_tokens", "context_len"))
        decoding = attention["phase"][i] == "decode"
        now = batch if decoding else batch * new
        each = context if decoding else new
        if not tokens[0] <= now <= tokens[-1] or batch * each > kv_tokens or each < _LEAST_CONTEXT:
            continue
        seconds = float(np.interp(now, tokens, layer_s)) + float(attention["latency_ms"][i]) * 1e-3
        if decoding:
            found.append(_iteration(tp, DECODE, 0.0, 0.0, batch, batch * context, model, seconds))
        else:
            found.append(_iteration(tp, _prefill(new), now, batch * new * new / 2.0, 0.0, 0.0, model, seconds))
    return found


def _whole_layers(model: Model, rows: Table) -> list[Iteration]:
    """Iterations of a model whose layers were measured as a whole."""
    found: list[Iteration] = []
    for phase, count, layer_ms in zip(rows["phase"], rows["tokens_or_batch"], rows["ms_per_layer"], strict=True):
        seconds = float(layer_ms) * 1e-3
        if count > 0 and phase == "prompt":
            found.append(_iteration(1, _prefill(count), count, count * count / 2.0, 0.0, 0.0, model, seconds))
        elif 0 < count <= _MOST_DECODING:
            found.append(_iteration(1, DECODE, 0.0, 0.0, count, 0.0, model, seconds))
    return found


def _prefill(chunk_tokens: float) -> str:
    return PREFILL if chunk_tokens >= LONG_CHUNK_TOKENS else SHORT_PREFILL


def _iteration(
    tp: int, kind: str, tokens: float, pairs: float, sequences: float, kv: float, model: Model, layer_s: float
) -> Iteration:
    return Iteration(tp, kind, float(tokens), float(pairs), float(sequences), float(kv), model.layers * float(layer_s))


def _points(gpu_name: str, model: Model, found: list[Iteration], source: str) -> Points:
    return Points(
        gpu=GPUS[gpu_name],
        model=model,
        quantities=(ITERATION,) * len(found),
        kinds=tuple(one.kind for one in found),
        sources=(source,) * len(found),
        rows=np.arange(len(found)),
        measured=np.array([one.seconds for one in found]),
        predictor=partial(_predictor, gpu_name, model, found),
        group=GROUP,
    )


def _predictor(gpu_name: str, model: Model, found: list[Iteration], factors: Factors) -> Predict:
    kernels = kernels_only(factors, attention=found[0].kind != NO_ATTENTION)
    headless = replace(model, vocab=1)
    laws = {
        tp: iteration_law(GPUS[gpu_name], headless, "fp16", tp, factors=kernels)
        for tp in sorted({one.tensor_parallel for one in found})
    }
    tps = np.array([one.tensor_parallel for one in found])
    work = np.array([(one.prefill_tokens, one.pairs, one.sequences, one.kv_tokens) for one in found])

    def predict(correction: Correction, which: IntArray) -> FloatArray:
        out = np.empty(len(which))
        for tp, law in laws.items():
            of = tps[which] == tp
            out[of] = correction.apply(law).iteration_s(*work[which][of].T)
        scale = np.array([correction.by_kind.get(found[i].kind, 1.0) for i in which])
        return np.asarray(out * scale, dtype=np.float64)

    return predict


F = TypeVar("F")


def kernels_only(factors: Factors, attention: bool = True) -> Factors:
    """The factors without what an engine adds to its kernels, without all-reduce and, if asked for, attention."""
    return replace(
        factors,
        engine=replace(factors.engine, iteration_s=0.0, seq_s=0.0),
        comm={name: {tp: _free(comm) for tp, comm in by.items()} for name, by in factors.comm.items()},
        attention=factors.attention if attention else {name: _free(own) for name, own in factors.attention.items()},
    )


def _free(factor: F) -> F:
    """A group of factors at no cost: seconds are 0, rates and efficiencies beyond any."""
    values: Mapping[str, float] = {
        f.name: 1e15 if f.name.endswith(("bytes_per_s", "_eff")) else 0.0
        for f in fields(factor)  # type: ignore[arg-type]
        if isinstance(getattr(factor, f.name), float)
    }
    return replace(factor, **values)  # type: ignore[type-var]


def _where(table: Table, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Table:
    return {name: column[rows] for name, column in table.items()}
