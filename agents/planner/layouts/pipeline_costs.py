"""What the stages of a pipeline cost for each count of layers: seconds of a round at a load, and whether they fit.

Symbols: S stages, L layers of the model, G grid points of a law.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ....env.catalog.gpus import gpu
from ....env.catalog.links import link
from ....env.catalog.models import Model, model
from ....env.contract import FloatArray
from ....env.perf.factors import shipped_factors
from ....env.perf.law import TOKENS_GRID
from ....env.perf.memory import stage_kv_tokens
from ....env.perf.roofline import DEFAULT_BATCH_TOKENS, transfers_s
from ....env.perf.stage import Stage, StageTimes, engine_factors, stage_times


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage runs."""

    gpu: str
    """Of the catalogue."""
    tensor_parallel: int = 1
    link_to_next: str | None = None
    """Of the catalogue's links; None is what joins GPUs of one type in a machine, and machines where types differ."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a pipeline is split for: requests of these lengths, so many of them decoding at a time."""

    sequences: int = 128
    """Over all batches in flight; most that are tried where the best is looked for."""
    prompt_tokens: float = 512.0
    output_tokens: float = 256.0

    @property
    def decodes(self) -> float:
        """Tokens that a request decodes after its first; at least 1, so that there are rounds to speak of."""
        return max(self.output_tokens - 1.0, 1.0)

    @property
    def context_tokens(self) -> float:
        """Mean KV tokens of a sequence: its prompt and half of its answer."""
        return self.prompt_tokens + self.decodes / 2.0


USUAL_LOAD = Load()
"""Chat: what is split for where nothing is known of the requests."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The engine's start flags that a split depends on."""

    batch_tokens: int = DEFAULT_BATCH_TOKENS
    """Token budget of a batch."""
    memory_utilization: float = 0.9
    """Share of each GPU's memory."""
    min_kv_tokens: int = 0
    """Least room of the KV cache, whatever the load needs: that of the longest request."""


USUAL_FLAGS = Flags()


@dataclass(frozen=True, slots=True)
class Costs:
    """What each stage takes for each count of layers."""

    work_s: FloatArray
    """`[S, L + 1]` that it works in a round; infinite where weights and cache do not fit, and for no layers."""
    through_s: FloatArray
    """`[S, L + 1]` of the heaviest batch."""
    transfers_s: float
    """Of that batch between all stages."""


def stages_at(places: Sequence[Place], layers: Sequence[int]) -> tuple[Stage, ...]:
    """The stages of a pipeline, as the performance model takes them."""
    return tuple(
        Stage(
            gpu(place.gpu),
            count,
            place.tensor_parallel,
            None if place.link_to_next is None else link(place.link_to_next),
        )
        for place, count in zip(places, layers, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Batches:
    """What a round of a load consists of."""

    count: float
    """In flight."""
    with_chunk: float
    """That carry a chunk of a prompt, on average over rounds."""
    light: float
    """Tokens of a batch that only decodes: its sequences."""
    heavy: float
    """Tokens of one with a chunk."""
    sequences: float
    context_tokens: float
    pairs: float
    """Attended in the prompts of a round."""

    @property
    def heavy_frac(self) -> float:
        """Share of the rounds that have a heavy batch."""
        return min(self.with_chunk, 1.0)


def batches_of(load: Load, stages: int, batch_tokens: int) -> Batches:
    """The batches of a round: decoding sequences spread evenly, prompts ride in chunks with one batch, then the next."""
    count = float(min(stages, max(1, load.sequences)))
    light = load.sequences / count
    joining = load.sequences / load.decodes
    chunk = max(1.0, min(max(joining, 1.0) * load.prompt_tokens, batch_tokens - light))
    return Batches(
        count=count,
        with_chunk=joining * load.prompt_tokens / chunk,
        light=light,
        heavy=light + chunk,
        sequences=float(load.sequences),
        context_tokens=load.context_tokens,
        pairs=joining * load.prompt_tokens**2 / 2.0,
    )


def costs_of(places: Sequence[Place], shape: Model, precision: str, batches: Batches, most: Sequence[int]) -> Costs:
    """What stages take for each count of layers, each at most its `most`."""
    work, through = [], []
    for i, place in enumerate(places):
        busy_s, way_s = _stagecosts_of(place, shape, precision, batches, last=i == len(places) - 1)
        fits = (np.arange(shape.layers + 1) >= 1) & (np.arange(shape.layers + 1) <= most[i])
        work.append(np.where(fits, busy_s, np.inf))
        through.append(np.where(fits, way_s, np.inf))
    sending = transfers_s(stages_at(places, [1] * len(places)), shape, shipped_factors())
    frac = batches.heavy_frac
    sent_s = [float(np.interp(tokens, TOKENS_GRID, sending)) for tokens in (batches.heavy, batches.light)]
    return Costs(np.stack(work), np.stack(through), frac * sent_s[0] + (1.0 - frac) * sent_s[1])


def _stagecosts_of(
    place: Place, shape: Model, precision: str, batches: Batches, *, last: bool
) -> tuple[FloatArray, FloatArray]:
    """`[L + 1]` seconds that a stage works in a round, and that the heaviest batch spends on it."""
    fixed, layer = _affine(place.gpu, place.tensor_parallel, shape.name, precision, last)
    counts = np.arange(shape.layers + 1, dtype=np.float64)
    overhead_s = engine_factors(gpu(place.gpu), shipped_factors()).iteration_s

    def linear(tokens: float) -> FloatArray:
        ends = [float(np.interp(tokens, TOKENS_GRID, times.linear_s)) for times in (fixed, layer)]
        return np.asarray(overhead_s + ends[0] + counts * ends[1])

    light_s, heavy_s = linear(batches.light), linear(batches.heavy)
    sequence_s = fixed.seq_s + counts * (layer.seq_s + layer.kv_read_s_per_token * batches.context_tokens)
    attending_s = counts * layer.attend_s_per_pair * batches.pairs
    light = max(batches.count - batches.with_chunk, 0.0)
    busy_s = light * light_s + batches.with_chunk * heavy_s + sequence_s * batches.sequences + attending_s
    frac = batches.heavy_frac
    way_s = frac * heavy_s + (1.0 - frac) * light_s + sequence_s * batches.light
    return busy_s, way_s + attending_s / max(batches.with_chunk, 1.0)


def times_at(places: Sequence[Place], layers: Sequence[int], shape: Model, precision: str) -> list[StageTimes]:
    """Each stage's times, as `stage_times` has them."""
    times = []
    for i, (place, count) in enumerate(zip(places, layers, strict=True)):
        head, layer = _affine(place.gpu, place.tensor_parallel, shape.name, precision, i == len(places) - 1)
        times.append(
            StageTimes(
                linear_s=head.linear_s + count * layer.linear_s,
                attend_s_per_pair=count * layer.attend_s_per_pair,
                kv_read_s_per_token=count * layer.kv_read_s_per_token,
                seq_s=head.seq_s + count * layer.seq_s,
            )
        )
    return times


@lru_cache(maxsize=4096)
def _affine(
    gpu_name: str, tensor_parallel: int, model_name: str, precision: str, last: bool
) -> tuple[StageTimes, StageTimes]:
    """A stage's times are so much whatever its layers (the output head, where it is the last), and so much a layer."""
    one = Stage(gpu(gpu_name), 1, tensor_parallel)
    known, shape = shipped_factors(), model(model_name)
    layer = stage_times(one, shape, precision, known, last=False)
    whole = stage_times(one, shape, precision, known, last=True) if last else layer
    head = replace(
        layer,
        linear_s=whole.linear_s - layer.linear_s,
        seq_s=whole.seq_s - layer.seq_s,
        attend_s_per_pair=0.0,
        kv_read_s_per_token=0.0,
    )
    return head, layer


def most_layers(
    places: Sequence[Place], shape: Model, precision: str, memory_utilization: float, kv_tokens: int
) -> list[int]:
    """`[S]` layers that each stage holds beside so many tokens of its KV cache."""

    def most(index: int) -> int:
        place, first, last = places[index], index == 0, index == len(places) - 1

        def too_many(layers: int) -> bool:
            stage = Stage(gpu(place.gpu), layers, place.tensor_parallel)
            return stage_kv_tokens(stage, shape, precision, memory_utilization, first=first, last=last) < kv_tokens

        return bisect_left(range(1, shape.layers + 1), True, key=too_many)

    return [most(index) for index in range(len(places))]
