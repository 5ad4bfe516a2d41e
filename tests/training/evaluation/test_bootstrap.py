"""Intervals hold what they should, are the same each time, and know that runs of one scenario are alike."""

import numpy as np
import pytest

from poolpilot.training.evaluation.bootstrap import (
    BOOTSTRAP_DRAWS,
    bootstrap,
    hierarchical,
    interval,
    resamples,
)


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = bootstrap(rng.normal(3.0, 1.0, 40))
        covered += found.low <= 3.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_bootstrap_is_the_same_each_time_and_knows_certainty() -> None:
    values = np.random.default_rng(1).exponential(2.0, 30)
    assert bootstrap(values) == bootstrap(values)
    width = bootstrap(values).high - bootstrap(values).low
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(len(values)), rel=0.2)
    certain = bootstrap(np.full(7, 4.0))
    assert (certain.mean, certain.low, certain.high) == (4.0, 4.0, 4.0)
    assert BOOTSTRAP_DRAWS >= 1000


def test_scenarios_and_seeds_are_both_drawn_again() -> None:
    """The interval is as wide as the spread between scenarios and that within them say."""
    rng = np.random.default_rng(2)
    covered, widths = 0, []
    for i in range(150):
        values = 5.0 + rng.normal(0.0, 1.0, (12, 1)) + rng.normal(0.0, 0.5, (12, 5))
        found = hierarchical(values, resamples(12, 5, draws=400, seed=i))
        covered += found.low <= 5.0 <= found.high
        widths.append(found.high - found.low)
    assert 0.85 <= covered / 150 <= 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(1.0 / 12 + 0.25 / 60), rel=0.15)


def test_one_scenario_has_the_interval_of_its_seeds() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, (1, 30))
    alone, plain = hierarchical(values, resamples(1, 30)), bootstrap(values[0])
    assert alone.mean == pytest.approx(plain.mean)
    assert alone.high - alone.low == pytest.approx(plain.high - plain.low, rel=0.15)


def test_draws_that_tell_nothing_are_left_out_and_no_end_is_made_up() -> None:
    found = interval(2.0, np.array([1.0, np.nan, 3.0, np.nan]))
    assert (found.mean, found.low, found.high) == (2.0, pytest.approx(1.05), pytest.approx(2.95))
    nothing = interval(2.0, np.full(5, np.nan))
    assert nothing.as_json() == {"mean": 2.0, "low": None, "high": None}


def test_all_policies_meet_the_same_draws() -> None:
    one, other = resamples(4, 3), resamples(4, 3)
    np.testing.assert_array_equal(one.scenario, other.scenario)
    values = np.arange(12.0).reshape(4, 3)
    taken = one.of(values)
    assert taken.shape == (BOOTSTRAP_DRAWS, 4, 3)
    np.testing.assert_array_equal(taken // 3, np.broadcast_to(one.scenario[:, :, None], taken.shape))
