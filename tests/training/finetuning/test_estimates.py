import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.training.finetuning.estimates import blocks, bootstrap, mean_of, rate_of


@given(st.integers(1, 20_000))
def test_blocks_are_consecutive_and_none_is_a_rest(n_ticks: int) -> None:
    block = blocks(n_ticks)
    assert (np.diff(block) >= 0).all()
    assert (np.diff(block) <= 1).all()
    sizes = np.bincount(block)
    assert sizes.min() == sizes[0] or len(sizes) == 1
    assert sizes.max() < 2 * sizes.min() or len(sizes) == 1


def test_a_bootstrapped_ratio_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(5), 0
    for _ in range(200):
        under = rng.gamma(4.0, 1.0, 14)
        over = 3.0 * under * rng.lognormal(-0.02, 0.2, 14)
        found = bootstrap(lambda w, a=over, b=under: (w @ a) / (w @ b), 14, rng)  # type: ignore[misc]
        assert found is not None
        held += found.holds(3.0)
    assert 180 <= held <= 199


def test_few_blocks_give_no_interval() -> None:
    assert bootstrap(lambda w: w.sum(axis=1), 4, np.random.default_rng(0)) is None


@settings(max_examples=30)
@given(st.floats(0.1, 5.0), st.integers(0, 10_000))
def test_rates_of_events_hold_the_truth_mostly(rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = [rate_of(int(n), 10.0) for n in rng.poisson(rate * 10.0, 200)]
    held = sum(own.holds(rate) for own in found if own is not None)
    assert held >= 180


def test_no_events_still_tell_how_many_there_may_be() -> None:
    found = rate_of(0, 24.0)
    assert found is not None
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(-math.log(0.025) / 24.0)
    assert rate_of(3, 0.0) is None


def test_one_start_is_as_uncertain_as_starts_are_believed_to_be() -> None:
    one = mean_of(np.array([90.0]), np.array([1.0]), 0.2, 45.0)
    many = mean_of(np.full(20, 90.0) * np.linspace(0.9, 1.1, 20), np.ones(20), 0.2, 45.0)
    assert one is not None
    assert many is not None
    assert one.low < 60.0
    assert one.high > 135.0
    assert 85 < many.low < 90 < many.high < 95
    assert many.differs
    assert mean_of(np.zeros(0), np.zeros(0), 0.2, 45.0) is None
