"""The search for the price of a miss at which a policy holds its targets."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.training.criterion import HELD, Outcome, loss
from poolpilot.training.miss_price import PRICES, settle


def frontier(shortfall: Callable[[float], float]) -> Callable[[Sequence[float]], list[Outcome]]:
    """A made-up policy: the higher the price, the higher the bill."""
    return lambda prices: [Outcome(bill_ratio=1.0 + 0.1 * p, shortfall=shortfall(p)) for p in prices]


@given(st.floats(0.035, 1.99))
def test_it_finds_where_a_monotone_frontier_begins_to_hold(threshold: float) -> None:
    settled = settle(frontier(lambda p: 0.0 if p >= threshold else 0.02), halvings=6)
    assert settled.monotone
    assert settled.chosen.held
    # The grid doubles or more; six halvings leave a 64th of that on the logarithmic scale.
    assert threshold <= settled.chosen.miss_price <= threshold * 2.2 ** (1.0 / 32.0)
    assert [point.miss_price for point in settled.points] == sorted(point.miss_price for point in settled.points)
    assert len(settled.points) == len(PRICES) + 6


def test_a_shortfall_that_counts_as_held_is_held() -> None:
    settled = settle(frontier(lambda p: HELD if p >= 0.5 else HELD * 1.01), halvings=0)
    assert settled.chosen.miss_price == 0.5


def test_the_cheapest_price_is_enough_where_everything_holds() -> None:
    settled = settle(frontier(lambda _: 0.0))
    assert settled.chosen.miss_price == min(PRICES)
    assert len(settled.points) == len(PRICES)


def test_where_nothing_holds_the_least_loss_is_taken() -> None:
    settled = settle(frontier(lambda p: 0.05 / (1.0 + p)))
    assert not settled.chosen.held
    assert loss(settled.chosen.outcome) == min(loss(point.outcome) for point in settled.points)
    assert settled.chosen.miss_price == max(PRICES)


def test_a_price_that_holds_below_one_that_does_not_is_luck() -> None:
    """A dent in the frontier: nothing below it is trusted, and the result says that it is not monotone."""
    settled = settle(frontier(lambda p: 0.02 if p < 0.1 or p == 0.5 else 0.0), halvings=2)
    assert not settled.monotone
    assert settled.chosen.miss_price > 0.5
    assert settled.chosen.held


def test_the_table_says_for_every_price_what_came_of_it() -> None:
    settled = settle(frontier(lambda p: 0.0 if p >= 0.4 else 0.02), halvings=1)
    table = settled.table()
    assert len(table) == len(PRICES) + 1
    first = table[0]
    assert first["miss_price"] == min(PRICES)
    assert first["shortfall"] == pytest.approx(0.02)
    assert first["held"] is False
    assert first["loss"] == pytest.approx(first["bill_ratio"] + 40.0 * (0.02 - HELD))
