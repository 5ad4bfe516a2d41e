"""The iteration law of any GPU, model and layout: bytes over bandwidth, operations over peak, and few fitted factors.

A pipeline is folded into one law. vLLM keeps up to S batches in flight over S stages, each sequence in one of them, so
that a *round* over all batches gives each sequence its token. A round lasts as long as the longest of two ways to see
it: the slowest stage works off all b = min(S, T) batches one after the other, or the heaviest batch goes through all
stages and their transfers before it can come back. Decoding sequences (taken to be up to `DECODING_TOKENS` of a
round's tokens) spread evenly over the batches; prompt tokens ride with one batch up to its token budget B, then with
the next: a round with one chunk takes about as long as one with a chunk in each batch, since the chunk leaves a bubble
behind it. So an engine of S stages works off up to S * B tokens a round, and is to be given that budget.

What keeps the law linear in context and pairs is approximate: batches share the sequences evenly (true on average: a
batch that returns is scheduled again as a whole, and new requests join whichever comes first); what context and
sequences cost is that of the busiest stage under a usual load (exact for stages that are alike, and for no fewer
sequences than stages); the pairs of a chunk are counted on all its stages (exact for one chunk, an upper bound for
several). A discrete-event simulation of the
stages in the tests says how far that is off.

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
from .stage import Stage, StageTimes, check_split, engine_factors, even_split, kv_bytes_per_gpu, stage_times

__all__ = [
    "DEFAULT_BATCH_TOKENS",
    "KV_BLOCK_TOKENS",
    "DoesNotFit",
    "LayoutError",
    "Stage",
    "even_split",
    "iteration_law",
    "joined_law",
    "kv_bytes_per_gpu",
    "kv_capacity_tokens",
    "link_between",
    "pipeline_kv_tokens",
    "pipeline_law",
    "stages_of",
    "transfers_s",
]


DEFAULT_BATCH_TOKENS = 2048
"""Token budget of a batch where none is stated."""
DECODING_TOKENS = 256.0
"""Tokens of a round taken to be decoding sequences before any of a prompt: vLLM's default most sequences."""
_USUAL_LOAD = (64.0, 1000.0)
"""Sequences and context of each, to tell which of unlike stages is the busiest."""


def iteration_law(
    gpu: Gpu,
    model: Model,
    precision: str,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    factors: Factors | None = None,
    *,
    stage_layers: Sequence[int] | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> IterationLaw:
    """The law of one replica.

    Args:
        precision: of the weights: fp32, fp16, bf16, fp8, int8 or int4. The KV cache stays in 16 bits (fp32 for fp32).
            Weights in fewer bits than the GPU multiplies are unpacked first: their bytes are saved, no operation is.
        pipeline_parallel: stages, each of `tensor_parallel` GPUs.
        factors: other than those shipped.
        stage_layers: layers of each stage; None is vLLM's even split.
        batch_tokens: token budget of one batch; only pipelines ask.

    Raises:
        LayoutError: the GPU lacks the precision, or the split does not divide the model.
    """
    stages = stages_of(gpu, model, tensor_parallel, pipeline_parallel, stage_layers)
    return pipeline_law(stages, model, precision, factors, batch_tokens=batch_tokens)


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


def pipeline_law(
    stages: Sequence[Stage],
    model: Model,
    precision: str,
    factors: Factors | None = None,
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> IterationLaw:
    """The law of one replica whose stages may run on unlike GPUs; arguments as of `iteration_law`.

    Raises:
        LayoutError: as for `iteration_law`.
    """
    known = factors or shipped_factors()
    check_split(model, [stage.layers for stage in stages])
    last = len(stages) - 1
    times = [stage_times(s, model, precision, known, last=i == last) for i, s in enumerate(stages)]
    return joined_law(stages, times, model, known, batch_tokens)


def joined_law(
    stages: Sequence[Stage], times: Sequence[StageTimes], model: Model, known: Factors, batch_tokens: int
) -> IterationLaw:
    """The law of stages whose `times` are known already; other arguments as of `pipeline_law`."""
    last = len(stages) - 1
    busiest = max(times, key=_load_s)
    overhead_s = np.array([engine_factors(s.gpu, known).iteration_s for s in stages])
    linear = np.stack([t.linear_s for t in times]) + overhead_s[:, None]
    linear_s = _round_s(linear, transfers_s(stages, model, known), batch_tokens) if last else linear[0]
    return IterationLaw(
        tokens_grid=TOKENS_GRID,
        linear_s=linear_s,
        attend_s_per_pair=sum(t.attend_s_per_pair for t in times),
        kv_read_s_per_token=busiest.kv_read_s_per_token,
        seq_s=busiest.seq_s,
    )


def _load_s(times: StageTimes) -> float:
    """Seconds of a stage for the load that decides which stage is the busiest."""
    sequences, context = _USUAL_LOAD
    linear = float(np.interp(sequences, TOKENS_GRID, times.linear_s))
    return linear + times.seq_s * sequences + times.kv_read_s_per_token * sequences * context


def _round_s(stage_s: FloatArray, transfers_s: FloatArray, batch_tokens: int) -> FloatArray:
    """`[G]` seconds of a round.

    Args:
        stage_s: `[S, G]` seconds of each stage for a batch of so many tokens.
        transfers_s: `[G]` seconds of all transfers of such a batch.
        batch_tokens: most tokens of a batch.
    """
    count = float(len(stage_s))
    batches = np.minimum(count, TOKENS_GRID)
    decoding = np.minimum(TOKENS_GRID, DECODING_TOKENS)
    prompts = TOKENS_GRID - decoding
    light = decoding / batches
    heavy = np.maximum(np.minimum(light + prompts, batch_tokens), light + prompts / batches)
    of_batches = np.where(prompts > 0, prompts / np.maximum(heavy - light, 1.0), 0.0)

    def at(tokens: FloatArray, seconds: FloatArray) -> FloatArray:
        return np.asarray(np.interp(tokens, TOKENS_GRID, seconds), dtype=np.float64)

    through = sum(at(heavy, seconds) for seconds in stage_s) + at(heavy, transfers_s)
    each = [of_batches * at(heavy, s) + (batches - of_batches) * at(light, s) for s in stage_s]
    return np.maximum.accumulate(np.maximum(np.max(each, axis=0), through))


def transfers_s(stages: Sequence[Stage], model: Model, known: Factors) -> FloatArray:
    """`[G]` seconds of all transfers between stages for a batch of so many tokens.

    vLLM sends the hidden state and the residual; with tensor parallel each GPU sends its share and the next stage
    gathers it, which is counted as one whole message over the slower way.
    """
    seconds = np.zeros_like(TOKENS_GRID)
    for stage, following in pairwise(stages):
        way = stage.link_to_next or link_between(stage, following, stages)
        message = 2.0 * ACTIVATION_BYTES * model.hidden * TOKENS_GRID
        seconds = seconds + transfer_s(way, transfer_factors(way, known), message)
    return seconds


def link_between(stage: Stage, following: Stage, stages: Sequence[Stage]) -> Link:
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
