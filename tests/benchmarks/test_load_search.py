"""The search for the highest load ends near it, whatever it is, and by no single moment of bad luck."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.benchmarks.load_search import (
    FINE_ENOUGH,
    LATE_S,
    MOST_SLIPPED_FRAC,
    TRIES,
    Step,
    following,
    highest_carried,
    piled_up,
    slipped_frac,
)

FIRST_PER_S = 4.0


def searched(limit_per_s: float, bad_luck: int | None = None) -> list[Step]:
    """Every step on a machine that carries so much; step `bad_luck` fails whatever its rate."""
    steps: list[Step] = []
    while (rate_per_s := following(steps, FIRST_PER_S)) is not None:
        assert len(steps) < 60
        carried = rate_per_s <= limit_per_s and len(steps) != bad_luck
        steps.append(Step(rate_per_s, 0.0 if carried else 0.5, 0))
    return steps


@given(st.floats(5.0, 4000.0), st.none() | st.integers(0, 20))
def test_what_it_finds_is_just_below_what_is_too_much(limit_per_s: float, bad_luck: int | None) -> None:
    steps = searched(limit_per_s, bad_luck)
    found = highest_carried(steps)
    assert found <= limit_per_s < FINE_ENOUGH * found
    assert len(steps) < 25


def test_a_machine_that_carries_nothing_is_not_searched_for_ever() -> None:
    steps = searched(0.0)
    assert highest_carried(steps) == 0.0
    assert len(steps) == 2 * TRIES


@pytest.mark.parametrize(
    ("step", "carried"),
    [
        (Step(8.0, MOST_SLIPPED_FRAC, 0), True),
        (Step(8.0, MOST_SLIPPED_FRAC + 0.01, 0), False),
        (Step(8.0, 0.0, 1), False),
        (Step(8.0, 0.0, 0, piled_up=True), False),
    ],
    ids=["on time", "late", "not served", "piling up"],
)
def test_what_counts_as_carried(step: Step, carried: bool) -> None:
    assert step.carried is carried


def test_what_slipped_is_told_from_what_was_a_little_late() -> None:
    due_s = np.arange(4.0)
    assert slipped_frac(due_s, due_s + np.array([0.0, LATE_S / 2, LATE_S, 10.0])) == 0.5
    assert slipped_frac(due_s[:0], due_s[:0]) == 0.0


@pytest.mark.parametrize(("answered_s", "piles"), [(0.5, False), (np.inf, True)], ids=["keeps up", "answers nothing"])
def test_requests_pile_up_when_they_are_not_answered_as_fast_as_they_come(answered_s: float, piles: bool) -> None:
    sent_s = np.linspace(0.0, 20.0, 400)
    assert piled_up(sent_s, sent_s + answered_s) is piles
    assert not piled_up(sent_s[:0], sent_s[:0])
