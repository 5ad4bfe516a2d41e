"""Seconds of single kernels from their factors: matrix products, attention, all-reduce, transfers. Pure formulas.

Arguments broadcast against each other.
"""

from __future__ import annotations

import numpy as np

from ..catalog.gpus import GPUS, Gpu
from ..catalog.links import Link
from ..catalog.models import bytes_per_weight
from .factors import COMM_SWITCH_BYTES, AttentionFactors, CommFactors, Factors, GemmFactors, TransferFactors
from .law import FloatArray

ACTIVATION_BYTES = 2.0
_TILE = 128.0
"""Rows and columns of the tile that one compute unit multiplies; cuBLAS and CUTLASS pick 64 to 256."""
_UNPACK_OPS = 1.0
"""Operations to unpack one weight of fewer bits than the arithmetic has, once for each tile of rows; an assumption:
no table measures weight-only kernels (Marlin, arXiv:2408.11743, finds them near the 16-bit rate at large batches)."""


class LayoutError(ValueError):
    """This GPU cannot run this model in this precision and split; the message says what can."""


def gemm_s(
    gpu: Gpu,
    factors: GemmFactors,
    precision: str,
    m: FloatArray | float,
    n: FloatArray | float,
    k: FloatArray | float,
    copies: FloatArray | float = 1.0,
) -> FloatArray:
    """Seconds of an `m x k` by `k x n` product, m above 0.

    Args:
        copies: weight matrices over which the rows spread (the experts touched), one launch for all.
    """
    rows = np.asarray(m, dtype=np.float64)
    each = rows / copies
    tall = np.ceil(each / _TILE)
    waves = copies * tall * np.ceil(np.asarray(n) / _TILE) / gpu.compute_units
    uneven = (np.ceil(waves) / waves) ** factors.wave_exp * (tall * _TILE / each) ** factors.tile_exp
    compute = 2.0 * rows * n * k / (gpu.tflops(precision) * 1e12 * factors.flop_eff) * uneven
    compute = compute + copies * tall * n * k * _unpack_s(gpu, precision)
    moved = bytes_per_weight(precision) * n * k * copies + ACTIVATION_BYTES * rows * (n + k)
    memory = moved / (gpu.bandwidth_gb_per_s * 1e9 * factors.mem_eff)
    fixed = factors.launch_s + factors.depth_s * np.asarray(k) + factors.quantise_s * rows * k
    return np.asarray((fixed + blended(compute, memory, factors.blend)) * _by_rows(factors, each), dtype=np.float64)


def _unpack_s(gpu: Gpu, precision: str) -> float:
    """Seconds to unpack one weight; 0 where the GPU multiplies the precision as it is."""
    packed = bytes_per_weight(precision) < ACTIVATION_BYTES and not gpu.multiplies(precision)
    return _UNPACK_OPS / (gpu.fp32_tflops * 1e12 / 2.0) if packed else 0.0


def _by_rows(factors: GemmFactors, rows: FloatArray) -> FloatArray:
    if not factors.by_rows:
        return np.ones_like(rows)
    nodes = np.array(factors.by_rows)
    return np.asarray(np.exp(np.interp(np.log(rows), np.log(nodes[:, 0]), np.log(nodes[:, 1]))), dtype=np.float64)


def blended(compute: FloatArray, memory: FloatArray, blend: float) -> FloatArray:
    """(compute^blend + memory^blend)^(1/blend), scaled first so that no power underflows."""
    longest = np.maximum(compute, memory)
    shortest = np.minimum(compute, memory)
    return np.asarray(longest * (1.0 + (shortest / longest) ** blend) ** (1.0 / blend), dtype=np.float64)


def prefill_token_s(attention: AttentionFactors, heads: FloatArray | float, kv_heads: FloatArray | float) -> FloatArray:
    """Seconds of one layer's attention for each new token, the pairs it attends aside."""
    return np.asarray(
        attention.prefill_head_s * np.asarray(heads) + attention.prefill_kv_s * np.sqrt(kv_heads), dtype=np.float64
    )


def pair_s(
    gpu: Gpu, attention: AttentionFactors, heads: FloatArray | float, head_dim: FloatArray | float, precision: str
) -> FloatArray:
    """Seconds of one layer's attention for each pair of tokens: a product with the key and one with the value."""
    peak = gpu.tflops("fp32" if precision == "fp32" else "fp16") * 1e12
    return np.asarray(4.0 * np.asarray(heads) * head_dim / (peak * attention.prefill_flop_eff), dtype=np.float64)


def decode_sequence_s(
    attention: AttentionFactors, heads: FloatArray | float, kv_heads: FloatArray | float
) -> FloatArray:
    """Seconds of one layer's attention for each decoding sequence, reading its cache aside."""
    return np.asarray(
        attention.decode_head_s * np.asarray(heads) + attention.decode_kv_s * np.sqrt(kv_heads), dtype=np.float64
    )


def cache_read_s(gpu: Gpu, attention: AttentionFactors, cache_bytes: FloatArray | float) -> FloatArray:
    """Seconds to read so many bytes of the KV cache."""
    return np.asarray(cache_bytes / (gpu.bandwidth_gb_per_s * 1e9 * attention.decode_mem_eff), dtype=np.float64)


def allreduce_s(comm: CommFactors, message_bytes: FloatArray | float) -> FloatArray:
    """Seconds of one all-reduce of so many bytes a GPU; never less than those of a smaller message."""
    size = np.asarray(message_bytes, dtype=np.float64)
    small = comm.latency_s + np.minimum(size, COMM_SWITCH_BYTES) / comm.bytes_per_s
    large = comm.large_latency_s + size / comm.large_bytes_per_s
    return np.asarray(np.where(size <= COMM_SWITCH_BYTES, small, np.maximum(small, large)), dtype=np.float64)


def transfer_s(link: Link, factors: TransferFactors, message_bytes: FloatArray | float) -> FloatArray:
    """Seconds to send so many bytes to the next pipeline stage."""
    rate = link.gb_per_s * 1e9 * factors.link_eff
    return np.asarray(factors.latency_s + np.asarray(message_bytes) / rate, dtype=np.float64)


def transfer_factors(link: Link, known: Factors) -> TransferFactors:
    """Factors of the kind of link; LayoutError where no such link was measured."""
    if link.kind not in known.transfer:
        raise LayoutError(f"no transfers over a {link.kind} link were measured: {link.name}; run poolpilot calibrate")
    return known.transfer[link.kind]


def comm_factors(gpu: Gpu, tensor_parallel: int, known: Factors) -> tuple[str, CommFactors]:
    """Who was measured, and its all-reduce carried over to this GPU's link by the ratio of the link speeds.

    A degree between two measured ones lies between them, on the logarithm of the degree.
    """
    link = gpu.link_among(tensor_parallel)
    direct = link.kind == "direct"
    # NVLink and PCIe differ in kind: ring over a switch, or every byte through the host.
    alike = {
        name: by for name, by in known.comm.items() if by and (GPUS[name].link_among(8).kind == "direct") == direct
    }
    if not alike:
        raise LayoutError(f"tensor_parallel {tensor_parallel}: no all-reduce was measured over a {link.kind} link")

    def distance(name: str) -> tuple[bool, float]:
        return name != gpu.name, abs(np.log(GPUS[name].link_among(8).gb_per_s / link.gb_per_s))

    name = min(alike, key=distance)
    comm = _between_degrees({int(degree): factors for degree, factors in alike[name].items()}, tensor_parallel)
    ratio = link.gb_per_s / GPUS[name].link_among(tensor_parallel).gb_per_s
    return name, CommFactors(
        tensor_parallel,
        comm.latency_s,
        comm.bytes_per_s * ratio,
        comm.large_latency_s,
        comm.large_bytes_per_s * ratio,
        comm.error,
    )


def _between_degrees(measured: dict[int, CommFactors], degree: int) -> CommFactors:
    below = max((d for d in measured if d <= degree), default=min(measured))
    above = min((d for d in measured if d >= degree), default=max(measured))
    low, high = measured[below], measured[above]
    if below == above:
        return low
    share = float(np.log(degree / below) / np.log(above / below))

    def between(a: float, b: float) -> float:
        return a + share * (b - a)

    return CommFactors(
        degree,
        between(low.latency_s, high.latency_s),
        1.0 / between(1.0 / low.bytes_per_s, 1.0 / high.bytes_per_s),
        between(low.large_latency_s, high.large_latency_s),
        1.0 / between(1.0 / low.large_bytes_per_s, 1.0 / high.large_bytes_per_s),
        high.error if high.error.median >= low.error.median else low.error,
    )
