"""The iteration law of any GPU, model and layout: bytes over bandwidth, operations over peak, and few fitted factors.

A pipeline is folded into one law. vLLM keeps up to S batches in flight over S stages, each sequence in one of them, so
that a *round* gives each sequence its token. With b = min(S, T) batches of T / b tokens a round lasts

    max(b * slowest stage, sum of the stages + transfers between them),

the first where the pipeline is full, the second where one batch comes back before the next could hide it. Three
approximations keep the law linear in context and pairs: batches are equal (true on average: a batch that returns is
scheduled again as a whole, and new requests join whichever comes first); attention is that of the stage where it takes
longest (exact for stages that are alike, an upper bound for others); and the token budget counts for a round.
A discrete-event simulation of the pipeline in the tests holds them.

Symbols: T tokens in the iteration, S stages, G grid points.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..catalog.gpus import Gpu
from ..catalog.links import BETWEEN_MACHINES, MACHINE_GPUS, Link, link
from ..catalog.models import Model
from .factors import Factors, shipped_factors
from .kernels import ACTIVATION_BYTES, LayoutError, transfer_factors, transfer_s
from .law import TOKENS_GRID, FloatArray, IterationLaw
from .memory import KV_BLOCK_TOKENS, DoesNotFit, pipeline_kv_tokens
from .stage import Stage, check_split, even_split, stage_times

__all__ = [
    "KV_BLOCK_TOKENS",
    "DoesNotFit",
    "LayoutError",
    "Stage",
    "even_split",
    "iteration_law",
    "kv_capacity_tokens",
    "pipeline_kv_tokens",
    "pipeline_law",
    "stages_of",
]


def iteration_law(
    gpu: Gpu,
    model: Model,
    precision: str,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    factors: Factors | None = None,
    *,
    stage_layers: Sequence[int] | None = None,
) -> IterationLaw:
    """The law of one replica.

    Args:
        precision: of the weights: fp32, fp16, bf16, fp8, int8 or int4. The KV cache stays in 16 bits (fp32 for fp32).
            Weights in fewer bits than the GPU multiplies are unpacked first: their bytes are saved, no operation is.
        pipeline_parallel: stages, each of `tensor_parallel` GPUs.
        factors: other than those shipped.
        stage_layers: layers of each stage; None is vLLM's even split.

    Raises:
        LayoutError: the GPU lacks the precision, or the split does not divide the model.
    """
    return pipeline_law(
        stages_of(gpu, model, tensor_parallel, pipeline_parallel, stage_layers), model, precision, factors
    )


def stages_of(
    gpu: Gpu,
    model: Model,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    stage_layers: Sequence[int] | None = None,
) -> tuple[Stage, ...]:
    """The stages of a replica on one GPU type; LayoutError if the layers do not sum up."""
    if not 1 <= pipeline_parallel <= model.layers:
        raise LayoutError(
            f"pipeline_parallel {pipeline_parallel}: wanted 1 to the {model.layers} layers of {model.name}"
        )
    split = even_split(model.layers, pipeline_parallel) if stage_layers is None else tuple(stage_layers)
    if len(split) != pipeline_parallel:
        raise LayoutError(f"stage_layers {list(split)}: wanted one entry for each of {pipeline_parallel} stages")
    return tuple(Stage(gpu, layers, tensor_parallel) for layers in split)


def pipeline_law(stages: Sequence[Stage], model: Model, precision: str, factors: Factors | None = None) -> IterationLaw:
    """The law of one replica whose stages may run on unlike GPUs.

    Raises:
        LayoutError: as for `iteration_law`.
    """
    known = factors or shipped_factors()
    check_split(model, [stage.layers for stage in stages])
    last = len(stages) - 1
    times = [stage_times(s, model, precision, known, last=i == last) for i, s in enumerate(stages)]
    linear = np.stack([t.linear_s for t in times]) + known.engine.iteration_s
    linear_s = _round_s(linear, _transfers_s(stages, model, known)) if last else linear[0]
    return IterationLaw(
        tokens_grid=TOKENS_GRID,
        linear_s=linear_s,
        attend_s_per_pair=max(t.attend_s_per_pair for t in times),
        kv_read_s_per_token=max(t.kv_read_s_per_token for t in times),
        seq_s=max(t.seq_s for t in times) + known.engine.seq_s,
    )


def _round_s(stage_s: FloatArray, transfers_s: FloatArray) -> FloatArray:
    """`[G]` seconds of a round.

    Args:
        stage_s: `[S, G]` seconds of each stage for a batch of so many tokens.
        transfers_s: `[G]` seconds of all transfers of such a batch.
    """
    batches = np.minimum(float(len(stage_s)), TOKENS_GRID)
    share = TOKENS_GRID / batches
    each = np.stack([np.interp(share, TOKENS_GRID, seconds) for seconds in stage_s])
    through = each.sum(axis=0) + np.interp(share, TOKENS_GRID, transfers_s)
    return np.maximum.accumulate(np.maximum(batches * each.max(axis=0), through))


def _transfers_s(stages: Sequence[Stage], model: Model, known: Factors) -> FloatArray:
    """`[G]` seconds of all transfers between stages for a batch of so many tokens.

    vLLM sends the hidden state and the residual; with tensor parallel each GPU sends its share and the next stage
    gathers it, which is counted as one whole message over the slower way.
    """
    seconds = np.zeros_like(TOKENS_GRID)
    for stage, following in pairwise(stages):
        way = stage.link_to_next or _link_between(stage, following, stages)
        message = 2.0 * ACTIVATION_BYTES * model.hidden * TOKENS_GRID
        seconds = seconds + transfer_s(way, transfer_factors(way, known), message)
    return seconds


def _link_between(stage: Stage, following: Stage, stages: Sequence[Stage]) -> Link:
    """What joins two stages that nothing is said of."""
    gpus = sum(s.tensor_parallel for s in stages)
    if gpus > MACHINE_GPUS or stage.gpu != following.gpu:
        return link(BETWEEN_MACHINES)
    return stage.gpu.link_among(gpus)


def kv_capacity_tokens(
    gpu: Gpu,
    model: Model,
    precision: str,
    tensor_parallel: int = 1,
    memory_utilization: float = 0.9,
    *,
    pipeline_parallel: int = 1,
    stage_layers: Sequence[int] | None = None,
) -> int:
    """Tokens that the KV cache of one replica holds, in whole blocks of 16.

    vLLM takes `memory_utilization` of each GPU's memory and leaves to the cache what weights and the workspace of its
    profiling run do not need. In a pipeline the tightest stage decides.

    Raises:
        LayoutError: as for `iteration_law`.
        DoesNotFit: names the GPU, model, precision and the gigabytes missing on each GPU.
    """
    stages = stages_of(gpu, model, tensor_parallel, pipeline_parallel, stage_layers)
    return pipeline_kv_tokens(stages, model, precision, memory_utilization)
