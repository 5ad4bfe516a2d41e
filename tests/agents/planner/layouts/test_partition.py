"""The split of layers over unlike GPUs, held to every split there is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.layouts.partition import (
    Flags,
    Load,
    Place,
    best_split,
    evaluated,
    split_for,
    stages_at,
)
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.links import BETWEEN_MACHINES, link
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.factors import shipped_factors
from poolpilot.env.perf.kernels import transfer_factors, transfer_s
from poolpilot.env.perf.law import TOKENS_GRID
from poolpilot.env.perf.memory import stage_kv_tokens
from poolpilot.env.perf.roofline import DoesNotFit, LayoutError, Stage, even_split, pipeline_kv_tokens
from poolpilot.env.perf.stage import engine_factors, stage_times

A100, L4, T4, V100 = "A100-SXM-40GB", "L4-24GB", "T4-16GB", "V100-SXM-16GB"
GPUS = (A100, L4, T4, V100, "A100-SXM-80GB", "H100-SXM-80GB", "L40S-48GB", "A10G-24GB")
MODELS = ("llama-2-13b", "llama-3.2-3b", "llama-3.1-8b", "opt-6.7b", "mixtral-8x7b")


def every_split(layers: int, stages: int) -> list[tuple[int, ...]]:
    cuts = combinations(range(1, layers), stages - 1)
    return [tuple(b - a for a, b in pairwise((0, *cut, layers))) for cut in cuts]


@dataclass(frozen=True)
class Tried:
    layers: tuple[int, ...]
    round_s: float
    slowest_s: float


def by_trying_all(places: Sequence[Place], name: str, precision: str, load: Load, flags: Flags) -> list[Tried]:
    """Every split that has the room, computed stage by stage from the performance model itself, the shortest round
    first."""
    shape, known = model(name), shipped_factors()
    batches = min(len(places), load.sequences)
    light = load.sequences / batches
    joining = load.sequences / load.decodes  # requests that join a round
    prompts = joining * load.prompt_tokens
    chunk = max(1.0, min(max(1.0, joining) * load.prompt_tokens, flags.batch_tokens - light))
    chunks = prompts / chunk
    wanted = max(1, flags.min_kv_tokens, math.ceil(load.sequences * load.context_tokens))

    def seconds(index: int, layers: int) -> tuple[float, float, bool]:
        place, first, last = places[index], index == 0, index == len(places) - 1
        stage = Stage(gpu(place.gpu), layers, place.tensor_parallel)
        times = stage_times(stage, shape, precision, known, last=last)
        overhead = engine_factors(stage.gpu, known).iteration_s
        of_light, of_heavy = overhead + np.interp([light, light + chunk], TOKENS_GRID, times.linear_s)
        sequence = times.seq_s + times.kv_read_s_per_token * load.context_tokens
        attending = times.attend_s_per_pair * joining * load.prompt_tokens**2 / 2
        work = max(batches - chunks, 0) * of_light + chunks * of_heavy + sequence * load.sequences + attending
        often = min(1.0, chunks)
        way = often * of_heavy + (1 - often) * of_light + sequence * light + attending / max(1.0, chunks)
        held = stage_kv_tokens(stage, shape, precision, flags.memory_utilization, first=first, last=last)
        return work, way, held >= wanted

    table = [[seconds(i, n) for n in range(1, shape.layers + 1)] for i in range(len(places))]
    transfers = 0.0
    for place, following in pairwise(places):
        # Machines where GPUs differ, the GPUs' own link where they do not.
        alike = place.gpu == following.gpu and sum(p.tensor_parallel for p in places) <= 8
        usual = gpu(place.gpu).link_among(sum(p.tensor_parallel for p in places)) if alike else link(BETWEEN_MACHINES)
        way = usual if place.link_to_next is None else link(place.link_to_next)
        sent = [float(transfer_s(way, transfer_factors(way, known), 4.0 * shape.hidden * n)) for n in TOKENS_GRID]
        ends = np.interp([light, light + chunk], TOKENS_GRID, sent)
        transfers += min(1.0, chunks) * ends[1] + (1 - min(1.0, chunks)) * ends[0]
    found = []
    for layers in every_split(shape.layers, len(places)):
        own = [table[i][n - 1] for i, n in enumerate(layers)]
        if all(fits for _, _, fits in own):
            slowest = max(work for work, _, _ in own)
            found.append(Tried(layers, max(slowest, sum(way for _, way, _ in own) + transfers), slowest))
    return sorted(found, key=lambda tried: tried.round_s)


@st.composite
def chains(draw: st.DrawFn) -> list[Place]:
    links = st.sampled_from([None, "PCIe4", "InfiniBand-HDR200", "Ethernet-100G"])
    return [
        Place(draw(st.sampled_from(GPUS)), draw(st.sampled_from([1, 1, 2])), draw(links))
        for _ in range(draw(st.integers(1, 3)))
    ]


@settings(deadline=None, max_examples=60)
@given(
    chains(),
    st.sampled_from(MODELS),
    st.sampled_from(["fp16", "int8", "int4"]),
    st.builds(Load, st.integers(1, 200), st.floats(16, 3000), st.floats(1, 1000)),
    st.integers(0, 60_000),
    st.sampled_from([256, 2048, 8192]),
)
def test_no_split_that_fits_has_a_shorter_round(
    places: list[Place], name: str, precision: str, load: Load, min_kv_tokens: int, batch_tokens: int
) -> None:
    """Chains of unlike GPUs over fast and slow links, some bound by memory, some that do not fit at all."""
    flags = Flags(batch_tokens, 0.9, min_kv_tokens)
    tried = by_trying_all(places, name, precision, load, flags)
    if not tried:
        with pytest.raises(DoesNotFit, match=r"does not fit: beside a KV cache of \d+ tokens the stages hold at most"):
            split_for(places, name, precision, load, flags)
        return
    found = split_for(places, name, precision, load, flags)
    assert found.round_s == pytest.approx(tried[0].round_s, rel=1e-6)
    as_fast = [one for one in tried if one.round_s <= tried[0].round_s * (1 + 1e-9)]
    assert found.slowest_s <= min(one.slowest_s for one in as_fast) * (1 + 1e-6)
    assert found.layers in {one.layers for one in tried}


@pytest.mark.parametrize(
    ("places", "load"),
    [
        ([Place(A100), Place(L4), Place(T4), Place(V100)], Load(32, 512, 256)),
        ([Place(T4), Place(L4), Place(A100), Place(A100)], Load(8, 2000, 64)),
        ([Place(L4, 1, "Ethernet-100G"), Place(A100, 1, "Ethernet-100G"), Place(T4), Place(T4)], Load(2, 100, 400)),
    ],
    ids=["four kinds", "long prompts", "slow links, few sequences"],
)
def test_four_stages_are_split_as_trying_all_would(places: list[Place], load: Load) -> None:
    tried = by_trying_all(places, "llama-3.2-3b", "fp16", load, Flags())
    assert split_for(places, "llama-3.2-3b", "fp16", load).round_s == pytest.approx(tried[0].round_s, rel=1e-6)


def test_the_faster_card_gets_more_layers_and_the_smaller_one_no_more_than_it_holds() -> None:
    fast = split_for([Place(A100), Place(L4)], "llama-3.1-8b", "fp16", Load(64))
    assert fast.layers[0] > 3 * fast.layers[1]
    # 13B in 16 bits: 24 GB hold 28 layers without a cache, and the A100 not all 40 beside a cache worth the name.
    small = split_for([Place(L4), Place(A100)], "llama-2-13b", "fp16", Load(16), Flags(min_kv_tokens=36_000))
    unbound = split_for([Place(L4), Place(A100)], "llama-2-13b", "fp16", Load(16))
    assert small.layers[0] > unbound.layers[0]
    assert small.kv_tokens >= 36_000 > unbound.kv_tokens


def test_where_the_even_split_does_not_fit_another_does() -> None:
    places = [Place("A100-SXM-80GB"), Place(V100)]
    even = even_split(80, 2)
    with pytest.raises(DoesNotFit):
        pipeline_kv_tokens(stages_at(places, even), model("llama-3.1-70b"), "int4")
    found = best_split(places, "llama-3.1-70b", "int4")
    assert found.layers[0] > even[0]
    assert found.kv_tokens > 0


def test_a_memory_that_is_nowhere_enough_is_said_with_what_each_stage_holds() -> None:
    with pytest.raises(DoesNotFit) as problem:
        best_split([Place(L4), Place(T4)], "llama-3.1-70b", "fp16")
    assert "Llama-3.1-70B in fp16 does not fit" in str(problem.value)
    assert "1 x L4-24GB: 10, 1 x T4-16GB: 6" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("places", "precision", "message"),
    [
        ([Place(V100), Place(L4)], "bf16", "V100-SXM-16GB has no bf16; use fp16"),
        ([Place(L4, 3), Place(L4, 3)], "fp16", "tensor_parallel 3 does not divide"),
        ([Place(L4)] * 41, "fp16", "41 stages: wanted 1 to the 40 layers"),
        ([], "fp16", "0 stages: wanted 1 to the 40 layers"),
    ],
)
def test_chains_that_cannot_run_are_refused(places: list[Place], precision: str, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        best_split(places, "llama-2-13b", precision)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_equal_gpus_keep_vllms_own_split_where_it_serves_as_much(count: int) -> None:
    found = best_split([Place(L4)] * count, "llama-2-13b", "int8")
    assert found.layers == even_split(40, count)


def test_a_wide_vocabulary_takes_layers_off_the_last_stage() -> None:
    """128,256 tokens: the output head weighs as much as five layers of int8."""
    found = best_split([Place(L4)] * 2, "llama-3.1-8b", "int8")
    assert found.layers[0] > found.layers[1]


@pytest.mark.parametrize("places", [[Place(A100), Place(V100)], [Place(L4), Place("L40S-48GB"), Place(T4)]])
def test_the_best_split_serves_no_less_than_any_of_a_single_count_of_sequences(places: list[Place]) -> None:
    best = best_split(places, "llama-2-13b", "fp16")
    for sequences in (1, 8, 37, 64):
        try:
            one = split_for(places, "llama-2-13b", "fp16", Load(sequences))
        except DoesNotFit:
            continue
        assert best.requests_per_s >= 0.97 * evaluated(places, one.layers, "llama-2-13b", "fp16").requests_per_s
