"""Multipliers follow the misses, slowly and within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.training.multipliers import HIGHEST, KINDS, LOWEST, STEP, Multipliers, of_kind


@given(st.lists(st.tuples(*[st.floats(0.0, 1e6) | st.just(float("nan")) for _ in KINDS]), max_size=60))
def test_they_stay_in_bounds_and_move_by_no_more_than_a_step(misses: list[tuple[float, ...]]) -> None:
    multipliers = Multipliers()
    for missed in misses:
        before = multipliers.values.copy()
        multipliers.update(np.array(missed))
        assert ((multipliers.values >= LOWEST) & (multipliers.values <= HIGHEST)).all()
        assert (np.abs(np.log(multipliers.values / before)) <= STEP + 1e-12).all()
        unasked = np.isnan(missed)
        assert (multipliers.values[unasked] == before[unasked]).all()


def test_they_rise_where_more_is_missed_than_is_allowed_and_fall_where_less_is() -> None:
    multipliers = Multipliers()
    start = multipliers.values.copy()
    for _ in range(30):
        multipliers.update(np.array([1.5, 0.0]))
    assert multipliers.values[0] > start[0]
    assert multipliers.values[1] < start[1]


def test_one_bad_rollout_among_good_ones_is_damped() -> None:
    """A plain update would move a whole step at once; the smoothed error moves a fifth of one."""
    multipliers = Multipliers()
    before = multipliers.values[0]
    multipliers.update(np.array([50.0, np.nan]))
    assert 0.0 < np.log(multipliers.values[0] / before) <= 0.25 * STEP


def test_misses_that_answer_late_do_not_swing_it_from_end_to_end() -> None:
    """Misses are what the multiplier of ten updates ago makes them; 0.5 is where they meet the allowance."""
    multipliers, past = Multipliers(), [0.3] * 10
    seen = []
    for _ in range(600):
        missed = float(np.clip(0.5 / past[-10], 0.0, 20.0))
        multipliers.update(np.array([missed, np.nan]))
        past.append(float(multipliers.values[0]))
        seen.append(past[-1])
    late = np.array(seen[-200:])
    assert late.max() / late.min() < 3.0
    assert late.mean() == pytest.approx(0.5, rel=0.35)


def test_each_class_has_the_price_of_its_kind() -> None:
    multipliers = Multipliers(values=np.array([0.4, 0.1]))
    deferrable = np.array([[False, True, False]])
    assert multipliers.prices(deferrable).tolist() == [[0.4, 0.1, 0.4]]
    assert of_kind(deferrable).tolist() == [[[True, False, True], [False, True, False]]]


def test_they_survive_json() -> None:
    multipliers = Multipliers()
    multipliers.update(np.array([3.0, 0.2]))
    again = Multipliers.from_json(multipliers.as_json())
    assert again.values.tolist() == multipliers.values.tolist()
    assert again.error.tolist() == multipliers.error.tolist()


@pytest.mark.parametrize(
    "kept",
    [
        {"values": [0.3], "error": [0.0]},
        {"values": [0.3, 99.0], "error": [0.0, 0.0]},
        {"values": [0.3, float("nan")], "error": [0.0, 0.0]},
        {"values": [0.3, 0.3], "error": [0.0, -2.0]},
    ],
    ids=["one value", "out of bounds", "not a number", "an impossible error"],
)
def test_what_cannot_be_is_refused(kept: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="multipliers"):
        Multipliers.from_json(kept)
