"""Least engine time: no iteration that an engine can run is shorter than what it computes weighs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.bound.sharing import sharing_of
from poolpilot.agents.bound.work import (
    Engine,
    Kinds,
    Weights,
    dearest_weights,
    kinds_of,
    least_work_s,
    may_run_out,
    owed_work_s,
)
from poolpilot.env.contract import FloatArray, IntArray
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.env.workload.prefixes import NO_PREFIXES, PrefixTree


def a_law(rng: np.random.Generator) -> IterationLaw:
    """Any law: flat, then steep, or the other way round."""
    steps = rng.exponential(1.0, len(TOKENS_GRID)) * rng.choice([0.0, 1e-4, 1e-2], len(TOKENS_GRID))
    linear_s = rng.uniform(1e-3, 3e-2) + np.cumsum(steps)
    return IterationLaw(TOKENS_GRID, linear_s, rng.uniform(0, 1e-8), rng.uniform(0, 1e-6), rng.uniform(0, 1e-4))


def an_engine(rng: np.random.Generator, **changes: bool) -> Engine:
    """Any limits."""
    return Engine(
        law=a_law(rng),
        kv_tokens=float(rng.choice([500.0, 20_000.0])),
        max_num_seqs=float(rng.choice([1, 3, 48, 300])),
        token_budget=float(rng.choice([16, 100, 2048, 40_000])),
        **changes,
    )


def alone(prompt: IntArray, output: IntArray) -> Kinds:
    """Kinds of requests of one class for one pool, that share nothing."""
    nothing = sharing_of(NO_PREFIXES, np.full(len(prompt), -1), prompt, np.zeros(len(prompt)))
    return kinds_of(np.zeros(len(prompt), dtype=np.int64), prompt, output, nothing, np.ones((1, 1), dtype=np.bool_))


def weights_for(engine: Engine, rng: np.random.Generator) -> Weights:
    """As they are chosen for requests drawn at random."""
    count = 50
    prompt, output = rng.integers(1, 2000, count), rng.integers(0, 400, count)
    kinds = alone(prompt, output)
    return dearest_weights((engine,), kinds, np.array([int(rng.integers(1, count + 1))]), np.array([1e-3]))[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_no_iteration_is_shorter_than_what_it_computes_weighs(seed: int, caching: bool) -> None:
    rng = np.random.default_rng(seed)
    engine = an_engine(rng, prefix_caching=caching)
    weights = weights_for(engine, rng)
    budget, cap = int(engine.token_budget), int(engine.max_num_seqs)
    for _ in range(50):
        tokens = int(np.exp(rng.uniform(0, np.log(budget + 1))))
        places = int(rng.integers(1, min(tokens, cap) + 1))
        decodes = int(rng.integers(0, places + 1)) if tokens > places else places
        read = float(rng.choice([0.0, engine.kv_tokens, rng.uniform(0, engine.kv_tokens)])) * (decodes > 0)
        read *= 3.0 if caching else 1.0  # shared blocks are read by everybody who holds them
        pairs = float(rng.uniform(0, 1e6)) * (tokens > decodes)
        spent_s = float(engine.law.iteration_s(tokens - decodes, pairs, decodes, read))
        weighs_s = weights.token_s * tokens + weights.place_s * places + weights.sequence_s * decodes
        weighs_s += weights.context_s * read + weights.pair_s * pairs
        assert weighs_s <= spent_s


def alone_s(engine: Engine, prompt: int, output: int) -> float:
    """A request by itself: its prompt in chunks of the budget, then one decode after the other."""
    spent_s, done = 0.0, 0
    while done < prompt:
        chunk = min(int(engine.token_budget), prompt - done)
        spent_s += float(engine.law.iteration_s(chunk, ((done + chunk) ** 2 - done**2) / 2.0, 0, 0))
        done += chunk
    for token in range(1, output):
        spent_s += float(engine.law.iteration_s(0, 0, 1, prompt + token))
    return spent_s


def restarting_s(engine: Engine, prompt: int, output: int, cached: bool) -> float:
    """One that is thrown out after each token and starts over, its batch places shared with as many as fit."""
    spent_s = 0.0
    for held in range(prompt, prompt + max(output, 1)):
        start = (held - 1) // 16 * 16 if cached and held > prompt else 0
        while start < held:
            chunk = min(int(engine.token_budget), held - start)
            spent_s += float(engine.law.iteration_s(chunk, ((start + chunk) ** 2 - start**2) / 2.0, 0, 0))
            start += chunk
    return spent_s


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 600), st.integers(0, 60))
def test_no_way_to_serve_a_request_takes_less(seed: int, caching: bool, prompt: int, output: int) -> None:
    rng = np.random.default_rng(seed)
    engine = an_engine(rng, prefix_caching=caching)
    weights = weights_for(engine, rng)
    nothing = np.array([0])
    (least_s,) = least_work_s(weights, engine, np.array([prompt]), np.array([output]), nothing)
    assert 0.0 < least_s <= alone_s(engine, prompt, output)
    assert least_s <= restarting_s(engine, prompt, output, caching)


def test_a_batch_of_one_is_weighed_exactly() -> None:
    """Who never shares an iteration takes what the law says, to a hair."""
    law = IterationLaw(TOKENS_GRID, 0.01 + 1e-4 * TOKENS_GRID, 0.0, 1e-7, 1e-5)
    engine = Engine(law, 1e6, 1.0, 2048.0, throws_out=False)
    prompt, output = np.full(20, 300), np.full(20, 50)
    kinds = alone(prompt, output)
    (weights,) = dearest_weights((engine,), kinds, np.array([20]), np.array([1.0]))
    least_s = least_work_s(weights, engine, prompt, output, np.zeros(20, dtype=np.int64))
    assert least_s == pytest.approx(np.full(20, alone_s(engine, 300, 50)), rel=1e-3)


def test_a_full_batch_shares_its_weights() -> None:
    """64 at a time, reading weights takes each a 64th of what it takes one alone."""
    law = IterationLaw(TOKENS_GRID, np.full(len(TOKENS_GRID), 0.02), 0.0, 0.0, 0.0)
    prompt, output = np.full(200, 1), np.full(200, 101)

    def each_s(seqs: float) -> FloatArray:
        engine = Engine(law, 1e6, seqs, 2048.0)
        kinds = alone(prompt, output)
        (weights,) = dearest_weights((engine,), kinds, np.array([200]), np.array([1.0]))
        return least_work_s(weights, engine, prompt, output, np.zeros(200, dtype=np.int64))

    np.testing.assert_allclose(each_s(64.0), 101 * 0.02 / 64, rtol=1e-3)
    np.testing.assert_allclose(each_s(1.0), 101 * 0.02, rtol=1e-3)


def test_what_a_cache_spares_is_owed_in_part() -> None:
    rng = np.random.default_rng(3)
    engine = an_engine(rng, prefix_caching=True)
    weights = weights_for(engine, rng)
    plain, sharing = (
        least_work_s(weights, engine, np.array([400]), np.array([10]), np.array([tokens])) for tokens in (0, 320)
    )
    assert sharing[0] < plain[0]
    tree = PrefixTree(np.array([-1]), np.array([320 + 5]))
    shared = sharing_of(tree, np.zeros(8, dtype=np.int64), np.full(8, 400), np.arange(8.0))
    spared = weights.token_s * 320 + weights.pair_s * 320**2 / 2
    np.testing.assert_allclose(owed_work_s(weights, engine, shared), spared / 8)
    assert not owed_work_s(weights, replace(engine, prefix_caching=False), shared).any()


@pytest.mark.parametrize(
    ("kv_tokens", "seqs", "expected"),
    [(160.0, 2.0, False), (159.0, 2.0, True), (176.0, 3.0, True), (192.0, 9.0, False)],
)
def test_blocks_run_out_only_where_the_largest_do_not_fit_together(
    kv_tokens: float, seqs: float, expected: bool
) -> None:
    """Of 5, 5 and 2 blocks."""
    assert may_run_out(kv_tokens, seqs, np.array([70, 10, 70]), np.array([11, 20, 1])) is expected
