"""How many layers each stage of a pipeline gets where its GPUs differ: exact, by dynamic programming.

vLLM keeps up to S batches in flight over S stages. A *round*, in which each sequence gets a token, lasts as long as the
longer of two ways to see it (`env/perf/roofline.py`): the slowest stage works off all batches one after the other, or one
batch goes through all stages and their transfers before it can come back. `split_for` finds, among all splits that leave
room for the KV cache, one with the shortest round at a stated load. Where transfers hide behind the slowest stage, as
they do with all but slow networks, that is the split whose slowest stage is fastest; ties go to the shortest way through.

Symbols: S stages, L layers of the model, G grid points of a law.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from ...env.catalog.gpus import gpu
from ...env.catalog.links import BETWEEN_MACHINES, link
from ...env.catalog.models import Model, model
from ...env.contract import FloatArray
from ...env.perf.capacity import mean_iteration_s
from ...env.perf.factors import shipped_factors
from ...env.perf.law import TOKENS_GRID
from ...env.perf.memory import pipeline_kv_tokens, stage_kv_tokens
from ...env.perf.roofline import DEFAULT_BATCH_TOKENS, DoesNotFit, LayoutError, pipeline_law, transfers_s
from ...env.perf.stage import Stage, StageTimes, check_layout, engine_factors, even_split, stage_times

__all__ = [
    "USUAL_LOAD",
    "USUAL_FLAGS",
    "Flags",
    "Group",
    "Load",
    "Place",
    "Split",
    "best_chain",
    "best_split",
    "evaluated",
    "places_of",
    "split_for",
    "stages_at",
]


WORTH_PARTING = 0.01
"""Share of more requests from which on a machine's stages may stand at both ends of a pipeline."""

WORTH_UNEVEN = 0.03
"""Share of more requests from which on a split other than vLLM's own is taken: the law errs by more."""
TIE = 1e-9
"""Rounds that differ by less are equal."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage runs."""

    gpu: str
    """Of the catalogue."""
    tensor_parallel: int = 1
    link_to_next: str | None = None
    """Of the catalogue's links; None is what joins GPUs of one type in a machine, and machines where types differ."""


@dataclass(frozen=True, slots=True)
class Group:
    """Equal stages that stand in one machine."""

    gpu: str
    stages: int = 1
    tensor_parallel: int = 1


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
class Split:
    """A pipeline's layers by stage, and what they come to."""

    layers: tuple[int, ...]
    sequences: int
    """Decoding at a time: those of the load, or as many as the cache holds."""
    requests_per_s: float
    """That the pipeline's law promises with so many."""
    slowest_s: float
    """Seconds that the slowest stage works in a round with so many."""
    through_s: float
    """Seconds of a batch through all stages, transfers included."""
    kv_tokens: int
    """That the tightest stage holds."""

    @property
    def round_s(self) -> float:
        """Seconds of a round."""
        return max(self.slowest_s, self.through_s)


@dataclass(frozen=True, slots=True)
class _Costs:
    """What each stage takes for each count of layers."""

    work_s: FloatArray
    """`[S, L + 1]` that it works in a round; infinite where weights and cache do not fit, and for no layers."""
    through_s: FloatArray
    """`[S, L + 1]` of the heaviest batch."""
    transfers_s: float
    """Of that batch between all stages."""


def split_for(
    places: Sequence[Place], model_name: str, precision: str, load: Load = USUAL_LOAD, flags: Flags = USUAL_FLAGS
) -> Split:
    """The split with the shortest round at exactly this load, whose sequences fit into the KV cache.

    Args:
        places: of the stages, in order.

    Raises:
        CatalogError: an unknown GPU, link, model or precision.
        LayoutError: a stage cannot run the model so, or there are more stages than layers.
        DoesNotFit: no split leaves the room; says how many layers each stage holds.
    """
    layers = _fastest_layers(places, model(model_name), precision, load, flags)
    return evaluated(places, layers, model_name, precision, load, flags)


def best_split(
    places: Sequence[Place], model_name: str, precision: str, load: Load = USUAL_LOAD, flags: Flags = USUAL_FLAGS
) -> Split:
    """The split that serves most requests a second of these lengths, with up to `load.sequences` decoding at a time.

    More sequences share the weights that an iteration reads, but need room for their cache, which takes layers off
    small cards. So the exact split is found for each of several counts (two thirds of the one before, down to 1),
    and the one that serves most by the pipeline's law is taken; vLLM's even split, where it fits and serves nearly as
    much (`WORTH_UNEVEN`). Arguments and errors as of `split_for`; one request must always fit.
    """
    shape = model(model_name)
    candidates: dict[tuple[int, ...], None] = {}
    missing: DoesNotFit | None = None
    for sequences in _counts(load.sequences):
        try:
            candidates[_fastest_layers(places, shape, precision, replace(load, sequences=sequences), flags)] = None
        except DoesNotFit as error:
            missing = error
    if not candidates:
        raise missing or DoesNotFit("no sequences: wanted at least one")
    splits = [evaluated(places, layers, model_name, precision, load, flags) for layers in candidates]
    best = max(splits, key=lambda split: split.requests_per_s)
    one_request = replace(flags, min_kv_tokens=max(flags.min_kv_tokens, math.ceil(load.context_tokens)))
    try:
        even = evaluated(places, even_split(shape.layers, len(places)), model_name, precision, load, one_request)
    except DoesNotFit:
        return best
    return best if best.requests_per_s > even.requests_per_s * (1.0 + WORTH_UNEVEN) else even


def best_chain(
    groups: Sequence[Group],
    model_name: str,
    precision: str,
    load: Load = USUAL_LOAD,
    flags: Flags = USUAL_FLAGS,
    *,
    between_machines: str = BETWEEN_MACHINES,
) -> tuple[tuple[Place, ...], Split]:
    """The order of machines in a pipeline, and its split, that serve most requests a second.

    Only the first stage (it holds the embedding) and the last (it holds the output head, multiplies it and samples)
    differ from the others, so each pair of groups at the two ends is tried once; those between keep the order given.
    A group's stages stay together, so that as few transfers as possible cross machines; it takes both ends where that
    serves `WORTH_PARTING` more.

    Args:
        between_machines: link between groups; inside one it is the GPUs' own.

    Raises:
        As for `split_for`.
    """
    best: tuple[tuple[Place, ...], Split] | None = None
    missing: DoesNotFit | None = None
    for parted, places in _orders(groups, between_machines):
        try:
            split = best_split(places, model_name, precision, load, flags)
        except DoesNotFit as error:
            missing = error
            continue
        worth = WORTH_PARTING if parted else TIE
        if best is None or split.requests_per_s > best[1].requests_per_s * (1.0 + worth):
            best = places, split
    if best is None:
        raise missing or LayoutError("no groups: wanted at least one")
    return best


def evaluated(
    places: Sequence[Place],
    layers: Sequence[int],
    model_name: str,
    precision: str,
    load: Load = USUAL_LOAD,
    flags: Flags = USUAL_FLAGS,
) -> Split:
    """Any split at the load, or at as many of its sequences as fit.

    Raises:
        LayoutError: the layers do not sum up, or a stage cannot run the model so.
        DoesNotFit: a stage leaves no room for a KV cache, or for less than `flags.min_kv_tokens`.
    """
    shape = model(model_name)
    stages = stages_at(places, layers)
    kv_tokens = pipeline_kv_tokens(stages, shape, precision, flags.memory_utilization)
    if kv_tokens < flags.min_kv_tokens:
        raise DoesNotFit(
            f"{shape.name} in {precision}, split {list(layers)}: {kv_tokens} tokens of KV cache, wanted"
            f" {flags.min_kv_tokens}"
        )
    fitting = replace(load, sequences=max(1, min(load.sequences, int(kv_tokens / load.context_tokens + TIE))))
    everything = [shape.layers] * len(places)
    costs = _costs(places, shape, precision, _batches(fitting, len(places), flags.batch_tokens), everything)
    own = np.arange(len(layers)), np.array(layers)
    return Split(
        layers=tuple(layers),
        sequences=fitting.sequences,
        requests_per_s=_requests_per_s(stages, shape, precision, fitting, flags.batch_tokens),
        slowest_s=float(costs.work_s[own].max()),
        through_s=float(costs.through_s[own].sum()) + costs.transfers_s,
        kv_tokens=kv_tokens,
    )


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


def _counts(most: int) -> Iterator[int]:
    """Counts of sequences to try, the most first."""
    while most >= 1:
        yield most
        most = most * 2 // 3


def _requests_per_s(stages: Sequence[Stage], shape: Model, precision: str, load: Load, batch_tokens: int) -> float:
    """By the pipeline's law, the load's sequences decoding at a time."""
    law = pipeline_law(stages, shape, precision, batch_tokens=batch_tokens)
    budget = float(batch_tokens * len(stages))
    running = max(1.0, min(float(load.sequences), budget / (1.0 + load.prompt_tokens / load.decodes)))
    one = np.array([running])
    seconds = mean_iteration_s(law, one, one / load.decodes, budget - one, load.prompt_tokens, load.decodes)
    return float(running / load.decodes / seconds[0])


def _fastest_layers(places: Sequence[Place], shape: Model, precision: str, load: Load, flags: Flags) -> tuple[int, ...]:
    """What `split_for` finds."""
    if not 1 <= len(places) <= shape.layers:
        raise LayoutError(f"{len(places)} stages: wanted 1 to the {shape.layers} layers of {shape.name}")
    for place in places:
        check_layout(gpu(place.gpu), shape, precision, place.tensor_parallel)
    wanted = max(1, flags.min_kv_tokens, math.ceil(load.sequences * load.context_tokens))
    most = _most_layers(places, shape, precision, flags.memory_utilization, wanted)
    if min(most) < 1 or sum(most) < shape.layers:
        raise DoesNotFit(_does_not_fit(places, shape, precision, flags.memory_utilization, wanted, most))
    return _shortest_round(_costs(places, shape, precision, _batches(load, len(places), flags.batch_tokens), most))


def _shortest_round(costs: _Costs) -> tuple[int, ...]:
    """Layers of each stage.

    The round is the longer of the slowest stage's work, which a higher limit on it lets grow, and the way through,
    which it lets shrink. Where they cross is found by bisection over all limits that make a difference.
    """
    fastest = _slowest_at_best(costs.work_s)
    limits = np.unique(costs.work_s[np.isfinite(costs.work_s)])
    limits = limits[limits >= fastest]

    def at(index: int) -> tuple[float, tuple[int, ...]]:
        through_s, layers = _shortest_way(costs, float(limits[index]))
        return through_s + costs.transfers_s, layers

    low, high = 0, len(limits) - 1
    best_s = np.inf
    while low < high:
        middle = (low + high) // 2
        through_s, _ = at(middle)
        best_s = min(best_s, max(through_s, float(limits[middle])))
        low, high = (low, middle) if through_s <= limits[middle] else (middle + 1, high)
    best_s = min(best_s, max(at(low)[0], float(limits[low]))) * (1.0 + TIE)
    # Of the splits with this round, the one whose slowest stage is fastest.
    first = bisect_left(range(len(limits)), True, key=lambda index: at(index)[0] <= best_s)
    return at(min(first, low))[1]


def _slowest_at_best(work_s: FloatArray) -> float:
    """Seconds of the slowest stage in the split where it is fastest.

    Bellman's recursion over (stages so far, layers so far): the last stage takes k layers, those before it the rest.
    """
    best = work_s[0]
    for own in work_s[1:]:
        best = np.maximum(_shifted(best, np.inf), own[None, :]).min(axis=1)
    return float(best[-1])


def _shortest_way(costs: _Costs, limit_s: float) -> tuple[float, tuple[int, ...]]:
    """The least sum of `through_s` over splits whose stages all work at most `limit_s`, and such a split."""
    through = np.where(costs.work_s <= limit_s, costs.through_s, np.inf)
    best, chosen = through[0], []
    for own in through[1:]:
        sums = _shifted(best, np.inf) + own[None, :]
        chosen.append(sums.argmin(axis=1))
        best = sums.min(axis=1)
    left, layers = len(best) - 1, []
    for taken in reversed(chosen):
        layers.append(int(taken[left]))
        left -= layers[-1]
    return float(best[-1]), (left, *reversed(layers))


def _shifted(values: FloatArray, fill: float) -> FloatArray:
    """`[L + 1, L + 1]` of `values` `[L + 1]`: entry (l, k) is that of l - k layers."""
    counts = np.arange(len(values))
    rest = counts[:, None] - counts[None, :]
    return np.where(rest >= 0, values[np.maximum(rest, 0)], fill)


@dataclass(frozen=True, slots=True)
class _Batches:
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


def _batches(load: Load, stages: int, batch_tokens: int) -> _Batches:
    count = float(min(stages, max(1, load.sequences)))
    light = load.sequences / count
    joining = load.sequences / load.decodes
    chunk = max(1.0, min(max(joining, 1.0) * load.prompt_tokens, batch_tokens - light))
    return _Batches(
        count=count,
        with_chunk=joining * load.prompt_tokens / chunk,
        light=light,
        heavy=light + chunk,
        sequences=float(load.sequences),
        context_tokens=load.context_tokens,
        pairs=joining * load.prompt_tokens**2 / 2.0,
    )


def _costs(places: Sequence[Place], shape: Model, precision: str, batches: _Batches, most: Sequence[int]) -> _Costs:
    """What stages take for each count of layers, each at most its `most`."""
    work, through = [], []
    for i, place in enumerate(places):
        busy_s, way_s = _stage_costs(place, shape, precision, batches, last=i == len(places) - 1)
        fits = (np.arange(shape.layers + 1) >= 1) & (np.arange(shape.layers + 1) <= most[i])
        work.append(np.where(fits, busy_s, np.inf))
        through.append(np.where(fits, way_s, np.inf))
    sending = transfers_s(stages_at(places, [1] * len(places)), shape, shipped_factors())
    frac = batches.heavy_frac
    sent_s = [float(np.interp(tokens, TOKENS_GRID, sending)) for tokens in (batches.heavy, batches.light)]
    return _Costs(np.stack(work), np.stack(through), frac * sent_s[0] + (1.0 - frac) * sent_s[1])


def _stage_costs(
    place: Place, shape: Model, precision: str, batches: _Batches, *, last: bool
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


def _most_layers(
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


def _does_not_fit(
    places: Sequence[Place], shape: Model, precision: str, memory_utilization: float, kv_tokens: int, most: list[int]
) -> str:
    held = ", ".join(f"{p.tensor_parallel} x {gpu(p.gpu).name}: {n}" for p, n in zip(places, most, strict=True))
    return (
        f"{shape.name} in {precision} does not fit: beside a KV cache of {kv_tokens} tokens the stages hold at most"
        f" {sum(most)} of its {shape.layers} layers ({held}) at memory_utilization {memory_utilization:g}; take larger"
        " GPUs, more stages, a lower precision or less context"
    )


def _orders(groups: Sequence[Group], between_machines: str) -> Iterator[tuple[bool, tuple[Place, ...]]]:
    """Each pair of kinds of GPU at the two ends once, those that part a group last; and whether they do."""
    if len(groups) == 1:
        yield False, places_of(groups, between_machines)
        return
    seen = set()
    for first, last in sorted(product(range(len(groups)), repeat=2), key=lambda pair: pair[0] == pair[1]):
        parted = first == last
        if parted and groups[first].stages < 2:
            continue
        middle = [g for i, g in enumerate(groups) if i not in (first, last)]
        ends = groups[first], groups[last]
        if parted:
            ends = replace(ends[0], stages=ends[0].stages - 1), replace(ends[0], stages=1)
        kind = tuple((group.gpu, group.tensor_parallel) for group in ends)
        if kind not in seen:
            seen.add(kind)
            yield parted, places_of([ends[0], *middle, ends[1]], between_machines)


def places_of(order: Sequence[Group], between_machines: str = BETWEEN_MACHINES) -> tuple[Place, ...]:
    """The stages of a pipeline through machines in this order."""
    places = []
    for group in order:
        inside = gpu(group.gpu).link_among(group.stages * group.tensor_parallel).name
        places += [Place(group.gpu, group.tensor_parallel, inside)] * (group.stages - 1)
        places.append(Place(group.gpu, group.tensor_parallel, between_machines))
    return (*places[:-1], replace(places[-1], link_to_next=None))
