"""What would be up had the rule decided all along: what it wanted through a whole cold start."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.shadow import Shadow, found, up, wished

COLD_START_S = np.array([60.0, 0.0])


def after(wishes: list[tuple[float, list[float]]]) -> Shadow:
    shadow = found(np.array([2.0, 2.0]))
    for now_s, wanted in wishes:
        shadow = wished(shadow, now_s, np.array(wanted), COLD_START_S)
    return shadow


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ([(0.0, [5.0, 5.0])], [2.0, 5.0]),
        ([(0.0, [5.0, 5.0]), (59.0, [5.0, 5.0])], [2.0, 5.0]),
        ([(0.0, [5.0, 5.0]), (60.0, [5.0, 5.0])], [5.0, 5.0]),
        ([(0.0, [5.0, 5.0]), (30.0, [1.0, 1.0]), (60.0, [5.0, 5.0])], [1.0, 5.0]),
        ([(0.0, [5.0, 5.0]), (30.0, [1.0, 1.0]), (90.0, [5.0, 5.0])], [1.0, 5.0]),
        ([(0.0, [5.0, 5.0]), (30.0, [1.0, 1.0]), (90.0, [5.0, 5.0]), (151.0, [5.0, 5.0])], [5.0, 5.0]),
        ([(0.0, [5.0, 5.0]), (60.0, [0.0, 0.0])], [0.0, 0.0]),
    ],
    ids=["just asked", "not yet", "there", "given up between", "asked anew", "there again", "let go at once"],
)
def test_a_replica_is_up_once_it_was_wanted_for_a_cold_start(
    wishes: list[tuple[float, list[float]]], expected: list[float]
) -> None:
    assert up(after(wishes), wishes[-1][0], COLD_START_S).tolist() == expected


@given(st.lists(st.tuples(st.floats(1.0, 40.0), st.integers(0, 9)), min_size=1, max_size=40))
def test_forgetting_old_wishes_changes_nothing(steps: list[tuple[float, int]]) -> None:
    shadow, now_s = found(np.array([2.0, 2.0])), 0.0
    all_times, all_wishes = [-np.inf], [2.0]
    for gap_s, wanted in steps:
        now_s += gap_s
        shadow = wished(shadow, now_s, np.full(2, float(wanted)), COLD_START_S)
        all_times.append(now_s)
        all_wishes.append(float(wanted))
        ends = [*all_times[1:], np.inf]
        expected = min(w for w, end in zip(all_wishes, ends, strict=True) if end > now_s - 60.0)
        assert up(shadow, now_s, COLD_START_S).tolist() == [expected, float(wanted)]
    assert len(shadow.times_s) <= 62
