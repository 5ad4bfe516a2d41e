"""A dearer tick and a missed target are never worth more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.reward import WORST_TICK, reward
from poolpilot.env.window import FINISHED, LOST, MET, empty_tally

COUNT = st.integers(0, 500)


def worth(
    usd: float = 1.0, finished: int = 100, met: int = 100, lost: int = 0, price: float = 1.0, wanted: float = 0.99
) -> float:
    """Of one class at a reference of 1 $ and 100 requests a tick."""
    tally = empty_tally(1)
    tally[0, [FINISHED, MET, LOST]] = [finished, met, lost]
    return float(reward(np.array(usd), tally, np.array([wanted]), np.array(price), np.array(1.0), np.array([100.0])))


@pytest.mark.parametrize(
    ("tick", "expected"),
    [
        ({}, -1.0),
        ({"usd": 0.5}, -0.5),
        ({"met": 99}, -2.0),
        ({"met": 99, "price": 3.0}, -4.0),
        ({"lost": 1}, -2.0),
        ({"met": 0}, -1.0 - WORST_TICK),
        ({"met": 90, "wanted": 0.9}, -2.0),
        ({"usd": 0.0, "finished": 0, "met": 0}, 0.0),
    ],
    ids=["a usual tick", "half the bill", "the whole allowance missed", "at three times the price", "one lost for good",
         "a lost minute is lost", "a larger allowance", "nothing happens"],
)  # fmt: skip
def test_what_a_tick_is_worth(tick: dict[str, float], expected: float) -> None:
    assert worth(**tick) == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), COUNT, COUNT)
def test_a_dearer_tick_is_never_worth_more(usd: float, more: float, finished: int, missed: int) -> None:
    met = max(finished - missed, 0)
    assert worth(usd + more, finished, met) <= worth(usd, finished, met)


@settings(deadline=None)
@given(COUNT, COUNT, COUNT, COUNT, st.floats(0, 3))
def test_a_miss_more_is_never_worth_more(finished: int, missed: int, more: int, lost: int, price: float) -> None:
    met = max(finished - missed, 0)
    best = worth(1.0, finished, met, lost, price)
    assert worth(1.0, finished, max(met - more, 0), lost, price) <= best
    assert worth(1.0, finished, met, lost + more, price) <= best


@settings(deadline=None)
@given(COUNT, COUNT, st.floats(0, 3), st.floats(0, 3))
def test_a_higher_price_of_a_miss_is_never_worth_more(finished: int, missed: int, price: float, more: float) -> None:
    met = max(finished - missed, 0)
    assert worth(1.0, finished, met, 0, price + more) <= worth(1.0, finished, met, 0, price)


def test_a_perfect_target_is_still_a_finite_price() -> None:
    assert worth(met=99, wanted=1.0) == pytest.approx(-1.0 - 10.0)


def test_padding_is_worth_nothing_and_batches_are_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    tally = empty_tally(3, 2)
    tally[..., FINISHED] = rng.integers(50, 100, (3, 2))
    tally[..., MET] = tally[..., FINISHED] - rng.integers(0, 5, (3, 2))
    requests = np.array([[100.0, 50.0], [100.0, 0.0], [80.0, 20.0]])
    bill, price, reference = rng.random(3), rng.random(3), 1.0 + rng.random(3)
    wanted = np.full((3, 2), 0.95)
    together = reward(bill, tally, wanted, price, reference, requests)
    for b in range(3):
        alone = reward(bill[b], tally[b], wanted[b], price[b], reference[b], requests[b])
        assert together[b] == alone
    first_only = reward(bill[1], tally[1, :1], wanted[1, :1], price[1], reference[1], requests[1, :1])
    assert together[1] == first_only
