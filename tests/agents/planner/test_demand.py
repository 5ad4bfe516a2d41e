"""What a workload asks for, by class and length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.agents.planner.demand import CELLS_PER_CLASS, Demand, Edges, demand_of
from poolpilot.env.beliefs import mean_load, peak_load
from poolpilot.env.workload.requests import Workload

NAMES = ("chat", "batch", "unused")
DURATION_S = 600.0


def drawn(seed: int, n: int, *, fixed_output: int | None = None) -> Workload:
    """Chat and batch requests; nobody asks for the third class."""
    rng = np.random.default_rng(seed)
    output = rng.lognormal(5.0, 0.8, n).astype(np.int64)
    return Workload(
        np.sort(rng.uniform(0.0, DURATION_S, n)),
        1 + rng.lognormal(6.0, 1.0, n).astype(np.int64),
        output if fixed_output is None else np.full(n, fixed_output),
        rng.integers(0, 2, n),
        NAMES,
    )


BUCKETS = st.one_of(
    st.integers(1, 60),
    st.builds(
        Edges, st.lists(st.floats(1, 4000), max_size=4).map(sorted), st.lists(st.floats(1, 900), max_size=3).map(sorted)
    ),
)


@given(st.integers(0, 2**32), st.integers(0, 400), BUCKETS, st.integers(1, 50))
def test_rates_and_tokens_are_the_workloads(seed: int, n: int, buckets: int | Edges, least: int) -> None:
    requests = drawn(seed, n)
    demand = demand_of(requests, DURATION_S, load="mean", buckets=buckets, least_requests=least)
    rate, prompt, output = mean_load(requests, DURATION_S)
    np.testing.assert_allclose(demand.class_rate_per_s, rate, rtol=1e-12)
    for tokens, mean in ((demand.prompt_tokens, prompt), (demand.output_tokens, output)):
        per_s = np.bincount(demand.class_index, demand.rate_per_s * tokens, len(NAMES))
        np.testing.assert_allclose(per_s, rate * mean, rtol=1e-9)


@given(st.integers(0, 2**32), st.integers(0, 400), BUCKETS, st.integers(1, 50))
def test_cells_are_their_buckets(seed: int, n: int, buckets: int | Edges, least: int) -> None:
    demand = demand_of(drawn(seed, n), DURATION_S, buckets=buckets, least_requests=least)
    cells, n_buckets = demand.fine, len(demand.class_index)
    assert (cells.share > 0).all()
    assert (np.diff(cells.bucket) >= 0).all()
    np.testing.assert_allclose(np.bincount(cells.bucket, cells.share, n_buckets), 1.0, rtol=1e-9)
    for fine, coarse in ((cells.prompt_tokens, demand.prompt_tokens), (cells.output_tokens, demand.output_tokens)):
        np.testing.assert_allclose(
            np.bincount(cells.bucket, cells.share * fine, n_buckets), coarse, rtol=1e-9, atol=1e-9
        )


@given(st.integers(0, 2**32), st.integers(160, 400), st.integers(1, 60))
def test_buckets_are_neither_too_many_nor_too_small(seed: int, n: int, buckets: int) -> None:
    requests = drawn(seed, n)
    demand = demand_of(requests, DURATION_S, load="mean", buckets=buckets, least_requests=20)
    assert np.bincount(demand.class_index).max() <= buckets
    asked = demand.rate_per_s > 0
    assert (demand.rate_per_s[asked] * DURATION_S > 20 - 1e-6).all()


def test_one_bucket_a_class_is_the_means() -> None:
    requests = drawn(1, 500)
    demand = demand_of(requests, DURATION_S, load="mean")
    _, prompt, output = mean_load(requests, DURATION_S)
    assert demand.class_index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(demand.prompt_tokens, prompt)
    np.testing.assert_allclose(demand.output_tokens, output)
    assert [demand.label(b) for b in range(3)] == list(NAMES)


def test_a_class_without_requests_has_a_bucket_at_rate_zero() -> None:
    demand = demand_of(drawn(1, 500), DURATION_S, buckets=9)
    unused = demand.class_index == 2
    assert demand.rate_per_s[unused].tolist() == [0.0]
    assert demand.prompt_tokens[unused].tolist() == [1.0]


def test_the_peak_is_spread_over_buckets_by_their_shares() -> None:
    requests = drawn(3, 2000)
    mean, peak = (demand_of(requests, DURATION_S, load=load, buckets=8) for load in ("mean", "peak"))
    np.testing.assert_allclose(peak.class_rate_per_s, peak_load(requests, DURATION_S))
    asked = mean.class_rate_per_s[mean.class_index] > 0
    shares = [(d.rate_per_s / np.maximum(d.class_rate_per_s[d.class_index], 1e-9))[asked] for d in (mean, peak)]
    np.testing.assert_allclose(shares[0], shares[1])


def test_buckets_hold_about_as_many_tokens_each() -> None:
    """So the long requests, which are most of the work, stand apart from the many short ones."""
    demand = demand_of(drawn(4, 20_000, fixed_output=100), DURATION_S, load="mean", buckets=5)
    own = demand.class_index == 0
    tokens = demand.rate_per_s[own] * demand.prompt_tokens[own]
    assert own.sum() == 5
    np.testing.assert_allclose(tokens, tokens.mean(), rtol=0.05)
    assert demand.rate_per_s[own].max() > 4 * demand.rate_per_s[own].min()


def test_given_edges_part_the_lengths() -> None:
    demand = demand_of(drawn(5, 2000), DURATION_S, buckets=Edges((256, 1024), (128,)))
    own = demand.class_index == 0
    lengths = zip(demand.prompt_tokens[own].tolist(), demand.output_tokens[own].tolist(), strict=True)
    parts = [(int(np.searchsorted([256, 1024], p, "right")), int(o >= 128)) for p, o in lengths]
    assert parts == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert demand.label(0).startswith("chat ")


def test_longest_prompts_have_cells_of_their_own() -> None:
    cells = demand_of(drawn(6, 20_000), DURATION_S).fine
    own = cells.bucket == 0
    assert own.sum() == CELLS_PER_CLASS
    assert cells.share[own][-1] < 0.005
    assert cells.prompt_tokens[own].max() > 10 * np.average(cells.prompt_tokens[own], weights=cells.share[own])


def test_without_cells_a_bucket_is_one() -> None:
    demand = Demand(("a",), np.zeros(2, np.int64), np.array([10.0, 20.0]), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert demand.fine.bucket.tolist() == [0, 1]
    assert demand.scaled(2.0).class_rate_per_s.tolist() == [14.0]


def test_no_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="buckets: 0, wanted at least 1"):
        demand_of(drawn(1, 10), DURATION_S, buckets=0)
