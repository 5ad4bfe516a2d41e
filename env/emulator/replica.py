"""What one emulated replica is: GPU, model, layout and the engine's start flags, checked as vLLM checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..catalog.gpus import Gpu, gpu
from ..catalog.models import Model, model
from ..perf.law import IterationLaw
from ..perf.law_file import LawFile, LawFileError, read_law_file
from ..perf.power import Draw, draws_of
from ..perf.roofline import KV_BLOCK_TOKENS, Stage, pipeline_kv_tokens, pipeline_law, stages_of


class ReplicaError(ValueError):
    """A replica that cannot be; the message names the flag."""


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """vLLM's start flags that decide how it batches. A live batch cap never goes above them."""

    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    max_model_len: int = 8192
    gpu_memory_utilization: float = 0.9
    scheduling: str = "fcfs"
    """Or "priority"."""
    prefix_caching: bool = False


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
    draws: tuple[Draw, ...]
    """Of its GPUs: one where they are alike, one a stage where they are not."""
    pipeline_parallel: int = 1
    batches_in_flight: int = 1
    """Batches at a time, each with the token budget of the flags."""

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return sum(draw.gpus for draw in self.draws)

    @property
    def kv_blocks(self) -> int:
        """Blocks of the KV cache."""
        return self.kv_tokens // KV_BLOCK_TOKENS


def replica_spec(
    gpu_name: str,
    model_name: str,
    precision: str,
    tensor_parallel: int,
    flags: EngineFlags,
    slowness: float = 1.0,
    measured: LawFile | None = None,
    *,
    pipeline_parallel: int = 1,
    stage_layers: Sequence[int] | None = None,
    stages: Sequence[Stage] | None = None,
) -> ReplicaSpec:
    """The replica with its law and its KV cache.

    Args:
        slowness: iterations take this many times as long as the law says.
        pipeline_parallel: stages, each of `tensor_parallel` GPUs.
        stage_layers: layers of each stage; None is an even split.
        stages: of a pipeline over GPUs that differ, in place of `gpu_name`, `tensor_parallel` and the two before.
        measured: the law, and the KV cache's size where it tells it, in place of the performance model's.

    Raises:
        ValueError: an unknown GPU, model or layout, a model that does not fit, or (ReplicaError) flags that clash or a
            law measured on something else.
    """
    of = model(model_name)
    if stages is None:
        stages = stages_of(gpu(gpu_name), of, tensor_parallel, pipeline_parallel, stage_layers)
    elif measured is not None:
        raise ReplicaError("law: not with stages; a law file speaks of one GPU type")
    on, pipeline_parallel = stages[0].gpu, len(stages)
    layout = (on.name, of.name, precision, tensor_parallel, pipeline_parallel)
    if measured is None:
        law = pipeline_law(stages, of, precision, batch_tokens=flags.max_num_batched_tokens)
    else:
        law = _measured_law(measured, layout)
    kv_tokens = None if measured is None else measured.kv_tokens_of(*layout)
    if kv_tokens is None:
        kv_tokens = pipeline_kv_tokens(stages, of, precision, flags.gpu_memory_utilization)
    if kv_tokens < flags.max_model_len:
        raise ReplicaError(
            f"max_model_len {flags.max_model_len}: the KV cache of {of.name} in {precision} on {_hardware(stages)}"
            f" holds {kv_tokens} tokens; lower it, or raise gpu_memory_utilization or tensor_parallel"
        )
    if flags.max_num_batched_tokens < flags.max_num_seqs:
        raise ReplicaError(
            f"max_num_batched_tokens {flags.max_num_batched_tokens}: wanted at least max_num_seqs, {flags.max_num_seqs}"
        )
    return ReplicaSpec(
        on,
        of,
        stages[0].tensor_parallel,
        flags,
        law.scaled(slowness),
        kv_tokens,
        draws_of(stages, of, precision),
        pipeline_parallel,
        pipeline_parallel if measured is None else 1,
    )


def spec_of(options: Mapping[str, Any], slowness: float = 1.0) -> ReplicaSpec:
    """The replica that has these options; what is not among them is as `poolpilot emulate` has it by default.

    Args:
        options: such as `pool_options` gives; `model`, and `gpu` or `stages`, at least.
        slowness: on top of the pool's own `time_factor`.

    Raises:
        ValueError: as `replica_spec`, or the law's file cannot be used.
    """
    law = options.get("law")
    return replica_spec(
        options.get("gpu", ""),
        options["model"],
        options.get("precision", "bf16"),
        options.get("tensor_parallel", 1),
        EngineFlags(**{own.name: options[own.name] for own in fields(EngineFlags) if own.name in options}),
        slowness * options.get("time_factor", 1.0),
        None if law is None else read_law_file(law),
        pipeline_parallel=options.get("pipeline_parallel", 1),
        stage_layers=options.get("stage_layers"),
        stages=options.get("stages"),
    )


def _hardware(stages: Sequence[Stage]) -> str:
    counts: dict[str, int] = {}
    for stage in stages:
        counts[stage.gpu.name] = counts.get(stage.gpu.name, 0) + stage.tensor_parallel
    return " + ".join(f"{count} x {name}" for name, count in counts.items())


def _measured_law(measured: LawFile, layout: tuple[str, str, str, int, int]) -> IterationLaw:
    try:
        return measured.law_of(*layout)
    except LawFileError as error:
        raise ReplicaError(f"law: {error}") from None
