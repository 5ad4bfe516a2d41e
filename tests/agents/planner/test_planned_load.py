"""Plans simulated at the load they were made for reach the wanted attainment.

Each problem is drawn. The plan is held, counts and shares, while Poisson arrivals come at the planned rate without
head-room.
"""

from __future__ import annotations

import pytest

from poolpilot.benchmarks.planned import planned

POINTS = 0.02


@pytest.mark.parametrize("seed", range(10))
def test_a_plan_attains_at_its_load_what_is_wanted(seed: int) -> None:
    """By engines as fast as believed. Each class has 1,600 requests or more in a run of 400 s, and there are two."""
    outcome = planned(seed).outcome
    assert all((own.attainment or 0.0) >= own.wanted - POINTS for own in outcome.classes), outcome.classes


@pytest.mark.parametrize("seed", range(4))
def test_head_room_takes_up_that_engines_are_not_as_fast_as_believed(seed: int) -> None:
    """By up to 15 %, each pool by its own factor."""
    outcome = planned(seed, headroom=1.1, error_frac=0.15).outcome
    assert all((own.attainment or 0.0) >= own.wanted - POINTS for own in outcome.classes), outcome.classes


@pytest.mark.parametrize("seed", [4, 10])
def test_a_plan_for_much_less_than_comes_misses(seed: int) -> None:
    """So that the tests above can fail: these plans are tight, none of them gets by with 35 % more load."""
    assert planned(seed, headroom=0.65).worst < -POINTS
