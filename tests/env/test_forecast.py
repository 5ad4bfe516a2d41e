"""The forecast looks at the past only, tells noise from a new level, follows a rush and never promises less than 0."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env import forecast
from poolpilot.env.contract import FORECAST_HORIZON_S, Snapshot
from poolpilot.env.forecast import ForecastState

MOST = Snapshot.arrival_rate_per_s.high
KNOWN = st.floats(0, 1e4) | st.just(0.0)
NO_RATE = st.sampled_from([float("nan"), float("inf"), -1.0, 2 * MOST])
RATES = st.lists(KNOWN | NO_RATE, min_size=1, max_size=30)
TICKS = st.floats(1e-3, 1e6)


def seen(rates: list[float], tick_s: float = 10.0) -> ForecastState:
    """What is remembered of one class after these rates."""
    state = forecast.start(1)
    for rate in rates:
        state = forecast.observe(state, np.array([rate]), tick_s)
    return state


def after(rates: list[float], tick_s: float = 10.0) -> np.ndarray:
    """`[H]` forecast of one class after these rates."""
    return forecast.predict(seen(rates, tick_s))[0]


def drawn(per_s: np.ndarray, seed: int, burst: int = 1, tick_s: float = 10.0) -> list[float]:
    """Rates as they are seen when requests come at random, `burst` at a time, at these true rates."""
    counts = np.random.default_rng(seed).poisson(per_s * tick_s / burst)
    rates: list[float] = (counts * burst / tick_s).tolist()
    return rates


def same(a: ForecastState, b: ForecastState) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=True) for f in fields(a))


def test_nothing_seen_forecasts_nothing() -> None:
    assert np.isnan(forecast.predict(forecast.start(2, 3))).all()
    assert forecast.predict(forecast.start(2, 3)).shape == (2, 3, len(FORECAST_HORIZON_S))


@settings(deadline=None)
@given(st.floats(0, 1e6), st.integers(1, 50), st.floats(0.1, 1e4))
def test_a_constant_rate_forecasts_itself(rate: float, ticks: int, tick_s: float) -> None:
    assert after([rate] * ticks, tick_s) == pytest.approx([rate] * len(FORECAST_HORIZON_S))


@settings(deadline=None)
@given(st.lists(st.tuples(KNOWN | NO_RATE, TICKS), min_size=1, max_size=30))
def test_whatever_is_seen_a_forecast_is_finite_and_never_negative(ticks: list[tuple[float, float]]) -> None:
    state = forecast.start(1)
    for rate, tick_s in ticks:
        state = forecast.observe(state, np.array([rate]), tick_s)
    ahead = forecast.predict(state)
    known = [rate for rate, _ in ticks if 0 <= rate <= MOST]
    assert np.isfinite(ahead).all() == bool(known)
    assert np.isnan(ahead).all() == (not known)
    assert known == [] or (ahead >= 0).all()


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=30))
def test_levels_stay_within_what_was_seen_and_variances_are_variances(rates: list[float]) -> None:
    state = seen(rates)
    steady = state.level_per_s[0, :-1]
    assert (steady >= min(rates) - 1e-6).all()
    assert (steady <= max(rates) + 1e-6).all()
    assert (state.level_var > 0).all()
    assert (state.slope_var >= 0).all()
    assert (state.cross_var**2 <= state.level_var * state.slope_var * (1 + 1e-6)).all()
    assert state.log_weight.max() == 0


@settings(deadline=None)
@given(RATES, st.integers(0, 29), NO_RATE)
def test_a_rate_that_is_unknown_or_cannot_be_changes_nothing(rates: list[float], place: int, no_rate: float) -> None:
    assert same(seen(rates), seen([*rates[:place], no_rate, *rates[place:]]))


@pytest.mark.parametrize("elapsed_s", [0.0, -3600.0, float("nan")], ids=["no time", "a clock put back", "unknown"])
def test_a_tick_of_no_length_changes_nothing(elapsed_s: float) -> None:
    state = seen([5.0, 6.0])
    assert forecast.observe(state, np.array([9.0]), elapsed_s) is state


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=12), st.lists(st.floats(0, 1e4), min_size=1, max_size=12))
def test_only_the_past_counts(past: list[float], future: list[float]) -> None:
    """Whatever comes later, what was forecast at a moment stays as it was, and the old state is left alone."""
    state = seen(past)
    before = forecast.predict(state)
    for rate in future:
        forecast.observe(state, np.array([rate]), 10.0)
    assert np.array_equal(forecast.predict(state), before)
    assert same(state, seen(past))


def test_many_classes_are_forecast_as_each_alone() -> None:
    rates = np.random.default_rng(0).uniform(0, 50, (40, 4, 3))
    rates[3:6, 1, 1] = np.nan
    rates[:7, 2, 0] = np.nan
    state = forecast.start(4, 3)
    for tick in rates:
        state = forecast.observe(state, tick, 10.0)
    together = forecast.predict(state)
    for b in range(4):
        for c in range(3):
            assert np.array_equal(together[b, c], after(rates[:, b, c].tolist()))


def test_what_is_forgotten_begins_anew_and_the_rest_goes_on() -> None:
    rates = np.random.default_rng(1).uniform(0, 50, (20, 3, 2))
    state, fresh = forecast.start(3, 2), forecast.start(3, 2)
    for tick in rates[:10]:
        state = forecast.observe(state, tick, 10.0)
    kept = forecast.forget(state, np.array([1]))
    assert np.isfinite(forecast.predict(state)).all()
    assert np.isnan(forecast.predict(kept)[1]).all()
    for tick in rates[10:]:
        state, kept, fresh = (forecast.observe(s, tick, 10.0) for s in (state, kept, fresh))
    assert np.array_equal(forecast.predict(kept)[1], forecast.predict(fresh)[1])
    assert np.array_equal(forecast.predict(kept)[[0, 2]], forecast.predict(state)[[0, 2]])


def test_the_memory_is_long_for_few_requests_and_short_for_many() -> None:
    """After the same noise, one tick that is a tenth above moves the forecast of a busy class further."""

    def moved(per_s: float) -> float:
        rates = drawn(np.full(360, per_s), seed=0)
        before = after(rates)[0]
        return float((after([*rates, 1.1 * before])[0] - before) / (0.1 * before))

    few, some, many = moved(0.5), moved(5.0), moved(100.0)
    assert 0 < few < some < many < 1


def test_bursts_are_told_from_a_new_level() -> None:
    """Requests that come by the dozen are noisier, so that one loud tick means less."""

    def moved(burst: int) -> float:
        rates = drawn(np.full(360, 10.0), 0, burst)
        return after([*rates, 14.0])[0] - after(rates)[0]

    assert 0 < moved(12) < 0.5 * moved(1)


@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (0.05, 1.0), (5.0, 25.0), (20.0, 100.0), (25.0, 5.0)])
def test_a_new_level_is_believed_within_three_ticks(low: float, high: float) -> None:
    for seed in range(5):
        rates = drawn(np.repeat([low, high], [360, 3]), seed)
        assert after(rates)[0] == pytest.approx(np.mean(rates[-3:]), rel=0.3), seed


@pytest.mark.parametrize("quiet_ticks", [6, 180])
@pytest.mark.parametrize("rate", [3.0, 20.0, 100.0])
def test_a_rush_is_seen_coming_better_than_by_its_last_minute(rate: float, quiet_ticks: int) -> None:
    """Five-fold within three and a half minutes: the error a minute ahead, while it grows, against the last minute's."""
    true = rate * np.concatenate([np.full(quiet_ticks, 0.5), np.linspace(0.5, 2.6, 21), np.full(6, 2.6)])
    ours, naive = [], []
    for seed in range(5):
        rates = drawn(true, seed)
        for now in range(quiet_ticks + 8, quiet_ticks + 21):
            coming = true[now : now + 6].mean()
            ours.append(abs(after(rates[:now])[0] - coming) / coming)
            naive.append(abs(np.mean(rates[now - 6 : now]) - coming) / coming)
    assert np.mean(ours) < 0.75 * np.mean(naive)


def test_a_rush_is_not_believed_to_go_on_for_ever() -> None:
    rates = [*np.full(60, 10.0), *np.linspace(10.0, 40.0, 20)]
    ahead = after([float(rate) for rate in rates])
    assert ahead[0] > 40.0
    assert ahead.max() < 2 * 40.0
    assert (np.diff(ahead[2:]) <= 0).all()


def test_a_long_gap_gives_way_to_what_is_seen_after_it() -> None:
    state = seen(drawn(np.full(360, 5.0), 0))
    state = forecast.observe(state, np.array([12.0]), 7200.0)
    assert forecast.predict(state)[0] == pytest.approx([12.0] * len(FORECAST_HORIZON_S), rel=0.05)
