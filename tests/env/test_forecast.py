"""The forecast looks at the past only, follows a trend and never promises less than nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env import forecast
from poolpilot.env.contract import FORECAST_HORIZON_S

RATES = st.lists(st.floats(0, 1e4) | st.just(float("nan")), min_size=1, max_size=30)


def after(rates: list[float], tick_s: float = 10.0) -> np.ndarray:
    """`[H]` forecast of one class after these rates."""
    state = forecast.start(1)
    for rate in rates:
        state = forecast.observe(state, np.array([rate]), tick_s)
    return forecast.predict(state)[0]


def test_nothing_seen_forecasts_nothing() -> None:
    assert np.isnan(forecast.predict(forecast.start(2, 3))).all()
    assert forecast.predict(forecast.start(2, 3)).shape == (2, 3, len(FORECAST_HORIZON_S))


@settings(deadline=None)
@given(st.floats(0, 1e6), st.integers(1, 50))
def test_a_constant_rate_forecasts_itself(rate: float, ticks: int) -> None:
    assert after([rate] * ticks) == pytest.approx([rate] * len(FORECAST_HORIZON_S))


@pytest.mark.parametrize("slope", [0.5, -0.5], ids=["rising", "falling"])
def test_a_trend_is_followed_in_its_direction_further_the_further_ahead(slope: float) -> None:
    rates = [100.0 + slope * i for i in range(120)]
    ahead = after(rates)
    assert (np.diff(ahead) * slope > 0).all()
    assert (ahead[-1] - rates[-1]) * slope > 0


def test_a_trend_is_damped() -> None:
    slope_per_s = 0.1
    rates = [100.0 + slope_per_s * 10.0 * i for i in range(200)]
    assert after(rates)[-1] < rates[-1] + slope_per_s * FORECAST_HORIZON_S[-1]


@settings(deadline=None)
@given(RATES)
def test_a_forecast_is_never_negative(rates: list[float]) -> None:
    ahead = after(rates)
    assert (np.isnan(ahead) | (ahead >= 0)).all()
    assert np.isnan(ahead).all() == np.isnan(rates).all()


@settings(deadline=None)
@given(RATES, st.integers(0, 29))
def test_an_unknown_rate_changes_nothing(rates: list[float], place: int) -> None:
    gap = [*rates[:place], float("nan"), *rates[place:]]
    assert np.array_equal(after(rates), after(gap), equal_nan=True)


def test_a_rate_over_no_time_changes_nothing() -> None:
    state = forecast.observe(forecast.start(1), np.array([5.0]), 10.0)
    assert np.array_equal(forecast.predict(forecast.observe(state, np.array([9.0]), 0.0)), forecast.predict(state))


def test_many_classes_are_forecast_as_each_alone() -> None:
    rates = np.random.default_rng(0).uniform(0, 50, (12, 4, 3))
    rates[3:6, 1, 1] = np.nan
    state = forecast.start(4, 3)
    for tick in rates:
        state = forecast.observe(state, tick, 10.0)
    together = forecast.predict(state)
    for b in range(4):
        for c in range(3):
            assert np.array_equal(together[b, c], after(rates[:, b, c].tolist()))


def test_observing_leaves_the_old_state_alone() -> None:
    state = forecast.observe(forecast.start(1), np.array([3.0]), 10.0)
    before = forecast.predict(state)
    forecast.observe(state, np.array([9.0]), 10.0)
    assert np.array_equal(forecast.predict(state), before)
