"""A pipeline folded into one law, held to a discrete-event simulation of its stages."""

import heapq
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.links import link
from poolpilot.env.catalog.models import MODELS, model
from poolpilot.env.perf.factors import shipped_factors
from poolpilot.env.perf.law import TOKENS_GRID
from poolpilot.env.perf.memory import stage_weight_bytes
from poolpilot.env.perf.roofline import (
    DoesNotFit,
    LayoutError,
    Stage,
    even_split,
    iteration_law,
    kv_capacity_tokens,
    pipeline_kv_tokens,
    pipeline_law,
    stages_of,
)
from poolpilot.env.perf.stage import stage_times

StageTime = Callable[[float, float, float], float]
"""Seconds of a batch of (tokens, sequences, KV tokens) on a stage, its transfer to the next one included."""


def mean_round_s(
    stages: Sequence[StageTime], sequences: int, context: float, chunk: int = 0, riding: int = 1, rounds: int = 60
) -> float:
    """Mean seconds between two tokens of a sequence: batches move through the stages one after the other, each stage
    works on one at a time, up to as many batches as stages are in flight, and a batch that returns is scheduled again.

    Args:
        chunk: prompt tokens that ride along with each of the first `riding` batches of a round.
    """
    batches = min(len(stages), sequences)
    sizes = [sequences // batches + (i < sequences % batches) for i in range(batches)]
    free_at = [0.0] * len(stages)
    ready = [(0.0, i) for i in range(batches)]
    heapq.heapify(ready)
    done = [0] * batches
    last_s = [0.0] * batches
    while min(done) < rounds:
        now, i = heapq.heappop(ready)
        tokens = sizes[i] + (chunk if i < riding else 0)
        for s, seconds in enumerate(stages):
            now = max(now, free_at[s]) + seconds(tokens, sizes[i], sizes[i] * context)
            free_at[s] = now
        done[i] += 1
        last_s[i] = now
        heapq.heappush(ready, (now, i))
    return float(np.mean([end / count for end, count in zip(last_s, done, strict=True)]))


def simulated_stages(stages: Sequence[Stage], name: str, precision: str, send_s: float = 0.0) -> list[StageTime]:
    known = shipped_factors()

    def one(index: int) -> StageTime:
        last = index == len(stages) - 1
        times = stage_times(stages[index], model(name), precision, known, last=last)

        def seconds(tokens: float, sequences: float, kv_tokens: float) -> float:
            linear = float(np.interp(tokens, TOKENS_GRID, times.linear_s)) + known.engine.iteration_s
            return linear + times.seq_s * sequences + times.kv_read_s_per_token * kv_tokens + (0.0 if last else send_s)

        return seconds

    return [one(i) for i in range(len(stages))]


@pytest.mark.parametrize("sequences", [1, 2, 3, 8, 32, 128, 256])
@pytest.mark.parametrize("split", [(40, 40), (20, 20, 20, 20), (30, 50), (12, 20, 28, 20)], ids=str)
def test_the_law_of_a_pipeline_is_that_of_its_stages_in_time(split: tuple[int, ...], sequences: int) -> None:
    """Within 5 %; batches of unequal size (3 sequences in 2 batches) within 16 %."""
    stages = stages_of(gpu("A100"), model("llama-3.1-70b"), 2, len(split), split)
    simulated = mean_round_s(simulated_stages(stages, "llama-3.1-70b", "bf16"), sequences, 1000.0)
    law = iteration_law(gpu("A100"), model("llama-3.1-70b"), "bf16", 2, len(split), stage_layers=split)
    predicted = float(law.iteration_s(0.0, 0.0, sequences, sequences * 1000.0))
    even = sequences % len(split) == 0 or sequences == 1
    assert predicted == pytest.approx(simulated, rel=0.05 if even else 0.16)


@pytest.mark.parametrize("sequences", [8, 64, 256])
def test_unlike_gpus_take_as_long_as_their_stages_in_time(sequences: int) -> None:
    """Within 10 %: what context costs is that of the stage that is the busiest under a usual load."""
    stages = (Stage(gpu("A100"), 50), Stage(gpu("L40S"), 30))
    simulated = mean_round_s(simulated_stages(stages, "llama-3.1-70b", "fp8"), sequences, 1000.0)
    law = pipeline_law(stages, model("llama-3.1-70b"), "fp8")
    predicted = float(law.iteration_s(0.0, 0.0, sequences, sequences * 1000.0))
    assert predicted == pytest.approx(simulated, rel=0.1)


@pytest.mark.parametrize("pp", [2, 4])
@pytest.mark.parametrize("chunk", [512, 1024, 2048])
@pytest.mark.parametrize("everywhere", [False, True], ids=["one batch has a chunk", "each batch has a chunk"])
def test_chunks_of_prompts_take_a_round_as_long_as_in_time(pp: int, chunk: int, everywhere: bool) -> None:
    """Within 15 %, with one chunk in a round as with one in each batch; chunks hardly larger than the tokens that the
    law takes for decoding are promised up to 30 % too fast."""
    stages = stages_of(gpu("A100"), model("llama-3.1-70b"), 2, pp)
    riding = pp if everywhere else 1
    simulated = mean_round_s(simulated_stages(stages, "llama-3.1-70b", "bf16"), 64, 1000.0, chunk, riding)
    budget = chunk + 64 // pp
    law = iteration_law(gpu("A100"), model("llama-3.1-70b"), "bf16", 2, pp, batch_tokens=budget)
    predicted = float(law.iteration_s(riding * chunk, 0.0, 64, 64 * 1000.0))
    assert predicted == pytest.approx(simulated, rel=0.15 if chunk > 512 else 0.3)


@given(st.integers(1, 200), st.integers(1, 16))
def test_an_even_split_has_all_layers_and_differs_by_one(layers: int, stages: int) -> None:
    if stages > layers:
        return
    split = even_split(layers, stages)
    assert sum(split) == layers
    assert max(split) - min(split) <= 1


@pytest.mark.parametrize(
    ("layers", "stages", "split"), [(30, 4, (7, 8, 8, 7)), (33, 2, (17, 16)), (80, 3, (27, 27, 26))]
)
def test_left_over_layers_go_where_vllm_puts_them(layers: int, stages: int, split: tuple[int, ...]) -> None:
    """vllm.distributed.utils.get_pp_indices: from the last but one stage backwards."""
    assert even_split(layers, stages) == split


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["llama-3.1-8b", "qwen2.5-32b", "mixtral-8x7b", "llama-3.2-1b"]),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["fp16", "int4"]),
)
def test_every_layout_has_a_law_and_its_stages_hold_all_weights(name: str, pp: int, tp: int, precision: str) -> None:
    card, shape = gpu("A100"), model(name)
    law = iteration_law(card, shape, precision, tp, pp)
    assert (np.diff(law.linear_s) >= 0).all()
    stages = stages_of(card, shape, tp, pp)
    held = sum(stage_weight_bytes(stages, i, shape, precision) * tp for i in range(pp))
    twice = shape.head_params * 2.0 if shape.tied_embeddings and pp > 1 else 0.0
    assert held == pytest.approx(shape.weight_bytes(precision) + twice, rel=1e-3)


def test_the_tightest_stage_decides_how_much_the_cache_holds() -> None:
    card, shape = gpu("A100"), model("llama-3.1-70b")
    even = kv_capacity_tokens(card, shape, "bf16", 1, pipeline_parallel=4)
    uneven = kv_capacity_tokens(card, shape, "bf16", 1, pipeline_parallel=4, stage_layers=(30, 20, 15, 15))
    assert uneven < even
    with pytest.raises(DoesNotFit, match=r"stage 1 of meta-llama/Llama-3.1-70B in bf16 does not fit on 1 x A100"):
        kv_capacity_tokens(card, shape, "bf16", 1, pipeline_parallel=4, stage_layers=(50, 10, 10, 10))
    mixed = [pipeline_kv_tokens((Stage(gpu("H200"), 80 - k), Stage(gpu("L40S"), k)), shape, "fp8") for k in (20, 40)]
    assert mixed[0] > mixed[1]  # the small card is the tight one


def test_a_slower_link_between_stages_is_nowhere_faster() -> None:
    shape = model("llama-3.1-70b")
    laws = [
        pipeline_law((Stage(gpu("H100"), 40, 1, link(way)), Stage(gpu("H100"), 40)), shape, "fp8")
        for way in ("NVLink4", "InfiniBand-NDR400", "InfiniBand-HDR200", "Ethernet-100G")
    ]
    for fast, slow in pairwise(laws):
        assert (fast.linear_s <= slow.linear_s).all()
    assert laws[0].linear_s[0] < laws[-1].linear_s[0]


@pytest.mark.parametrize(
    ("pp", "split", "message"),
    [
        (2, (40, 30), r"stage_layers \[40, 30\] sum to 70, wanted the 80 layers of .*, e.g. \[40, 40\]"),
        (2, (80, 0), "at least one a stage"),
        (3, (40, 40), "wanted one entry for each of 3 stages"),
        (0, None, "pipeline_parallel 0: wanted 1 to the 80 layers"),
        (81, None, "pipeline_parallel 81: wanted 1 to the 80 layers"),
    ],
)
def test_splits_that_cannot_be_are_refused(pp: int, split: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        iteration_law(gpu("H100"), model("llama-3.1-70b"), "fp8", 1, pp, stage_layers=split)


def test_one_stage_is_no_pipeline() -> None:
    for name in sorted(MODELS)[:5]:
        plain = iteration_law(gpu("H100"), model(name), "fp16")
        one = iteration_law(gpu("H100"), model(name), "fp16", 1, 1, stage_layers=(model(name).layers,))
        assert np.array_equal(plain.as_row(), one.as_row())
