"""What fits into the memory of a replica's GPUs: the weights of each stage, and the KV cache in what they leave."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog.models import Model, bytes_per_weight
from .kernels import ACTIVATION_BYTES
from .stage import Stage, check_layout, check_split, kv_bytes_per_layer

KV_BLOCK_TOKENS = 16
"""vLLM's default block."""

_ENGINE_BYTES = 1.1e9
"""What an engine takes of each GPU beside weights and activations: CUDA's context, graphs, libraries' buffers. From two
real runs of Llama-3.1-8B in bf16 at a utilization of 0.9: RTX 4090, 2,588 blocks (LLMServingSim, vLLM 0.19), which
leave 1.2e9; RTX A5000 without graphs, 43,296 tokens, which leave 0.9e9."""


class DoesNotFit(ValueError):
    """The weights leave no room for a KV cache."""


def stage_weight_bytes(stages: Sequence[Stage], index: int, model: Model, precision: str) -> float:
    """Bytes of the weights of one stage on each of its GPUs: its layers, the embedding on the first stage, the output
    head and the final norm on the last. A head tied to the embedding is kept on both ends of a pipeline."""
    return _weight_bytes(stages[index], model, precision, first=index == 0, last=index == len(stages) - 1)


def _weight_bytes(stage: Stage, model: Model, precision: str, *, first: bool, last: bool) -> float:
    per_weight = bytes_per_weight(precision)
    tables = model.embedding_params / model.head_params if first and last else float(first) + float(last)
    wide = tables * model.head_params * max(per_weight, 2.0)
    weights = stage.layers * model.layer_params * per_weight
    return (weights + wide) / stage.tensor_parallel


def pipeline_kv_tokens(stages: Sequence[Stage], model: Model, precision: str, memory_utilization: float = 0.9) -> int:
    """Tokens that the KV cache of a pipeline holds, in whole blocks: each token needs room on every stage, so the
    tightest one decides.

    Raises:
        LayoutError: as for `pipeline_law`.
        DoesNotFit: names the GPU, model, precision, stage and the gigabytes missing on each GPU.
    """
    check_split(model, [stage.layers for stage in stages])
    return min(_stage_blocks(stages, i, model, precision, memory_utilization) for i in range(len(stages))) * (
        KV_BLOCK_TOKENS
    )


def _stage_blocks(stages: Sequence[Stage], index: int, model: Model, precision: str, memory_utilization: float) -> int:
    stage = stages[index]
    first, last = index == 0, index == len(stages) - 1
    check_layout(stage.gpu, model, precision, stage.tensor_parallel)
    room, per_block = _room(stage, model, precision, memory_utilization, first=first, last=last)
    blocks = int(room // per_block)
    if blocks < 1:
        missing_gb = (per_block - room) / 1e9
        where = f"stage {index + 1} of " if len(stages) > 1 else ""
        raise DoesNotFit(
            f"{where}{model.name} in {precision} does not fit on {stage.tensor_parallel} x {stage.gpu.name}:"
            f" {missing_gb:.1f} GB are missing on each GPU at memory_utilization {memory_utilization:g}; raise"
            " tensor_parallel or pipeline_parallel, or lower the precision"
        )
    return blocks


def stage_kv_tokens(
    stage: Stage, model: Model, precision: str, memory_utilization: float = 0.9, *, first: bool, last: bool
) -> int:
    """Tokens, in whole blocks, of which one stage alone holds its layers' keys and values; 0 where its weights do not
    fit."""
    room, per_block = _room(stage, model, precision, memory_utilization, first=first, last=last)
    return max(0, int(room // per_block)) * KV_BLOCK_TOKENS


def _room(
    stage: Stage, model: Model, precision: str, memory_utilization: float, *, first: bool, last: bool
) -> tuple[float, float]:
    """Bytes that each GPU of a stage has for the KV cache (below 0: missing), and bytes of a block there."""
    needed = _ENGINE_BYTES + _weight_bytes(stage, model, precision, first=first, last=last)
    needed += _workspace_bytes(model, stage.tensor_parallel, last)
    per_block = kv_bytes_per_layer(model, precision, stage.tensor_parallel) * stage.layers * KV_BLOCK_TOKENS
    return stage.gpu.memory_bytes * memory_utilization - needed, per_block


def _workspace_bytes(model: Model, tensor_parallel: int, samples: bool) -> float:
    """Peak activations of vLLM's profiling run: 2,048 tokens through the widest layer, and where tokens are sampled
    256 rows of fp32 logits twice."""
    width = 4 * model.hidden + 3 * model.ffn * model.experts_per_token / tensor_parallel
    return ACTIVATION_BYTES * width * 2048 + (2 * 4.0 * 256 * model.vocab if samples else 0.0)
