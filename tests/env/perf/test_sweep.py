"""A sweep never costs more than it may, and a small one still tells the law's terms apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.perf.sweep import STEADY_ITERATIONS, SweepLimits, decode_probe, plan_sweep

ROOMY = SweepLimits(max_requests=5000, max_tokens=2_000_000, max_concurrency=64, max_prompt_tokens=8448)


@given(
    st.integers(1, 2000),
    st.integers(100, 1_000_000),
    st.integers(2, 300),
    st.integers(32, 40_000),
    st.none() | st.integers(100, 100_000),
    st.none() | st.integers(16, 16_384),
)
def test_a_plan_keeps_all_limits(
    requests: int, tokens: int, concurrency: int, longest: int, kv_tokens: int | None, budget: int | None
) -> None:
    plan = plan_sweep(SweepLimits(requests, tokens, concurrency, longest, kv_tokens, budget))
    assert sum(probe.requests for probe in plan) <= requests
    assert sum(probe.tokens for probe in plan) <= tokens
    for probe in plan:
        assert 1 <= probe.sequences <= concurrency
        assert probe.prompt_tokens + probe.output_tokens <= longest
        assert kv_tokens is None or probe.tokens // probe.repeats <= kv_tokens


def test_shapes_held_out_lie_between_those_fitted() -> None:
    plan = plan_sweep(ROOMY)
    for kind, size in (("decode", "sequences"), ("prefill", "prompt_tokens")):
        fitted = {getattr(p, size) for p in plan if p.kind == kind and not p.held_out}
        judged = {getattr(p, size) for p in plan if p.kind == kind and p.held_out}
        assert len(judged) >= 4
        assert not fitted & judged
        assert min(fitted) < min(judged) <= max(judged) < max(fitted)


@pytest.mark.parametrize("tokens", [20_000, 60_000, 300_000])
def test_a_smaller_allowance_is_the_beginning_of_a_larger_one(tokens: int) -> None:
    small = plan_sweep(SweepLimits(5000, tokens, 64, 8448))
    assert {p.kind for p in small if not p.held_out} == {"decode", "prefill"}
    assert {p.kind for p in small if p.held_out} == {"decode", "prefill"}
    assert set(small) <= set(plan_sweep(ROOMY))


def test_answers_are_long_enough_to_decode_together() -> None:
    probe = decode_probe(32, 1024, held_out=False, token_budget=512)
    prefilling = 32 * 1024 / (512 - 32)
    assert probe.output_tokens >= prefilling + STEADY_ITERATIONS
