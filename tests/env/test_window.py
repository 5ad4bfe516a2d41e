"""Tallies add up, and their percentiles are those of the requests to within a bucket."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.contract import CLASS_COLUMNS
from poolpilot.env.window import (
    ARRIVED,
    BUCKET_LOW_S,
    BUCKETS_PER_E,
    FINISHED,
    LOST,
    MET,
    N_BUCKETS,
    OUTPUT_SQUARES,
    OUTPUT_SUM,
    PROMPT_SQUARES,
    PROMPT_SUM,
    SHED,
    TPOT,
    TTFT,
    WINDOW_WIDTH,
    bucket_of,
    class_columns,
    empty_tally,
    percentile_s,
)

BUCKET_WIDTH = math.exp(1.0 / BUCKETS_PER_E) * (1 + 1e-9)
LAST_S = BUCKET_LOW_S * math.exp(N_BUCKETS / BUCKETS_PER_E)
LATENCIES = st.lists(st.floats(BUCKET_LOW_S, LAST_S * 0.99), min_size=1, max_size=60)


def counted(seconds: list[float]) -> np.ndarray:
    return np.bincount(bucket_of(np.array(seconds)), minlength=N_BUCKETS).astype(float)


@settings(max_examples=150, deadline=None)
@given(LATENCIES, st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_a_bucket_of_the_exact_one(seconds: list[float], share: float) -> None:
    seen = float(percentile_s(counted(seconds), share))
    # The order statistic that np.quantile's "inverted_cdf" takes, by the same product of share and count.
    exact = sorted(seconds)[max(math.ceil(share * len(seconds)) - 1, 0)]
    assert exact / BUCKET_WIDTH <= seen <= exact * BUCKET_WIDTH


def test_percentiles_of_many_are_those_of_numpy() -> None:
    seconds = np.random.default_rng(0).lognormal(-1.0, 1.0, 5000)
    for share in (0.5, 0.95):
        seen = float(percentile_s(counted(seconds.tolist()), share))
        assert seen == pytest.approx(np.quantile(seconds, share), rel=0.06)


@settings(deadline=None)
@given(LATENCIES)
def test_a_higher_share_is_never_a_lower_latency(seconds: list[float]) -> None:
    counts = counted(seconds)
    found = [float(percentile_s(counts, share)) for share in np.linspace(0.05, 1.0, 20)]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (-1.0, 0), (BUCKET_LOW_S, 0), (1e9, N_BUCKETS - 1), (math.inf, N_BUCKETS - 1)],
    ids=["at once", "a clock set back", "the first bound", "very late", "never"],
)
def test_the_ends_take_what_is_beyond_them(seconds: float, bucket: int) -> None:
    assert bucket_of(np.array([seconds])).tolist() == [bucket]


def test_no_latency_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="leave the request out"):
        bucket_of(np.array([0.1, np.nan]))


def test_no_count_has_no_percentile() -> None:
    assert np.isnan(percentile_s(np.zeros((2, N_BUCKETS)), 0.5)).all()


def tally_of(ttft_s: list[float], prompts: list[float], met: int) -> np.ndarray:
    """The tally of one class whose requests all finished, two more lost and one shed."""
    tally = empty_tally(1)
    n = len(ttft_s)
    tally[0, [ARRIVED, FINISHED, MET, LOST, SHED]] = [n + 3, n, met, 2, 1]
    tally[0, [PROMPT_SUM, PROMPT_SQUARES]] = [sum(prompts), sum(p * p for p in prompts)]
    tally[0, [OUTPUT_SUM, OUTPUT_SQUARES]] = [2.0 * sum(prompts), 4.0 * sum(p * p for p in prompts)]
    tally[0, TTFT : TTFT + N_BUCKETS] = counted(ttft_s)
    tally[0, TPOT:WINDOW_WIDTH] = counted([0.1 * s for s in ttft_s])
    return tally


def column(columns: np.ndarray, name: str) -> float:
    return float(columns[0, [c.name for c in CLASS_COLUMNS].index(name)])


def test_the_columns_tell_what_was_tallied() -> None:
    prompts, ttft_s = [100.0, 300.0, 500.0, 700.0], [0.2, 0.4, 0.8, 1.6]
    columns = class_columns(tally_of(ttft_s, prompts, met=3), 10.0, np.array([5.0]))
    assert columns.shape == (1, len(CLASS_COLUMNS))
    expected = {
        "arrival_rate_per_s": 0.7,
        "prompt_tokens_mean": 400.0,
        "prompt_tokens_std": np.std(prompts),
        "output_tokens_mean": 800.0,
        "output_tokens_std": 2.0 * np.std(prompts),
        "in_flight": 5.0,
        "attainment": 3 / 6,
        "shed_per_s": 0.1,
    }
    for name, value in expected.items():
        assert column(columns, name) == pytest.approx(value), name
    for name, value in {"ttft_p50_s": 0.4, "ttft_p95_s": 1.6, "tpot_p50_s": 0.04, "tpot_p95_s": 0.16}.items():
        assert value / BUCKET_WIDTH <= column(columns, name) <= value * BUCKET_WIDTH, name


@settings(max_examples=40, deadline=None)
@given(LATENCIES, LATENCIES)
def test_tallies_of_parts_add_up_to_that_of_the_whole(one: list[float], other: list[float]) -> None:
    parts = tally_of(one, one, len(one)) + tally_of(other, other, 0)
    whole = tally_of(one + other, one + other, len(one))
    whole[0, [ARRIVED, LOST, SHED]] += [3, 2, 1]
    assert np.allclose(parts, whole)
    assert np.allclose(
        class_columns(parts, 30.0, np.zeros(1)), class_columns(whole, 30.0, np.zeros(1)), rtol=1e-6, atol=1e-4
    )


def test_without_requests_only_the_rates_are_known() -> None:
    columns = class_columns(empty_tally(1), 10.0, np.array([np.nan]))
    known = {c.name for c, value in zip(CLASS_COLUMNS, columns[0], strict=True) if not np.isnan(value)}
    assert known == {"arrival_rate_per_s", "shed_per_s"}


def test_a_batch_has_the_columns_of_each_cluster() -> None:
    rng = np.random.default_rng(1)
    tallies = np.stack([tally_of(rng.uniform(0.01, 3.0, 9).tolist(), [100.0], 4) for _ in range(3)])
    seconds, in_flight = np.array([10.0, 20.0, 40.0]), rng.uniform(0, 9, (3, 1))
    together = class_columns(tallies, seconds, in_flight)
    for b in range(3):
        alone = class_columns(tallies[b], float(seconds[b]), in_flight[b])
        assert np.array_equal(together[b], alone, equal_nan=True)
