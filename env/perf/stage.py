"""One stage of a replica: some layers of a model on one GPU type, split over `tensor_parallel` cards.

A replica that is no pipeline is one stage with all layers. Symbols: T tokens in the iteration, G grid points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..catalog.gpus import Gpu
from ..catalog.links import Link
from ..catalog.models import Model, bytes_per_weight
from .factors import EngineFactors, Factors, GemmFactors, donor
from .kernels import (
    ACTIVATION_BYTES,
    LayoutError,
    allreduce_s,
    cache_read_s,
    comm_factors,
    decode_sequence_s,
    gemm_s,
    pair_s,
    prefill_token_s,
)
from .law import TOKENS_GRID, FloatArray

SMALL_KERNELS = 6
"""Norms (2), rotary embedding, KV write, activation and quantise or add: a layer's kernels that multiply no matrix."""
_MOSTLY_DECODING, _MOSTLY_PROMPTS = 256.0, 512.0
"""Iterations up to the first many tokens are taken to run the decode kernel's launches, above the second the prefill
kernel's."""
_FEWER_BITS = ("fp8", "int8", "int4")


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers of a pipeline that run on one GPU type."""

    gpu: Gpu
    layers: int
    tensor_parallel: int = 1
    link_to_next: Link | None = None
    """What carries the activations to the next stage; None is what joins GPUs of one machine, or machines where the
    pipeline fills more than one."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """A stage's share of an iteration, as in `IterationLaw`."""

    linear_s: FloatArray
    """`[G]` without the engine's own time for an iteration."""
    attend_s_per_pair: float
    kv_read_s_per_token: float
    seq_s: float


def stage_times(stage: Stage, model: Model, precision: str, known: Factors, *, last: bool = True) -> StageTimes:
    """Seconds of a stage; the last one multiplies the output head and samples. LayoutError as for `check_layout`."""
    gpu, tp = stage.gpu, stage.tensor_parallel
    check_layout(gpu, model, precision, tp)
    gemm = gemm_factors(gpu, precision, known)
    attention = known.attention[donor(gpu, known.attention)]
    heads, kv_heads = model.heads / tp, max(1.0, model.kv_heads / tp)
    token_s = float(prefill_token_s(attention, heads, kv_heads))
    linear = stage.layers * _layer_s(stage, model, precision, gemm, known)
    # A decoding sequence is a token too; what its own kernel takes beyond that is added for each sequence.
    decode_s = max(0.0, float(decode_sequence_s(attention, heads, kv_heads)) - token_s)
    head_s, head_seq_s = _head_s(gpu, model, precision, tp, gemm) if last else (0.0, 0.0)
    sampling_s = head_seq_s + (engine_factors(gpu, known).seq_s if last else 0.0)
    per_kv_token = kv_bytes_per_layer(model, precision, tp) * stage.layers
    return StageTimes(
        linear_s=np.maximum.accumulate(linear) + head_s,
        attend_s_per_pair=stage.layers * float(pair_s(gpu, attention, heads, model.head_dim, precision)),
        kv_read_s_per_token=float(cache_read_s(gpu, attention, per_kv_token)),
        seq_s=stage.layers * decode_s + sampling_s,
    )


def _layer_s(stage: Stage, model: Model, precision: str, gemm: GemmFactors, known: Factors) -> FloatArray:
    """`[G]` seconds of one layer, without what depends on context."""
    gpu, tp, tokens = stage.gpu, stage.tensor_parallel, TOKENS_GRID
    attention = known.attention[donor(gpu, known.attention)]
    heads, kv_heads = model.heads / tp, max(1.0, model.kv_heads / tp)
    seconds = layer_products_s(gpu, model, precision, tp, gemm, tokens)
    # Norms read and write the hidden state twice each, the activation reads both halves and writes one.
    ffn = model.ffn / tp * model.experts_per_token
    moved = ACTIVATION_BYTES * (8.0 * model.hidden + (3 if model.gated_mlp else 2) * ffn) * tokens
    seconds = seconds + SMALL_KERNELS * known.engine.kernel_s + moved / (gpu.bandwidth_gb_per_s * 1e9 * gemm.mem_eff)
    launch = np.interp(
        tokens, [_MOSTLY_DECODING, _MOSTLY_PROMPTS], [attention.decode_layer_s, attention.prefill_layer_s]
    )
    seconds = seconds + launch + tokens * prefill_token_s(attention, heads, kv_heads)
    if tp > 1:
        _, comm = comm_factors(gpu, tp, known)
        seconds = seconds + 2.0 * allreduce_s(comm, ACTIVATION_BYTES * model.hidden * tokens)
    return np.asarray(seconds, dtype=np.float64)


def layer_products_s(
    gpu: Gpu, model: Model, precision: str, tensor_parallel: int, gemm: GemmFactors, tokens: FloatArray
) -> FloatArray:
    """Seconds of one layer's matrix products at each count of tokens (above 0), same shape as `tokens`.

    A mixture of experts reads the experts that its tokens touch if each picks its own at random.
    """
    heads, kv_heads = model.heads / tensor_parallel, max(1.0, model.kv_heads / tensor_parallel)
    ffn = model.ffn / tensor_parallel
    up = (2 if model.gated_mlp else 1) * ffn
    touched = model.experts * (1.0 - (1.0 - model.experts_per_token / model.experts) ** tokens)
    routed = tokens * model.experts_per_token
    return (
        gemm_s(gpu, gemm, precision, tokens, (heads + 2 * kv_heads) * model.head_dim, model.hidden)
        + gemm_s(gpu, gemm, precision, tokens, model.hidden, heads * model.head_dim)
        + gemm_s(gpu, gemm, precision, routed, up, model.hidden, touched)
        + gemm_s(gpu, gemm, precision, routed, model.hidden, ffn, touched)
    )


def _head_s(gpu: Gpu, model: Model, precision: str, tensor_parallel: int, gemm: GemmFactors) -> tuple[float, float]:
    """Seconds to read the output head once an iteration, and to multiply it for each sequence.

    Their sum is up to twice the product where the two are equal, 2 % of an iteration of an 8B model; a blend would
    not be linear in the sequences. The head stays in 16 bits or more.
    """
    wide = "fp32" if precision == "fp32" else "fp16"
    vocab = model.vocab / tensor_parallel
    bandwidth = gpu.bandwidth_gb_per_s * 1e9 * gemm.mem_eff
    once = gemm.launch_s + gemm.depth_s * model.hidden + bytes_per_weight(wide) * vocab * model.hidden / bandwidth
    compute = 2.0 * vocab * model.hidden / (gpu.tflops(wide) * 1e12 * gemm.flop_eff)
    return once, compute + ACTIVATION_BYTES * (vocab + model.hidden) / bandwidth


def kv_bytes_per_gpu(model: Model, precision: str, tensor_parallel: int) -> float:
    """Bytes of one token's keys and values in all layers on one GPU; KV heads are copied where there are fewer than
    GPUs."""
    share = max(1.0 / tensor_parallel, 1.0 / model.kv_heads)
    return model.kv_bytes_per_token("fp32" if precision == "fp32" else "fp16") * share


def kv_bytes_per_layer(model: Model, precision: str, tensor_parallel: int) -> float:
    """The same of one layer."""
    return kv_bytes_per_gpu(model, precision, tensor_parallel) / model.layers


def gemm_factors(gpu: Gpu, precision: str, known: Factors) -> GemmFactors:
    """Factors of the products as an engine runs them.

    The tables time 8-bit products together with a kernel that quantises the activations. Engines fuse that into the
    norm before it: end-to-end runs of vLLM on H200 are predicted 6 % off without that kernel and 29 % with it.
    """
    measured = known.gemm[donor(gpu, known.gemm)]
    kind = gemm_kind(gpu, precision, known)
    found = replace(measured[kind], launch_s=measured["16bit"].launch_s, quantise_s=0.0)
    own = known.serving.get(gpu.name)
    if own is None:
        return found
    return replace(found, flop_eff=found.flop_eff * own.flop_share, mem_eff=found.mem_eff * own.mem_share)


def engine_factors(gpu: Gpu, known: Factors) -> EngineFactors:
    """What the engine adds on this GPU: that of its own end-to-end runs where they were fitted."""
    own = known.serving.get(gpu.name)
    if own is None:
        return known.engine
    return replace(known.engine, iteration_s=own.iteration_s, seq_s=own.seq_s)


def gemm_kind(gpu: Gpu, precision: str, known: Factors) -> str:
    """Which kernels multiply these weights; those of 8 bits only where the GPU has them and they were measured."""
    measured = known.gemm[donor(gpu, known.gemm)]
    return "8bit" if precision in ("fp8", "int8") and gpu.multiplies(precision) and "8bit" in measured else "16bit"


_NO_KERNELS = {
    # vLLM's table of quantisations by hardware: fp8 runs natively from Ada on, weight-only from Ampere on; AWQ from
    # Turing on, GPTQ everywhere.
    "fp8": ("Volta", "Turing", "CDNA2"),
}


def check_layout(gpu: Gpu, model: Model, precision: str, tensor_parallel: int) -> None:
    """Refuse what no engine runs.

    Raises:
        LayoutError: the GPU lacks the precision, or the split does not divide heads, KV heads or feed-forward block.
        CatalogError: no such precision.
    """
    bytes_per_weight(precision)
    if precision == "bf16" and not gpu.supports_bf16:
        raise LayoutError(f"{gpu.name} has no bf16; use fp16 for {model.name}")
    if gpu.architecture in _NO_KERNELS.get(precision, ()):
        raise LayoutError(
            f"{gpu.name} has no {precision}, and no engine unpacks it there; use fp16, int8 or int4 for {model.name}"
        )
    if not _divides(model, tensor_parallel):
        fit = [degree for degree in range(1, 9) if _divides(model, degree)]
        raise LayoutError(
            f"tensor_parallel {tensor_parallel} does not divide the {model.heads} heads, {model.kv_heads} KV heads and"
            f" feed-forward {model.ffn} of {model.name}; use one of {fit}"
        )


def _divides(model: Model, degree: int) -> bool:
    """As vLLM asks: whole heads and columns on each GPU, KV heads divided or copied evenly."""
    if degree < 1 or model.heads % degree or model.ffn % degree:
        return False
    return model.kv_heads % degree == 0 or degree % model.kv_heads == 0


def even_split(layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each stage as vLLM splits them: what is left over goes to the stages before the last, from behind,
    since the last one has the output head to multiply."""
    each, rest = divmod(layers, stages)
    split = [each] * stages
    for i in range(2, rest + 2):
        split[-i] += 1
    return tuple(split)


def check_split(model: Model, stage_layers: Sequence[int]) -> None:
    """LayoutError unless the stages have at least a layer each and all layers of the model together."""
    if min(stage_layers, default=0) < 1 or sum(stage_layers) != model.layers:
        raise LayoutError(
            f"stage_layers {list(stage_layers)} sum to {sum(stage_layers)}, wanted the {model.layers} layers of"
            f" {model.name}, at least one a stage, e.g. {list(even_split(model.layers, max(1, len(stage_layers))))}"
        )
