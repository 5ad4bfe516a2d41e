"""The change of time is exact: the inverse of an integral that an independent quadrature confirms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from poolpilot.env.workload.rates import TOLERANCE, RateCurve, rate_curve
from poolpilot.env.workload.requests import WorkloadError
from poolpilot.env.workload.spec import Bursts, Diurnal, Ramp, RateShape, Steps, Weekly

DURATION_S = 7200.0
EVERYTHING: tuple[RateShape, ...] = (
    Diurnal(period_s=3600, amplitude=1.0, peak_at_s=500),
    Diurnal(period_s=1000, amplitude=0.3),
    Ramp(times_s=(0, 900, 5000), factors=(0, 0, 3)),
    Steps(times_s=(0, 2000, 2500), factors=(1, 0, 2)),
    Bursts(every_s=600, duration_s=100, factor=6),
)


def a_curve(*shapes: RateShape, rate_per_s: float = 2.0, duration_s: float = DURATION_S, seed: int = 0) -> RateCurve:
    rngs = [np.random.default_rng([seed, i]) for i in range(len(shapes))]
    return rate_curve(rate_per_s, shapes, duration_s, rngs)


def rate_at(curve: RateCurve, t_s: float) -> float:
    cell = np.searchsorted(curve.edges_s, [t_s], side="right") - 1
    return float(curve.per_s(np.array([t_s]), np.minimum(cell, len(curve.level_per_s) - 1))[0])


@pytest.mark.parametrize(
    ("shape", "t_s", "factor"),
    [
        (Diurnal(period_s=3600, amplitude=0.4, peak_at_s=600), 600.0, 1.4),
        (Diurnal(period_s=3600, amplitude=0.4, peak_at_s=600), 2400.0, 0.6),
        (Ramp(times_s=(0, 100), factors=(1, 3)), 50.0, 2.0),
        (Ramp(times_s=(0, 100), factors=(1, 3)), 5000.0, 3.0),
        (Steps(times_s=(0, 100), factors=(1, 3)), 99.9, 1.0),
        (Steps(times_s=(0, 100), factors=(1, 3)), 100.0, 3.0),
    ],
    ids=["peak", "trough", "half way up", "held", "before the step", "at the step"],
)
def test_a_shape_multiplies_the_rate(shape: RateShape, t_s: float, factor: float) -> None:
    assert rate_at(a_curve(shape), t_s) == pytest.approx(2.0 * factor)


DAY_S = 86_400.0
DAYS = (1.0, 1.0, 1.0, 1.0, 1.5, 0.5, 0.25)


@pytest.mark.parametrize(
    ("starts_at_s", "t_s", "day"),
    [(0.0, 0.0, 0), (0.0, 6.5 * DAY_S, 6), (0.0, 7.0 * DAY_S, 0), (4.5 * DAY_S, 0.0, 4), (4.5 * DAY_S, 0.6 * DAY_S, 5)],
    ids=["Monday", "Sunday", "Monday again", "begun on a Friday at noon", "Saturday after"],
)
def test_a_week_has_its_days_and_a_mean_of_one(starts_at_s: float, t_s: float, day: int) -> None:
    curve = a_curve(Weekly(factors=DAYS, starts_at_s=starts_at_s), duration_s=28 * DAY_S)
    assert rate_at(curve, t_s) == pytest.approx(2.0 * DAYS[day] / np.mean(DAYS))
    assert curve.expected_at_edges()[-1] == pytest.approx(2.0 * 28 * DAY_S)


def test_a_week_may_be_given_by_the_hour() -> None:
    hours = tuple(float(1 + hour % 24) for hour in range(168))
    curve = a_curve(Weekly(factors=hours, starts_at_s=1800.0), duration_s=14 * DAY_S)
    assert rate_at(curve, 1799.0) == pytest.approx(2.0 * 1 / 12.5)
    assert rate_at(curve, 1801.0) == pytest.approx(2.0 * 2 / 12.5)
    assert rate_at(curve, 24 * 3600.0 + 1799.0) == pytest.approx(2.0 * 1 / 12.5)


def test_shapes_multiply_each_other() -> None:
    curve = a_curve(Steps(times_s=(0,), factors=(3,)), Ramp(times_s=(0, 100), factors=(1, 3)))
    assert rate_at(curve, 50.0) == pytest.approx(2.0 * 3.0 * 2.0)


def test_expected_arrivals_are_the_integral_of_the_rate() -> None:
    curve = a_curve(*EVERYTHING)
    at_edges = curve.expected_at_edges()
    for first in range(0, len(curve.level_per_s), 7):
        low, high = curve.edges_s[first], curve.edges_s[first + 1]
        cell = np.array([first])
        by_quad, _ = integrate.quad(lambda t, cell=cell: curve.per_s(np.array([t]), cell)[0], low, high, epsabs=1e-13)
        assert at_edges[first + 1] - at_edges[first] == pytest.approx(by_quad, rel=1e-9, abs=1e-10)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.sampled_from(EVERYTHING), min_size=0, max_size=4))
def test_times_invert_the_integral(seed: int, shapes: list[RateShape]) -> None:
    curve = a_curve(*shapes, seed=seed)
    at_edges = curve.expected_at_edges()
    expected = np.sort(np.random.default_rng(seed).random(300)) * at_edges[-1]
    expected = expected[expected < at_edges[-1]]
    t_s = curve.times_at(expected)
    assert (np.diff(t_s) >= 0.0).all()
    cell = np.clip(np.searchsorted(curve.edges_s, t_s, side="right") - 1, 0, len(curve.level_per_s) - 1)
    back = at_edges[cell] + curve.expected_in_cell(cell, t_s - curve.edges_s[cell])
    in_cell = np.diff(at_edges)[cell]
    assert (np.abs(back - expected) <= 1.1 * TOLERANCE * in_cell + 1e-12 * at_edges[-1]).all()


def test_nothing_arrives_while_the_rate_is_zero() -> None:
    curve = a_curve(Steps(times_s=(0, 1000, 2000), factors=(1, 0, 1)))
    total = curve.expected_at_edges()[-1]
    t_s = curve.times_at(np.linspace(0.0, total, 5001)[:-1])
    assert not ((t_s > 1000.0) & (t_s < 2000.0)).any()
    assert len(t_s[t_s <= 1000.0]) == pytest.approx(5000 * 1000 / 6200, abs=2)


def test_bursts_come_as_often_last_as_long_and_rise_as_high_as_asked() -> None:
    bursts = Bursts(every_s=600, duration_s=60, factor=5)
    curve = a_curve(bursts, rate_per_s=1.0, duration_s=6e6, seed=3)
    length_s = np.diff(curve.edges_s)
    high = curve.level_per_s > 1.0
    assert np.unique(curve.level_per_s.round(9)).tolist() == [
        round(bursts.quiet_level, 9),
        round(5 * bursts.quiet_level, 9),
    ]
    # About 10 000 bursts with exponential quiet between: their number has a relative standard error of 0.9 %,
    # and the mean rate one of 0.3 %; the tolerances are above three of these.
    assert length_s[high].sum() / 6e6 == pytest.approx(0.1, rel=0.03)
    assert length_s[high][1:-1] == pytest.approx(60.0)
    assert curve.expected_at_edges()[-1] / 6e6 == pytest.approx(1.0, rel=0.01)


def test_a_run_may_begin_within_a_burst() -> None:
    bursts = Bursts(every_s=100, duration_s=50, factor=5)
    begins = [a_curve(bursts, duration_s=10.0, seed=seed).level_per_s[0] > 2.0 for seed in range(400)]
    assert np.mean(begins) == pytest.approx(0.5, abs=0.1)  # four standard errors of 400 coin throws


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Bursts(every_s=1, duration_s=0.5, factor=2), "bursts.every_s: 1: too often for a run of 1e"),
        (Diurnal(period_s=60, amplitude=0.5), "diurnal.period_s: 60: too short for a run of 1e"),
    ],
)
def test_shapes_finer_than_memory_are_refused(shape: RateShape, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        a_curve(shape, duration_s=1e9)
