"""The iteration law of any GPU, model and layout: bytes over bandwidth, operations over peak, and few fitted factors.

Symbols: T tokens in the iteration, tp GPUs of the replica.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..catalog.gpus import GPUS, Gpu
from ..catalog.models import Model, bytes_per_weight
from .factors import CommFactors, Factors, GemmFactors, donor, shipped_factors
from .law import TOKENS_GRID, FloatArray, IterationLaw

KV_BLOCK_TOKENS = 16
"""vLLM's default block."""
ACTIVATION_BYTES = 2.0
SMALL_KERNELS = 6
"""Norms (2), rotary embedding, KV write, activation and quantise or add: a layer's kernels that multiply no matrix."""


class LayoutError(ValueError):
    """This GPU cannot run this model in this precision and split; the message says what can."""


class DoesNotFit(ValueError):
    """The weights leave no room for a KV cache."""


def iteration_law(
    gpu: Gpu,
    model: Model,
    precision: str,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    factors: Factors | None = None,
) -> IterationLaw:
    """The law of one replica.

    Args:
        precision: of the weights: fp32, fp16, bf16, fp8, int8 or int4. The KV cache stays in 16 bits (fp32 for fp32).
        factors: other than those shipped.

    Raises:
        LayoutError: the GPU lacks the precision, the heads do not divide, or pipeline_parallel is above 1.
    """
    check_layout(gpu, model, precision, tensor_parallel, pipeline_parallel)
    known = factors or shipped_factors()
    gemm = _gemm_factors(gpu, precision, known)
    linear = known.engine.iteration_s + model.layers * _layer_s(gpu, model, precision, tensor_parallel, gemm, known)
    head_s, head_seq_s = _head_s(gpu, model, precision, tensor_parallel, gemm)
    attention = known.attention[donor(gpu, known.attention)]
    bandwidth = gpu.bandwidth_gb_per_s * 1e9
    heads = model.heads / tensor_parallel
    pair_flops = 4.0 * heads * model.head_dim * model.layers  # a product with the key and one with the value
    return IterationLaw(
        tokens_grid=TOKENS_GRID,
        linear_s=linear + head_s,
        attend_s_per_pair=pair_flops
        / (gpu.tflops("fp32" if precision == "fp32" else "fp16") * 1e12 * attention.prefill_flop_eff),
        kv_read_s_per_token=kv_bytes_per_gpu(model, precision, tensor_parallel)
        / (bandwidth * attention.decode_mem_eff),
        seq_s=known.engine.seq_s + model.layers * attention.seq_s * heads / 32 + head_seq_s,
    )


def gemm_s(
    gpu: Gpu,
    factors: GemmFactors,
    precision: str,
    m: FloatArray | float,
    n: FloatArray | float,
    k: FloatArray | float,
    copies: FloatArray | float = 1.0,
) -> FloatArray:
    """Seconds of an `m x k` by `k x n` product; `copies` weight matrices are read (the experts touched), one launch."""
    rows = np.asarray(m, dtype=np.float64)
    compute = 2.0 * rows * n * k / (gpu.tflops(precision) * 1e12 * factors.flop_eff)
    moved = bytes_per_weight(precision) * n * k * copies + ACTIVATION_BYTES * rows * (n + k)
    memory = moved / (gpu.bandwidth_gb_per_s * 1e9 * factors.mem_eff)
    fixed = factors.launch_s + factors.quantise_s * rows * k
    return np.asarray(fixed + blended(compute, memory, factors.blend), dtype=np.float64)


def blended(compute: FloatArray, memory: FloatArray, blend: float) -> FloatArray:
    """(compute^blend + memory^blend)^(1/blend), scaled first so that no power underflows."""
    longest = np.maximum(compute, memory)
    shortest = np.minimum(compute, memory)
    return np.asarray(longest * (1.0 + (shortest / longest) ** blend) ** (1.0 / blend), dtype=np.float64)


def allreduce_s(comm: CommFactors, message_bytes: FloatArray | float) -> FloatArray:
    """Seconds of one all-reduce of so many bytes a GPU."""
    return np.asarray(comm.latency_s + np.asarray(message_bytes) / comm.bytes_per_s, dtype=np.float64)


def kv_bytes_per_gpu(model: Model, precision: str, tensor_parallel: int) -> float:
    """Bytes of one token's keys and values on one GPU; KV heads are copied where there are fewer than GPUs."""
    share = max(1.0 / tensor_parallel, 1.0 / model.kv_heads)
    return model.kv_bytes_per_token("fp32" if precision == "fp32" else "fp16") * share


def _layer_s(
    gpu: Gpu, model: Model, precision: str, tensor_parallel: int, gemm: GemmFactors, known: Factors
) -> FloatArray:
    """`[G]` seconds of one layer, without what depends on context."""
    tokens = TOKENS_GRID
    bandwidth = gpu.bandwidth_gb_per_s * 1e9
    heads, kv_heads = model.heads / tensor_parallel, max(1.0, model.kv_heads / tensor_parallel)
    ffn = model.ffn / tensor_parallel
    up = (2 if model.gated_mlp else 1) * ffn
    touched = model.experts * (1.0 - (1.0 - model.experts_per_token / model.experts) ** tokens)
    routed = tokens * model.experts_per_token
    attention = known.attention[donor(gpu, known.attention)]
    width = (heads + kv_heads) * model.head_dim
    products = (
        gemm_s(gpu, gemm, precision, tokens, (heads + 2 * kv_heads) * model.head_dim, model.hidden)
        + gemm_s(gpu, gemm, precision, tokens, model.hidden, heads * model.head_dim)
        + gemm_s(gpu, gemm, precision, routed, up, model.hidden, touched)
        + gemm_s(gpu, gemm, precision, routed, model.hidden, ffn, touched)
    )
    # Norms read and write the hidden state twice each, the activation reads both halves and writes one.
    moved = ACTIVATION_BYTES * (8.0 * model.hidden + model.experts_per_token * (up + ffn)) * tokens
    small = SMALL_KERNELS * known.engine.kernel_s + moved / (bandwidth * gemm.mem_eff)
    new_kv = 2 * ACTIVATION_BYTES * width * tokens / (bandwidth * attention.token_mem_eff)
    seconds = products + small + attention.layer_s + new_kv
    if tensor_parallel > 1:
        _, comm = comm_factors(gpu, tensor_parallel, known)
        seconds = seconds + 2.0 * allreduce_s(comm, ACTIVATION_BYTES * model.hidden * tokens)
    return np.asarray(seconds, dtype=np.float64)


def _head_s(gpu: Gpu, model: Model, precision: str, tensor_parallel: int, gemm: GemmFactors) -> tuple[float, float]:
    """Seconds to read the output head once an iteration, and to multiply it for each sequence.

    Their sum is up to twice the product where the two are equal, 2 % of an iteration of an 8B model; a blend would
    not be linear in the sequences. The head stays in 16 bits or more.
    """
    wide = "fp32" if precision == "fp32" else "fp16"
    vocab = model.vocab / tensor_parallel
    once = float(gemm_s(gpu, gemm, wide, 0.0, vocab, model.hidden))
    compute = 2.0 * vocab * model.hidden / (gpu.tflops(wide) * 1e12 * gemm.flop_eff)
    moved = ACTIVATION_BYTES * (vocab + model.hidden) / (gpu.bandwidth_gb_per_s * 1e9 * gemm.mem_eff)
    return once, compute + moved


def comm_factors(gpu: Gpu, tensor_parallel: int, known: Factors) -> tuple[str, CommFactors]:
    """Who was measured, and its all-reduce carried over to this GPU's link by the ratio of the link speeds."""
    degree = str(tensor_parallel)
    measured = {name: by[degree] for name, by in known.comm.items() if degree in by}
    direct = _is_direct(gpu, tensor_parallel)
    # NVLink and PCIe differ in kind: ring over a switch, or every byte through the host.
    alike = [name for name in measured if _is_direct(GPUS[name], tensor_parallel) == direct]
    if not alike:
        known_degrees = sorted({int(d) for by in known.comm.values() for d in by})
        raise LayoutError(f"tensor_parallel {tensor_parallel}: no all-reduce was measured; use one of {known_degrees}")
    speed = gpu.link_among(tensor_parallel).gb_per_s

    def distance(name: str) -> tuple[bool, float]:
        return name != gpu.name, abs(np.log(GPUS[name].link_among(tensor_parallel).gb_per_s / speed))

    name = min(alike, key=distance)
    comm = measured[name]
    ratio = speed / GPUS[name].link_among(tensor_parallel).gb_per_s
    return name, CommFactors(comm.tp, comm.latency_s, comm.bytes_per_s * ratio, comm.error)


def _is_direct(gpu: Gpu, gpus: int) -> bool:
    """Whether the replica's GPUs talk without crossing the machine's PCIe."""
    return gpu.link_among(gpus).name != gpu.pcie_name


def _gemm_factors(gpu: Gpu, precision: str, known: Factors) -> GemmFactors:
    """Factors of the products as an engine runs them.

    The tables time 8-bit products together with a kernel that quantises the activations. Engines fuse that into the
    norm before it: end-to-end runs of vLLM on H200 are predicted 6 % off without that kernel and 29 % with it.
    """
    measured = known.gemm[donor(gpu, known.gemm)]
    kind = gemm_kind(gpu, precision, known)
    return replace(measured[kind], launch_s=measured["16bit"].launch_s, quantise_s=0.0)


def gemm_kind(gpu: Gpu, precision: str, known: Factors) -> str:
    """Which kernels multiply these weights; those of 8 bits only where the GPU has them and they were measured."""
    has_units = (precision == "fp8" and gpu.fp8_tflops > 0) or (precision == "int8" and gpu.int8_tops > 0)
    measured = known.gemm[donor(gpu, known.gemm)]
    return "8bit" if has_units and "8bit" in measured else "16bit"


def check_layout(gpu: Gpu, model: Model, precision: str, tensor_parallel: int, pipeline_parallel: int) -> None:
    bytes_per_weight(precision)
    if precision == "bf16" and not gpu.supports_bf16:
        raise LayoutError(f"{gpu.name} has no bf16; use fp16 for {model.name}")
    if tensor_parallel < 1 or model.heads % tensor_parallel:
        fit = [d for d in (1, 2, 4, 8) if model.heads % d == 0]
        raise LayoutError(
            f"tensor_parallel {tensor_parallel} does not divide the {model.heads} heads of {model.name}; use one of {fit}"
        )
    if pipeline_parallel != 1:
        raise LayoutError(f"pipeline_parallel {pipeline_parallel} is not modelled; use 1 and more tensor_parallel")


def kv_capacity_tokens(
    gpu: Gpu, model: Model, precision: str, tensor_parallel: int = 1, memory_utilization: float = 0.9
) -> int:
    """Tokens that the KV cache of one replica holds, in whole blocks of 16.

    vLLM takes `memory_utilization` of each GPU's memory and leaves to the cache what weights and the workspace of its
    profiling run do not need.

    Raises:
        LayoutError: as for `iteration_law`.
        DoesNotFit: names the GPU, model, precision and the gigabytes missing on each GPU.
    """
    check_layout(gpu, model, precision, tensor_parallel, 1)
    taken = gpu.memory_gb * 1e9 * memory_utilization
    needed = model.weight_bytes(precision) / tensor_parallel + _workspace_bytes(model, tensor_parallel)
    per_token = kv_bytes_per_gpu(model, precision, tensor_parallel)
    blocks = int((taken - needed) // (per_token * KV_BLOCK_TOKENS))
    if blocks < 1:
        missing_gb = (needed + per_token * KV_BLOCK_TOKENS - taken) / 1e9
        raise DoesNotFit(
            f"{model.name} in {precision} does not fit on {tensor_parallel} x {gpu.name}: {missing_gb:.1f} GB are missing"
            f" on each GPU at memory_utilization {memory_utilization:g}; raise tensor_parallel or lower the precision"
        )
    return blocks * KV_BLOCK_TOKENS


def _workspace_bytes(model: Model, tensor_parallel: int) -> float:
    """Peak activations of vLLM's profiling run: 2,048 tokens through the widest layer, 256 rows of fp32 logits twice."""
    width = 4 * model.hidden + 3 * model.ffn * model.experts_per_token / tensor_parallel
    return ACTIVATION_BYTES * width * 2048 + 2 * 4.0 * 256 * model.vocab
