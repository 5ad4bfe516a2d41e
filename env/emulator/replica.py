"""What one emulated replica is: GPU, model, layout and the engine's start flags, checked as vLLM checks them."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalog.gpus import Gpu, gpu
from ..catalog.models import Model, model
from ..perf.law import IterationLaw
from ..perf.roofline import KV_BLOCK_TOKENS, iteration_law, kv_capacity_tokens


class ReplicaError(ValueError):
    """A replica that cannot be; the message names the flag."""


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """vLLM's start flags that decide how it batches. A live batch cap never goes above them."""

    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    max_model_len: int = 8192
    gpu_memory_utilization: float = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaSpec:
    """One replica, ready to be run."""

    gpu: Gpu
    model: Model
    tensor_parallel: int
    flags: EngineFlags
    law: IterationLaw
    kv_tokens: int
    """What the KV cache holds."""

    @property
    def kv_blocks(self) -> int:
        """Blocks of the KV cache."""
        return self.kv_tokens // KV_BLOCK_TOKENS


def replica_spec(
    gpu_name: str, model_name: str, precision: str, tensor_parallel: int, flags: EngineFlags, slowness: float = 1.0
) -> ReplicaSpec:
    """The replica with its law and its KV cache.

    Args:
        slowness: iterations take this many times as long as the performance model says.

    Raises:
        ValueError: an unknown GPU, model or layout, a model that does not fit, or (ReplicaError) flags that clash.
    """
    on, of = gpu(gpu_name), model(model_name)
    law = iteration_law(on, of, precision, tensor_parallel).scaled(slowness)
    kv_tokens = kv_capacity_tokens(on, of, precision, tensor_parallel, flags.gpu_memory_utilization)
    if kv_tokens < flags.max_model_len:
        raise ReplicaError(
            f"max_model_len {flags.max_model_len}: the KV cache of {of.name} in {precision} on {tensor_parallel} x"
            f" {on.name} holds {kv_tokens} tokens; lower it, or raise gpu_memory_utilization or tensor_parallel"
        )
    if flags.max_num_batched_tokens < flags.max_num_seqs:
        raise ReplicaError(
            f"max_num_batched_tokens {flags.max_num_batched_tokens}: wanted at least max_num_seqs, {flags.max_num_seqs}"
        )
    return ReplicaSpec(on, of, tensor_parallel, flags, law, kv_tokens)
