"""Histograms as distributions: what is drawn from one has its shares and its mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.audit.histograms import Histogram, spread_around, through
from poolpilot.env.window import N_BUCKETS, bucket_of

BOUNDS = np.array([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0])


def of(values: np.ndarray, bounds: np.ndarray = BOUNDS) -> Histogram:
    place = np.searchsorted(bounds, values, side="left")
    counts = np.bincount(place, minlength=len(bounds) + 1).astype(float)
    return Histogram(bounds, counts, float(values.sum()))


@given(median=st.floats(5.0, 400.0), sigma=st.floats(0.1, 1.2), seed=st.integers(0, 1000), n=st.integers(50, 3000))
def test_what_is_drawn_has_the_shares_and_the_mean(median: float, sigma: float, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    real = np.minimum(rng.lognormal(np.log(median), sigma, 4000), 4000.0)
    histogram = of(real)
    drawn = histogram.drawn(n, rng, top=4000.0)
    again = of(drawn)
    assert np.abs(again.counts / n - histogram.counts / 4000).max() <= 2.0 / n + 1e-9
    assert again.mean == pytest.approx(histogram.mean, rel=0.02 + 3.0 / n)


def test_quantiles_and_shares_are_each_others_inverse_and_near_the_truth() -> None:
    values = np.random.default_rng(3).lognormal(4.0, 0.8, 20_000)
    histogram = of(values)
    for share in (0.05, 0.5, 0.95):
        quantile = histogram.quantile(share)
        assert histogram.share_within(quantile) == pytest.approx(share, abs=1e-9)
        assert quantile == pytest.approx(float(np.quantile(values, share)), rel=0.12)
    assert histogram.mean == pytest.approx(values.mean())


def test_of_nothing_nothing_is_known() -> None:
    empty = Histogram(BOUNDS, np.zeros(11), 0.0)
    assert math.isnan(empty.mean)
    assert math.isnan(empty.quantile(0.5))
    assert math.isnan(empty.share_within(3.0))
    assert len(empty.drawn(5, np.random.default_rng(0), 1e4)) == 0


def test_histograms_add_up_only_with_equal_bounds() -> None:
    one = of(np.array([3.0, 30.0]))
    both = Histogram.joined([one, of(np.array([7.0]))])
    assert both.count == 3
    assert both.total == 40.0
    with pytest.raises(ValueError, match="bounds"):
        Histogram.joined([one, Histogram(BOUNDS[:3], np.ones(4))])


def test_a_mean_alone_becomes_a_distribution_around_it() -> None:
    histogram = spread_around(300.0, 1.0)
    drawn = histogram.drawn(5000, np.random.default_rng(0), top=1e5)
    assert drawn.mean() == pytest.approx(300.0, rel=0.01)
    assert np.std(np.log(drawn)) == pytest.approx(1.0, rel=0.1)


def test_a_simulated_tally_looks_as_the_measured_histogram_would() -> None:
    values = np.random.default_rng(5).lognormal(-3.0, 0.7, 10_000)
    bounds = np.array([0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0])
    tally = np.bincount(bucket_of(values), minlength=N_BUCKETS).astype(float)
    seen, real = through(tally, bounds), of(values, bounds)
    assert np.abs(seen.counts - real.counts).max() < 0.03 * len(values)
    assert seen.mean == pytest.approx(real.mean, rel=0.01)
    assert seen.quantile(0.95) == pytest.approx(real.quantile(0.95), rel=0.05)
