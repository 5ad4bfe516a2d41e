"""The usual ways to forecast, and ours, each with the settings it may choose from.

All see one tick after the other and forecast at the end of each minute. Symbols: `T` ticks, `M` minutes, `S` series, `G`
settings, `H` horizons, `K` memories; rates are requests per second, NaN where unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from poolpilot.env import forecast
from poolpilot.env.contract import FORECAST_HORIZON_S, BoolArray, FloatArray

from .series import DAY, MINUTE, TICK_S

HORIZONS_MIN: Final = (1, 5, 15)
_PLACES = [FORECAST_HORIZON_S.index(60.0 * minutes) for minutes in HORIZONS_MIN]
_MIDDLE_S = 60.0 * np.array(HORIZONS_MIN) - 30.0
"""From now to the middle of the minute that is forecast."""
FEWEST_PER_S = 0.05


@dataclass(frozen=True)
class Method:
    """One way to forecast."""

    name: str
    settings: tuple[str, ...]
    run: Callable[[FloatArray], FloatArray]
    """`[T, S]` rates -> `[M + 1, S, G, H]` what is forecast after so many minutes; NaN before anything is known."""


def minutes_of(rates: FloatArray) -> FloatArray:
    """`[M, S]` mean rate of each minute, NaN where a part of it is unknown."""
    minutes: FloatArray = rates.reshape(-1, MINUTE, rates.shape[1]).mean(axis=1)
    return minutes


def last_minute(rates: FloatArray) -> FloatArray:
    """`[M + 1, S, 1, H]` the last known minute goes on."""
    known = np.vstack([np.full((1, rates.shape[1]), np.nan), minutes_of(rates)])
    place = np.where(np.isnan(known), 0, np.arange(len(known))[:, None])
    latest = np.take_along_axis(known, np.maximum.accumulate(place, axis=0), axis=0)
    return np.repeat(latest[:, :, None, None], len(HORIZONS_MIN), axis=3)


def same_minute_yesterday(rates: FloatArray) -> FloatArray:
    """`[M + 1, S, 1, H]` the seasonal naive forecast; the last minute where no yesterday is known."""
    ahead, minutes, day = last_minute(rates), minutes_of(rates), DAY // MINUTE
    for k, horizon in enumerate(HORIZONS_MIN):
        rows = np.arange(day - horizon + 1, len(ahead))
        yesterday = minutes[rows + horizon - 1 - day]
        ahead[rows, :, 0, k] = np.where(np.isnan(yesterday), ahead[rows, :, 0, k], yesterday)
    return ahead


Step = Callable[[FloatArray, BoolArray], None]
Ahead = Callable[[], FloatArray]


def _ticked(rates: FloatArray, shape: tuple[int, int], step: Step, ahead: Ahead) -> FloatArray:
    """Call `step` with `[S, 1]` rates and which are known, tick by tick, and `ahead` at the end of each minute."""
    out = np.full((len(rates) // MINUTE + 1, *shape, len(HORIZONS_MIN)), np.nan)
    for tick, rate in enumerate(rates):
        known = ~np.isnan(rate[:, None])
        step(np.where(known, rate[:, None], 0.0), known)
        if (tick + 1) % MINUTE == 0:
            out[(tick + 1) // MINUTE] = ahead()
    return out


def _keep(memory_s: FloatArray) -> FloatArray:
    return np.exp(-TICK_S / memory_s)


def smoothing(memory_s: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Simple exponential smoothing; `memory_s` `[G]`."""

    def run(rates: FloatArray) -> FloatArray:
        level = np.full((rates.shape[1], len(memory_s)), np.nan)

        def step(rate: FloatArray, known: BoolArray) -> None:
            after = np.where(np.isnan(level), rate, rate + _keep(memory_s) * (level - rate))
            np.copyto(level, after, where=known)

        return _ticked(rates, level.shape, step, lambda: np.repeat(level[..., None], len(HORIZONS_MIN), axis=2))

    return run


def holt(level_s: FloatArray, trend_s: FloatArray, damping_s: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Holt's trend with damping (Gardner & McKenzie 1985); all `[G]`."""
    reach_s = damping_s[:, None] * (1.0 - np.exp(-_MIDDLE_S / damping_s[:, None]))

    def run(rates: FloatArray) -> FloatArray:
        level = np.full((rates.shape[1], len(level_s)), np.nan)
        trend = np.zeros_like(level)

        def step(rate: FloatArray, known: BoolArray) -> None:
            expected = level + trend * TICK_S
            after = np.where(np.isnan(level), rate, rate + _keep(level_s) * (expected - rate))
            slope = np.where(np.isnan(level), 0.0, (after - level) / TICK_S)
            np.copyto(trend, slope + _keep(trend_s) * (trend - slope), where=known)
            np.copyto(level, after, where=known)

        return _ticked(rates, level.shape, step, lambda: np.maximum(level[..., None] + trend[..., None] * reach_s, 0.0))

    return run


class LocalLevel:
    """A wandering level behind the noise of single requests: one Kalman filter, its noise learned; `[S, G]` state."""

    def __init__(self, wander_per_min: FloatArray, n_series: int) -> None:
        """`wander_per_min` `[G]` share of itself by which the level moves in a minute."""
        self.level = np.full((n_series, len(wander_per_min)), np.nan)
        self._var = np.zeros_like(self.level)
        self._wander_per_s = wander_per_min**2 / 60.0
        self._last = np.full((n_series, 1), np.nan)
        self._squares = np.full((n_series, 1), 5.0)
        self._poisson = np.full((n_series, 1), 5.0)

    def step(self, rate: FloatArray, known: BoolArray) -> None:
        """Another tick."""
        noise = np.maximum(self._squares / self._poisson, 0.5)
        new = np.isnan(self.level)
        level = np.where(new, rate, self.level)
        size = np.maximum(level, FEWEST_PER_S)
        var = np.where(new, size**2, self._var) + self._wander_per_s * TICK_S * size**2
        counted = noise * size / TICK_S
        gain = var / (var + counted)
        np.copyto(self.level, level + gain * (rate - level), where=known)
        np.copyto(self._var, gain * counted, where=known)
        paired = known & ~np.isnan(self._last)
        keep = _keep(np.array(1800.0))
        change = ((rate - self._last) * TICK_S) ** 2
        np.copyto(self._squares, keep * self._squares + change, where=paired)
        np.copyto(self._poisson, keep * self._poisson + (rate + self._last) * TICK_S, where=paired)
        np.copyto(self._last, rate, where=known)


def local_level(wander_per_min: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """One `LocalLevel`."""

    def run(rates: FloatArray) -> FloatArray:
        filters = LocalLevel(wander_per_min, rates.shape[1])
        shape = filters.level.shape
        return _ticked(
            rates, shape, filters.step, lambda: np.repeat(filters.level[..., None], len(HORIZONS_MIN), axis=2)
        )

    return run


class DayProfile:
    """The mean rate of each part of the day, the last days counting most; `[S, B]`, NaN before a day was seen."""

    def __init__(self, bins: int, newest: float, n_series: int) -> None:
        """`newest` is the share of the latest day."""
        self._mean = np.full((n_series, bins), np.nan)
        self._sum, self._count = np.zeros(n_series), np.zeros(n_series)
        self._newest, self._ticks, self._per_bin = newest, 0, DAY // bins

    def step(self, rate: FloatArray, known: BoolArray) -> None:
        """Another tick."""
        self._sum += np.where(known, rate, 0.0)[:, 0]
        self._count += known[:, 0]
        self._ticks += 1
        if self._ticks % self._per_bin == 0:
            place = (self._ticks // self._per_bin - 1) % self._mean.shape[1]
            seen = np.divide(self._sum, self._count, out=np.full_like(self._sum, np.nan), where=self._count > 0)
            before = self._mean[:, place]
            after = np.where(np.isnan(before), seen, before + self._newest * (seen - before))
            self._mean[:, place] = np.where(np.isnan(seen), before, after)
            self._sum[:], self._count[:] = 0.0, 0.0

    def at(self, ahead_s: FloatArray) -> FloatArray:
        """`[S, len(ahead_s)]` relative to the day's mean, straight between the bins' middles; 1 before a whole day."""
        at = (self._ticks + ahead_s / TICK_S) / self._per_bin - 0.5
        low = np.floor(at).astype(np.int64)
        share = at - low
        bins = self._mean.shape[1]
        value = self._mean[:, low % bins] * (1.0 - share) + self._mean[:, (low + 1) % bins] * share
        whole = self._mean.mean(axis=1, keepdims=True)  # NaN until every part of a day was seen
        relative: FloatArray = np.where(np.isnan(whole), 1.0, (value + FEWEST_PER_S) / (whole + FEWEST_PER_S))
        return relative


def level_and_profile(wander: float, bins: int, trusts: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The local level, moved as the day's profile moves; `trusts` `[G]` is the power that the profile is raised to."""

    def run(rates: FloatArray) -> FloatArray:
        filters, profile = LocalLevel(np.array([wander]), rates.shape[1]), DayProfile(bins, 0.3, rates.shape[1])

        def step(rate: FloatArray, known: BoolArray) -> None:
            filters.step(rate, known)
            profile.step(rate, known)

        def ahead() -> FloatArray:
            moves = profile.at(_MIDDLE_S) / profile.at(np.array([0.0]))
            return filters.level[:, :, None] * moves[:, None, :] ** trusts[:, None]

        return _ticked(rates, (rates.shape[1], len(trusts)), step, ahead)

    return run


def holt_winters(memory_s: FloatArray, bins: int) -> Callable[[FloatArray], FloatArray]:
    """Smoothing of what is left of the rate without its daily season (Winters 1960, multiplicative, no trend)."""

    def run(rates: FloatArray) -> FloatArray:
        level = np.full((rates.shape[1], len(memory_s)), np.nan)
        profile = DayProfile(bins, 0.3, rates.shape[1])

        def step(rate: FloatArray, known: BoolArray) -> None:
            plain = rate / profile.at(np.array([0.0]))
            after = np.where(np.isnan(level), plain, plain + _keep(memory_s) * (level - plain))
            np.copyto(level, after, where=known)
            profile.step(rate, known)

        return _ticked(rates, level.shape, step, lambda: level[..., None] * profile.at(_MIDDLE_S)[:, None, :])

    return run


def regression(memory_s: FloatArray, ridges: FloatArray, wander: float) -> Callable[[FloatArray], FloatArray]:
    """Recursive ridge regression, a horizon each, of what came on the rates over several memories `[K]`.

    Regressors and target are taken relative to the local level, which is what is forecast with all weights at 0; what
    was learned is forgotten over two days.
    """

    def run(rates: FloatArray) -> FloatArray:
        n, k, g, h = rates.shape[1], len(memory_s), len(ridges), len(HORIZONS_MIN)
        filters = LocalLevel(np.array([wander]), n)
        levels = np.full((n, k), np.nan)
        squares, products, weights = np.zeros((n, h, k, k)), np.zeros((n, h, k)), np.zeros((n, g, h, k))
        past = np.full((max(HORIZONS_MIN) + 1, n, k + 1), np.nan)
        minute_sum, minute_known = np.zeros((n, 1)), np.ones((n, 1), dtype=np.bool_)
        keep = np.exp(-60.0 / (2 * 86_400.0))

        def step(rate: FloatArray, known: BoolArray) -> None:
            nonlocal minute_known
            filters.step(rate, known)
            after = np.where(np.isnan(levels), rate, rate + _keep(memory_s) * (levels - rate))
            np.copyto(levels, after, where=known)
            minute_sum[:] += rate
            minute_known = minute_known & known

        def ahead() -> FloatArray:
            nonlocal past, minute_known
            seen = np.where(minute_known, minute_sum / MINUTE, np.nan)[:, 0]
            for place, horizon in enumerate(HORIZONS_MIN):
                then = past[horizon - 1]
                size = np.maximum(then[:, :1], FEWEST_PER_S)
                moved, came = (then[:, 1:] - then[:, :1]) / size, (seen[:, None] - then[:, :1]) / size
                good = (~np.isnan(came) & ~np.isnan(moved).any(axis=1, keepdims=True))[:, 0]
                moved, came = np.where(good[:, None], moved, 0.0), np.where(good[:, None], came, 0.0)
                squares[:, place] = keep * squares[:, place] + moved[:, :, None] * moved[:, None, :]
                products[:, place] = keep * products[:, place] + moved * came
            matrix = squares[:, None] + ridges[:, None, None, None] * np.eye(k)
            weights[:] = np.linalg.solve(matrix, np.broadcast_to(products[:, None], (n, g, h, k))[..., None])[..., 0]
            now = np.concatenate([filters.level, levels], axis=1)
            past = np.concatenate([now[None], past[:-1]])
            minute_sum[:], minute_known = 0.0, np.ones_like(minute_known)
            expected: FloatArray = filters.level[:, :, None] + np.einsum(
                "nghk,nk->ngh", weights, levels - filters.level
            )
            np.maximum(expected, 0.0, out=expected)
            return expected

        return _ticked(rates, (n, g), step, ahead)

    return run


def shipped(believing_in_rushes: bool = True) -> Callable[[FloatArray], FloatArray]:
    """`poolpilot.env.forecast`, as simulator and sidecar call it."""

    def run(rates: FloatArray) -> FloatArray:
        state = forecast.start(rates.shape[1])

        def step(rate: FloatArray, known: BoolArray) -> None:
            nonlocal state
            state = forecast.observe(state, np.where(known, rate, np.nan)[:, 0], TICK_S)

        def ahead() -> FloatArray:
            if believing_in_rushes:
                return forecast.predict(state)[:, None, _PLACES]
            weight = np.exp(state.log_weight[:, :-1])
            level = (weight * state.level_per_s[:, :-1]).sum(axis=1) / weight.sum(axis=1)
            return np.repeat(level[:, None, None], len(HORIZONS_MIN), axis=2)

        return _ticked(rates, (rates.shape[1], 1), step, ahead)

    return run


def all_methods() -> Iterator[Method]:
    """In the order of the table; the first two are what is to be beaten, the last is what poolpilot ships."""
    yield Method("last minute", ("",), last_minute)
    yield Method(SEASONAL, ("",), same_minute_yesterday)
    memory_s = (40.0, 60.0, 80.0, 120.0, 160.0, 240.0, 320.0)
    yield Method("exponential smoothing", tuple(f"{m:.0f} s" for m in memory_s), smoothing(np.array(memory_s)))
    yield Method("Holt, damped, as it was here", ("25 s, 50 s, 120 s",), holt(*np.array([[25.0], [50.0], [120.0]])))
    trends = tuple(product((80.0, 120.0, 160.0), (300.0, 1200.0, 3600.0), (60.0, 300.0)))
    yield Method(
        "Holt, damped", tuple("{:.0f} s, {:.0f} s, {:.0f} s".format(*t) for t in trends), holt(*np.array(trends).T)
    )
    seasons = (80.0, 120.0, 160.0, 240.0)
    yield Method("Holt-Winters, daily", tuple(f"{m:.0f} s" for m in seasons), holt_winters(np.array(seasons), 48))
    wander = (0.008, 0.013, 0.025, 0.03, 0.042, 0.077)
    yield Method("local level, Poisson noise", tuple(f"{w:.1%}/min" for w in wander), local_level(np.array(wander)))
    trusts = (0.25, 0.5, 0.75, 1.0)
    yield Method(
        "local level and the day's profile",
        tuple(f"{t:.0%}" for t in trusts),
        level_and_profile(0.025, 24, np.array(trusts)),
    )
    ridges = (1.0, 5.0, 20.0)
    yield Method(
        "regression on five memories, learned online",
        tuple(f"ridge {r:.0f}" for r in ridges),
        regression(np.array([20.0, 60.0, 300.0, 1200.0, 3600.0]), np.array(ridges), 0.025),
    )
    yield Method("the shipped bank without its rush", ("",), shipped(believing_in_rushes=False))
    yield Method(SHIPPED, ("",), shipped())


SEASONAL: Final = "seasonal naive"
SHIPPED: Final = "shipped: bank of local levels, and a rush"
