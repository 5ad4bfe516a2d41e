"""How many layers each stage of a pipeline gets where its GPUs differ: exact, by dynamic programming.

vLLM keeps up to S batches in flight over S stages. A *round*, in which each sequence gets a token, lasts as long as the
longer of two ways to see it (`env/perf/roofline.py`): the slowest stage works off all batches one after the other, or one
batch goes through all stages and their transfers before it can come back. `split_for` finds, among all splits that leave
room for the KV cache, one with the shortest round at a stated load. Where transfers hide behind the slowest stage, as
they do with all but slow networks, that is the split whose slowest stage is fastest; where they do not, as well, of those
with an equally short round.

Symbols: S stages, L layers of the model, G grid points of a law.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ....env.catalog.gpus import gpu
from ....env.catalog.models import Model, model
from ....env.contract import FloatArray, IntArray
from ....env.perf.capacity import mean_iteration_s
from ....env.perf.factors import shipped_factors
from ....env.perf.memory import pipeline_kv_tokens
from ....env.perf.roofline import DoesNotFit, LayoutError, joined_law
from ....env.perf.stage import check_layout, even_split
from .pipeline_costs import (
    USUAL_FLAGS,
    USUAL_LOAD,
    Costs,
    Flags,
    Load,
    Place,
    batches_of,
    costs_of,
    most_layers,
    stages_at,
    times_at,
)

__all__ = [
    "USUAL_LOAD",
    "USUAL_FLAGS",
    "Flags",
    "Load",
    "Place",
    "Split",
    "best_split",
    "evaluated",
    "split_for",
    "stages_at",
]


WORTH_UNEVEN = 0.03
"""Share of more requests from which on a split other than vLLM's own is taken: the law errs by more."""
TIE = 1e-9
"""Rounds that differ by less are equal."""


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
    costs = costs_of(places, shape, precision, batches_of(fitting, len(places), flags.batch_tokens), everything)
    own = np.arange(len(layers)), np.array(layers)
    return Split(
        layers=tuple(layers),
        sequences=fitting.sequences,
        requests_per_s=_requests_per_s(places, layers, shape, precision, fitting, flags.batch_tokens),
        slowest_s=float(costs.work_s[own].max()),
        through_s=float(costs.through_s[own].sum()) + costs.transfers_s,
        kv_tokens=kv_tokens,
    )


def _counts(most: int) -> Iterator[int]:
    """Counts of sequences to try, the most first."""
    while most >= 1:
        yield most
        most = most * 2 // 3


def _requests_per_s(
    places: Sequence[Place], layers: Sequence[int], shape: Model, precision: str, load: Load, batch_tokens: int
) -> float:
    """By the pipeline's law, the load's sequences decoding at a time."""
    times = times_at(places, layers, shape, precision)
    law = joined_law(stages_at(places, layers), times, shape, shipped_factors(), batch_tokens)
    budget = float(batch_tokens * len(places))
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
    most = most_layers(places, shape, precision, flags.memory_utilization, wanted)
    if min(most) < 1 or sum(most) < shape.layers:
        raise DoesNotFit(_does_not_fit(places, shape, precision, flags.memory_utilization, wanted, most))
    return _shortest_round(costs_of(places, shape, precision, batches_of(load, len(places), flags.batch_tokens), most))


def _shortest_round(costs: Costs) -> tuple[int, ...]:
    """Layers of each stage.

    The round is the longer of the slowest stage's work, which a higher limit on it lets grow, and the way through,
    which it lets shrink. Where they cross is found by bisection over all limits that make a difference.
    """
    fastest = _slowest_at_best(costs.work_s)
    limits = np.unique(costs.work_s[np.isfinite(costs.work_s)])
    limits = limits[limits >= fastest]

    @cache
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


def _shortest_way(costs: Costs, limit_s: float) -> tuple[float, tuple[int, ...]]:
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
    rest = _rest(len(values))
    return np.append(values, fill)[rest]


@cache
def _rest(count: int) -> IntArray:
    """`[count, count]` l - k; -1, the last, where there is none."""
    counts = np.arange(count)
    rest: IntArray = np.maximum(counts[:, None] - counts[None, :], -1)
    return rest


def _does_not_fit(
    places: Sequence[Place], shape: Model, precision: str, memory_utilization: float, kv_tokens: int, most: list[int]
) -> str:
    held = ", ".join(f"{p.tensor_parallel} x {gpu(p.gpu).name}: {n}" for p, n in zip(places, most, strict=True))
    return (
        f"{shape.name} in {precision} does not fit: beside a KV cache of {kv_tokens} tokens the stages hold at most"
        f" {sum(most)} of its {shape.layers} layers ({held}) at memory_utilization {memory_utilization:g}; take larger"
        " GPUs, more stages, a lower precision or less context"
    )
