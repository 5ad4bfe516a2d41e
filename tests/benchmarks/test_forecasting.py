"""Forecasts are compared fairly: none sees the future, and the errors are those that the page says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from poolpilot.benchmarks.forecasting.__main__ import main
from poolpilot.benchmarks.forecasting.methods import (
    HORIZONS_MIN,
    SHIPPED,
    Method,
    all_methods,
    last_minute,
    minutes_of,
    same_minute_yesterday,
    shipped,
)
from poolpilot.benchmarks.forecasting.page import sections
from poolpilot.benchmarks.forecasting.scoring import named, ratio, score_all
from poolpilot.benchmarks.forecasting.series import DAY, MINUTE, Series, recorded_hours, rushes
from poolpilot.benchmarks.report import markdown
from poolpilot.env.contract import FloatArray
from poolpilot.env.workload.clients import rates_of_clients

METHODS = list(all_methods())


def made(minutes: int, n_series: int = 2, seed: int = 0) -> FloatArray:
    """`[T, S]` rates that wander, with noise."""
    rng = np.random.default_rng(seed)
    level = 5.0 * np.exp(np.cumsum(rng.normal(0.0, 0.03, (minutes * MINUTE, n_series)), axis=0))
    return rng.poisson(level * 10.0) / 10.0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_method_sees_the_future(method: Method) -> None:
    rates = made(60)
    other = np.concatenate([rates[: 40 * MINUTE], 3.0 + 2.0 * made(20, seed=1)])
    ours, theirs = method.run(rates), method.run(other)
    assert ours.shape == (61, 2, len(method.settings), len(HORIZONS_MIN))
    assert np.isnan(ours[0]).all()
    assert np.isfinite(ours[1:]).all()
    assert (ours[1:] >= 0).all()
    np.testing.assert_array_equal(ours[:41], theirs[:41])
    assert (ours[60] != theirs[60]).any()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_gap_keeps_what_was_known(method: Method) -> None:
    rates = made(30)
    rates[10 * MINUTE : 20 * MINUTE] = np.nan
    ahead = method.run(rates)
    assert np.isfinite(ahead[1:]).all()
    np.testing.assert_allclose(ahead[20], ahead[10], rtol=0.3)


def test_the_naive_forecasts_are_the_last_minute_and_the_same_minute_yesterday() -> None:
    rates = made(2 * DAY // MINUTE, 1)
    minutes = minutes_of(rates)[:, 0]
    yesterday, last, day = same_minute_yesterday(rates), last_minute(rates), DAY // MINUTE
    for now in (1, 600, day - 1, day, day + 700, 2 * day):
        assert last[now, 0, 0].tolist() == [minutes[now - 1]] * 3
        for k, horizon in enumerate(HORIZONS_MIN):
            before = now + horizon - 1 - day
            expected = minutes[before] if before >= 0 else minutes[now - 1]
            assert yesterday[now, 0, 0, k] == expected


def a_comparison() -> list[Series]:
    rates = made(240)
    return [Series("tuned", rates[:, 0], 120 * MINUTE, 30 * MINUTE), Series("unseen", rates[: 120 * MINUTE, 1], 360)]


@pytest.fixture(scope="module")
def scores() -> list:  # type: ignore[type-arg]
    return score_all(a_comparison())


def test_mase_is_the_error_over_that_of_the_last_minute_before(scores: list) -> None:  # type: ignore[type-arg]
    series = a_comparison()[0]
    minutes = minutes_of(series.rate_per_s[:, None])[:, 0]
    scale = np.abs(np.diff(minutes[:120])).mean()
    score = named(scores, "last minute")
    for k, horizon in enumerate(HORIZONS_MIN):
        errors = [abs(minutes[now - 1] - minutes[now + horizon - 1]) for now in range(120, 240 - horizon + 1)]
        assert score.mase[0, k] == pytest.approx(np.mean(errors) / scale)


def test_a_setting_is_chosen_where_it_may_be_and_every_method_has_its_row(scores: list) -> None:  # type: ignore[type-arg]
    library = 2 * bool(importlib.util.find_spec("statsmodels"))
    assert len(scores) == len(METHODS) + library
    assert scores[-1].name == SHIPPED
    for method in METHODS:
        assert named(scores, method.name).setting in method.settings
    assert named(scores, "exponential smoothing").mase.mean() < named(scores, "last minute").mase.mean()
    text = markdown(list(sections(a_comparison(), scores)))
    assert all(f"| {score.name} |" in text for score in scores)
    assert all(f"| {series.name} |" in text for series in a_comparison())


def test_a_ratio_has_an_interval_that_holds_it() -> None:
    theirs = np.abs(np.random.default_rng(0).normal(size=600))
    assert ratio(0.5 * theirs, theirs) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = ratio(np.abs(np.random.default_rng(1).normal(size=600)), theirs)
    assert low < mean < high
    assert low < 1 < high


def test_a_rush_grows_five_fold() -> None:
    rush = rushes(100.0, 50)
    assert rush[: 30 * MINUTE].mean() == pytest.approx(50.0, rel=0.02)
    assert rush[-MINUTE:].mean() == pytest.approx(260.0, rel=0.02)


def test_a_folder_without_traces_is_refused_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--data", str(tmp_path)])
    assert done.exit_code == 1
    assert "servegen_m_small_clients.parquet: no such file" in done.stderr


def of_seasonal_naive(rates: FloatArray, first: int) -> FloatArray:
    """`[H]` the shipped forecast's error as a share of the seasonal naive one's, forecasts from minute `first` on."""
    minutes = minutes_of(rates[:, None])[:, 0]
    ours, naive = shipped()(rates[:, None])[:, 0, 0], same_minute_yesterday(rates[:, None])[:, 0, 0]
    shares = []
    for k, horizon in enumerate(HORIZONS_MIN):
        now = np.arange(first, len(minutes) - horizon + 1)
        true = minutes[now + horizon - 1]
        shares.append(np.nanmean(np.abs(ours[now, k] - true)) / np.nanmean(np.abs(naive[now, k] - true)))
    return np.array(shares)


@pytest.mark.shared_data
@pytest.mark.parametrize(("service", "by"), [("m_small", 0.25), ("m_large", 0.5)])
def test_the_shipped_forecast_beats_seasonal_naive_where_a_yesterday_is_known(
    shared_data: Path, service: str, by: float
) -> None:
    path = shared_data / "traces" / f"servegen_{service}_clients.parquet"
    rates = rates_of_clients(path, 5.0, 10.0, seed=0)[: 2 * DAY]
    assert (of_seasonal_naive(rates, DAY // MINUTE) < 1.0 - by).all()


@pytest.mark.shared_data
def test_the_shipped_forecast_beats_the_naive_one_on_recorded_hours(shared_data: Path) -> None:
    """Of which no yesterday is known. One hour alone has too few minutes to tell; none may be lost by more than that."""
    shares = [of_seasonal_naive(hour.rate_per_s, 15) for hour in recorded_hours(shared_data / "traces")]
    assert (np.exp(np.log(shares).mean(axis=0)) < 0.95).all()
    assert np.max(shares) < 1.01
