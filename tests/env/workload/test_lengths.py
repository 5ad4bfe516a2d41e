"""Log-normal parameters give back the figures they were found from."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats

from poolpilot.env.workload.lengths import clipped_lognormal_mean, lognormal_from_mean_p95


@given(st.floats(-2, 12), st.floats(0.05, 3), st.floats(0.5, 1000), st.floats(1.1, 1e5))
def test_the_clipped_mean_is_the_integral(mu: float, sigma: float, low: float, ratio: float) -> None:
    high = low * ratio
    shape = stats.norm(mu, sigma)
    kinks = [math.log(low), math.log(high)]
    between, _ = integrate.quad(lambda y: math.exp(y) * shape.pdf(y), *kinks, points=[np.clip(mu, *kinks)], limit=200)
    expected = low * shape.cdf(kinks[0]) + between + high * shape.sf(kinks[1])
    assert clipped_lognormal_mean(mu, sigma, low, high) == pytest.approx(expected, rel=1e-6)


@given(st.floats(2, 1e5), st.floats(1.05, 3.5), st.floats(1.01, 1000))
def test_mean_and_p95_are_met(mean: float, spread: float, head_room: float) -> None:
    p95, low = mean * spread, 1.0
    high = p95 * head_room
    try:
        mu, sigma = lognormal_from_mean_p95(mean, p95, low, high)
    except ValueError:
        # Only a low that eats into the body, or a high near p95, can make it impossible.
        assume(False)
    assert clipped_lognormal_mean(mu, sigma, low, high) == pytest.approx(mean, rel=1e-6)
    assert stats.lognorm(sigma, scale=math.exp(mu)).ppf(0.95) == pytest.approx(p95, rel=1e-6)


def test_without_bounds_it_is_the_textbook_answer() -> None:
    sigma = 0.8
    mean, p95 = math.exp(5.0 + sigma**2 / 2), math.exp(5.0 + 1.6448536269514722 * sigma)
    assert lognormal_from_mean_p95(mean, p95, 1e-9, 1e12) == pytest.approx((5.0, sigma), rel=1e-6)
