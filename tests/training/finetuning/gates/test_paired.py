"""Two policies on the same worlds: what is chance, and what is not."""

import numpy as np
import pytest

from poolpilot.training.criterion import Outcome
from poolpilot.training.finetuning.gates.paired import Pairs


def pairs(differences: list[list[float]], base: float = 1.0) -> Pairs:
    """Bills that differ by so much in each scenario and seed; everything held."""
    names = tuple(str(s) for s in range(len(differences)))
    candidate = tuple(tuple(Outcome(base + own, 0.0) for own in row) for row in differences)
    return Pairs(names, candidate, tuple(tuple(Outcome(base, 0.0) for _ in row) for row in differences))


def test_scenarios_that_differ_are_chance_for_a_sample_of_them_and_none_for_a_suite() -> None:
    unlike = pairs([[0.2] * 6, [-0.2] * 6, [0.0] * 6])
    sample, suite = unlike.interval(), unlike.interval_over_seeds()
    assert sample.high - sample.low > 0.2
    assert (suite.low, suite.mean, suite.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_seeds_that_differ_are_chance_and_more_of_them_tell_more() -> None:
    rng = np.random.default_rng(0)
    few, many = (pairs((0.1 * rng.standard_normal((5, k))).tolist()).interval_over_seeds() for k in (4, 64))
    assert few.low < few.mean < few.high
    assert many.high - many.low < 0.6 * (few.high - few.low)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(5 * 64), rel=0.25)


def test_the_incumbents_losses_are_its_own() -> None:
    assert (pairs([[0.1, 0.3]], base=2.0).incumbent_losses == 2.0).all()
