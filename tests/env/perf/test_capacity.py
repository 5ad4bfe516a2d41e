"""What one replica carries."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.capacity import capacity_per_s, mean_iteration_s
from poolpilot.env.perf.law import IterationLaw
from poolpilot.env.perf.roofline import iteration_law, kv_capacity_tokens

LAW = iteration_law(gpu("A100"), model("llama-2-7b"), "fp16")
KV = kv_capacity_tokens(gpu("A100"), model("llama-2-7b"), "fp16")
NONE = math.inf
PROMPT = st.floats(1.0, 20_000.0)
OUTPUT = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0.0, 4_000.0))
TARGET = st.one_of(st.just(math.inf), st.just(math.nan), st.floats(1e-4, 100.0))
LOOSER = st.one_of(st.just(math.inf), st.floats(1.0, 100.0))


def carried(
    prompt: float,
    output: float,
    ttft_s: float,
    tpot_s: float,
    law: IterationLaw = LAW,
    cap: int = 128,
    e2e_s: float = NONE,
    attainment: float = 0.99,
) -> float:
    return capacity_per_s(law, KV, cap, 2048, prompt, output, ttft_s, tpot_s, e2e_s, attainment)


@settings(deadline=None)
@given(PROMPT, OUTPUT, TARGET, TARGET, TARGET, LOOSER, LOOSER, LOOSER)
def test_looser_targets_never_carry_less(
    prompt: float,
    output: float,
    ttft_s: float,
    tpot_s: float,
    e2e_s: float,
    ttft_factor: float,
    tpot_factor: float,
    e2e_factor: float,
) -> None:
    strict = carried(prompt, output, ttft_s, tpot_s, e2e_s=e2e_s)
    assert 0.0 <= strict < math.inf
    looser = carried(prompt, output, ttft_s * ttft_factor, tpot_s * tpot_factor, e2e_s=e2e_s * e2e_factor)
    assert looser >= strict


@settings(deadline=None)
@given(PROMPT, OUTPUT, TARGET, TARGET, TARGET, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_lower_attainment_never_carries_less(
    prompt: float, output: float, ttft_s: float, tpot_s: float, e2e_s: float, one: float, other: float
) -> None:
    rates = [carried(prompt, output, ttft_s, tpot_s, e2e_s=e2e_s, attainment=a) for a in sorted((one, other))]
    assert rates[0] >= rates[1] >= 0.0


def test_an_end_to_end_target_bounds_the_batch_as_the_time_of_each_token_does() -> None:
    by_token = carried(500, 251, NONE, 0.04)
    by_end = carried(500, 251, NONE, NONE, e2e_s=250 * 0.04)
    assert 0.8 * by_token < by_end <= by_token
    assert carried(500, 251, NONE, NONE, e2e_s=1.0) == 0.0


def test_work_that_may_wait_fills_a_replica_but_not_all_the_time() -> None:
    """With a deadline far away the targets leave the whole throughput, at a utilisation below 1."""
    unbounded, patient = carried(500, 250, NONE, NONE, cap=16), carried(500, 250, NONE, NONE, cap=16, e2e_s=300.0)
    assert 0.8 * unbounded < patient < unbounded


def test_a_deadline_holds_for_prompts_too() -> None:
    assert carried(512, 0, NONE, NONE, e2e_s=0.5) == carried(512, 0, 0.5, NONE)


@settings(deadline=None)
@given(PROMPT, OUTPUT, TARGET, TARGET, *[st.floats(0.2, 1.0)] * 4)
def test_a_faster_law_never_carries_less(
    prompt: float, output: float, ttft_s: float, tpot_s: float, a: float, b: float, c: float, d: float
) -> None:
    faster = IterationLaw(
        LAW.tokens_grid, LAW.linear_s * a, LAW.attend_s_per_pair * b, LAW.kv_read_s_per_token * c, LAW.seq_s * d
    )
    slow = carried(prompt, output, ttft_s, tpot_s)
    assert carried(prompt, output, ttft_s, tpot_s, faster) >= slow * (1 - 1e-9)


@settings(deadline=None)
@given(PROMPT, OUTPUT, TARGET, TARGET)
def test_more_kv_space_never_carries_less(prompt: float, output: float, ttft_s: float, tpot_s: float) -> None:
    small, large = (capacity_per_s(LAW, kv, 128, 2048, prompt, output, ttft_s, tpot_s) for kv in (KV, 2 * KV))
    assert large >= small


def test_the_batch_is_bounded_by_tpot() -> None:
    rate = carried(500, 250, NONE, 0.04)
    running = rate * 249 * 0.78 * 0.04
    n = np.array([running])
    seconds = float(mean_iteration_s(LAW, n, n / 249, 2048 - n, 500, 249)[0])
    assert seconds == pytest.approx(0.78 * 0.04, rel=0.06)


def test_the_batch_is_bounded_by_the_kv_cache() -> None:
    rate = capacity_per_s(LAW, 7_000, 128, 2048, 500, 250, NONE, NONE)
    n = np.array([7_000 / 625])
    assert rate <= float(n[0] / 249 / mean_iteration_s(LAW, n, n / 249, 2048 - n, 500, 249)[0])
    assert rate > 0.5 * carried(500, 250, NONE, NONE) * n[0] / 128


@pytest.mark.parametrize(
    ("prompt", "output", "ttft_s", "tpot_s"),
    [(500, 250, NONE, 0.001), (500, 250, 0.001, NONE), (KV, 10, NONE, NONE), (0, 10, NONE, NONE), (500, 0, 0.01, NONE)],
    ids=[
        "token faster than one alone",
        "prompt faster than one alone",
        "larger than the cache",
        "no prompt",
        "embedding",
    ],
)
def test_what_not_even_one_request_meets(prompt: float, output: float, ttft_s: float, tpot_s: float) -> None:
    assert carried(prompt, output, ttft_s, tpot_s) == 0.0


def test_known_capacity_of_llama_2_7b_on_a100() -> None:
    """A simulated replica saturates near 7.5 requests per second of 500 in, 250 out (batch 256, budget 2,048)."""
    assert carried(500, 250, 2.0, 0.1, cap=256) == pytest.approx(7.5, rel=0.2)


def test_prompts_alone_run_at_the_rate_of_full_budgets() -> None:
    per_token_s = float(LAW.linear(2048)) / 2048
    assert carried(512, 0, NONE, NONE) == pytest.approx(1 / (512 * per_token_s), rel=0.05)
    assert carried(512, 0, 0.5, NONE) < carried(512, 0, NONE, NONE)
    # A TPOT target means nothing to a request that ends with its first token.
    assert carried(512, 1, 0.5, 1e-6) == carried(512, 0, 0.5, NONE)


def test_a_prompt_longer_than_the_budget_is_chunked() -> None:
    alone_s = 8 * float(LAW.linear(2048)) + LAW.attend_s_per_pair * 16384**2 / 2
    assert carried(16384, 0, NONE, NONE) == pytest.approx(1 / alone_s, rel=0.1)


def test_waiting_for_a_place_lowers_what_a_ttft_target_allows() -> None:
    assert carried(500, 250, 1.0, NONE, cap=16) < carried(500, 250, NONE, NONE, cap=16)
    assert carried(500, 250, 1.0, NONE, cap=16) < carried(500, 250, 1.0, NONE, cap=64)
