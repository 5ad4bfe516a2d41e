"""A dearer tick and a missed target are never worth more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.reward import CHARGED, HOUR_S, USED, WORST_TICK, allowances_missed, charge, reward
from poolpilot.env.window import FINISHED, LOST, MET, empty_tally

COUNT = st.integers(0, 500)
TICK_S = 10.0


def worth(
    usd: float = 1.0,
    finished: int = 100,
    met: int = 100,
    lost: int = 0,
    price: float = 1.0,
    wanted: float = 0.99,
    used: float = 1.5,
) -> float:
    """Of one class at a reference of 1 $ and 100 requests a tick; by default its allowance is used up."""
    tally = empty_tally(1)
    tally[0, [FINISHED, MET, LOST]] = [finished, met, lost]
    missed = allowances_missed(tally, np.array([wanted]), np.array([100.0]))
    charged, _ = charge(missed, np.array([used]), TICK_S, np.array(0.0))
    return float(reward(np.array(usd), np.array(1.0), charged, np.array(price)))


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
        ({"met": 99, "used": 0.0}, -1.2),
        ({"met": 99, "used": 20.0}, -1.3),
    ],
    ids=["a usual tick", "half the bill", "the whole allowance missed", "at three times the price", "one lost for good",
         "a lost minute is lost", "a larger allowance", "nothing happens", "while the allowance is untouched",
         "far beyond the allowance"],
)  # fmt: skip
def test_what_a_tick_is_worth(tick: dict[str, float], expected: float) -> None:
    assert worth(**tick) == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(0, 6), st.floats(0, WORST_TICK), st.floats(0, WORST_TICK))
def test_missing_more_is_never_charged_less(used: float, missed: float, more: float) -> None:
    at = np.array([used])
    charged = [charge(np.array([m]), at, TICK_S, np.array(0.0))[0][0] for m in (missed, missed + more)]
    assert 0.0 <= charged[0] <= charged[1] + 1e-12


def test_an_hour_at_just_the_allowance_uses_it_up_and_costs_less_than_what_comes_after() -> None:
    used, charged, elapsed_s = np.zeros(1), [], 0.0
    for _ in range(int(2 * HOUR_S / TICK_S)):
        own, used = charge(np.ones(1), used, TICK_S, np.array(elapsed_s))
        charged.append(float(own[0]))
        elapsed_s += TICK_S
        if elapsed_s == HOUR_S:
            assert used[0] == pytest.approx(1.0)
    assert used[0] == pytest.approx(1.0, abs=0.01), "at the allowance's own rate an hour's allowance stays just used up"
    hour = np.array(charged[: int(HOUR_S / TICK_S)])
    assert np.all(np.diff(hour) >= -1e-12)
    assert hour.mean() == pytest.approx(np.trapezoid(CHARGED[:3], USED[:3]), abs=0.01)
    assert np.mean(charged[len(hour) :]) == pytest.approx(1.0, abs=0.02)


def test_misses_are_forgotten_after_an_hour() -> None:
    used, elapsed_s = np.array([2.0]), HOUR_S
    for _ in range(int(HOUR_S / TICK_S)):
        _, used = charge(np.zeros(1), used, TICK_S, np.array(elapsed_s))
        elapsed_s += TICK_S
    assert used[0] == pytest.approx(2.0 / np.e, rel=1e-6)


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
    wanted, used, elapsed_s = np.full((3, 2), 0.95), 2.0 * rng.random((3, 2)), np.array([0.0, 2000.0, 9000.0])
    missed = allowances_missed(tally, wanted, requests)
    charged, after = charge(missed, used, TICK_S, elapsed_s)
    together = reward(bill, reference, charged, price)
    for b in range(3):
        own = allowances_missed(tally[b], wanted[b], requests[b])
        alone, then = charge(own, used[b], TICK_S, elapsed_s[b])
        assert together[b] == reward(bill[b], reference[b], alone, price[b])
        assert np.array_equal(after[b], then)
    assert missed[1, 1] == charged[1, 1] == 0.0, "padding"
