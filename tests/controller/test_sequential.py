"""A confidence sequence misses the true mean at any look no more often than it says, and closes in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from poolpilot.controller.sequential import PRIOR_VARIANCE, confidence_sequence
from poolpilot.env.contract import FloatArray


def looks(draws: FloatArray, alpha: float, first: int = 6) -> tuple[FloatArray, FloatArray]:
    """`[R, N]` lower and upper ends at every look at `[R, N]` values: the same sum as one by one, all runs at once."""
    n = np.arange(1, draws.shape[1] + 1)
    mean = draws.cumsum(axis=1) / n
    variance = (
        np.maximum(draws**2 @ np.triu(np.ones((draws.shape[1],) * 2)) / n - mean**2, 0.0) * n / np.maximum(n - 1, 1)
    )
    t = np.array([_half_width_of_one(int(k), alpha) if k >= first else math.inf for k in n])
    radius = t * np.sqrt(np.maximum(variance, 1e-300) / n)
    return mean - radius, mean + radius


def _half_width_of_one(n: int, alpha: float) -> float:
    """What `t` the sequence takes at `n`, from values of deviation 1."""
    values = np.zeros(n)
    values[0], values[1] = 1.0, -1.0
    bounds = confidence_sequence(values * math.sqrt((n - 1) / 2.0), alpha, 0.0)
    return bounds.high * math.sqrt(n)


@pytest.mark.parametrize("shape", ["normal", "skewed", "counts"])
def test_the_true_mean_is_outside_at_any_of_many_looks_no_more_often_than_alpha(shape: str) -> None:
    rng, runs, n, alpha = np.random.default_rng(0), 2000, 80, 0.1
    if shape == "normal":
        draws = rng.normal(0.3, 2.0, (runs, n))
    elif shape == "skewed":  # as the difference of two bills, now and then spoilt by a burst on one side
        draws = 0.3 + rng.normal(0.0, 1.0, (runs, n)) + rng.exponential(0.5, (runs, n)) - 0.5
    else:  # attainment of two times 200 requests that mostly meet their target
        draws = 0.3 + (rng.binomial(200, 0.97, (runs, n)) - rng.binomial(200, 0.97, (runs, n))) / 200.0
    low, high = looks(draws, alpha)
    missed = ((low > 0.3) | (high < 0.3)).any(axis=1).mean()
    assert missed <= alpha + 2.0 * math.sqrt(alpha * (1 - alpha) / runs)


def test_an_interval_for_one_look_would_be_wrong_far_more_often() -> None:
    rng, runs, n = np.random.default_rng(1), 2000, 80
    draws = rng.normal(0.0, 1.0, (runs, n))
    k = np.arange(6, n + 1)
    mean = draws.cumsum(axis=1)[:, 5:] / k
    fixed = (np.abs(mean) > 1.645 / np.sqrt(k)).any(axis=1).mean()  # 90 % at a single look, of known deviation
    low, high = looks(draws, 0.1)
    always = ((low > 0.0) | (high < 0.0)).any(axis=1).mean()
    assert fixed > 0.3
    assert always < 0.1


def test_it_closes_in_on_the_mean() -> None:
    draws = np.random.default_rng(2).normal(1.0, 0.5, 400)
    widths = [confidence_sequence(draws[:n], 0.1, 0.0).high - draws[:n].mean() for n in (10, 50, 400)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.1


def test_the_ends_are_where_the_bayes_factor_is_one_over_alpha() -> None:
    values, alpha = np.random.default_rng(3).normal(0.0, 1.0, 12), 0.05
    bounds = confidence_sequence(values, alpha, 0.0)
    for end in (bounds.low, bounds.high):
        n, spread = len(values), 1.0 + len(values) * PRIOR_VARIANCE
        t2 = n * (values.mean() - end) ** 2 / values.var(ddof=1) / (n - 1)
        factor = spread**-0.5 * ((1.0 + t2) / (1.0 + t2 / spread)) ** (n / 2.0)
        assert factor == pytest.approx(1.0 / alpha)


def test_nothing_is_known_of_a_value_or_of_very_few() -> None:
    for values in ([], [1.0], [1.0, 2.0]):
        bounds = confidence_sequence(np.array(values), 0.05, 0.1)
        assert (bounds.low, bounds.high) == (-math.inf, math.inf)
        assert bounds.as_json()["low"] is None


def test_values_that_happen_to_be_alike_are_not_known_to_the_last_digit() -> None:
    bounds = confidence_sequence(np.zeros(20), 0.1, 0.01)
    assert 0.002 < bounds.high < 0.02
