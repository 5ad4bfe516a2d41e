"""How far off forecasts were.

MASE (Hyndman & Koehler 2006): the mean absolute error over that of the last minute's rate one minute ahead, on the part
of the series before the scored one. Symbols: `M` minutes, `S` series, `G` settings, `H` horizons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from poolpilot.env.contract import FloatArray

from .library import library_forecasts
from .methods import HORIZONS_MIN, SEASONAL, SHIPPED, Method, all_methods, minutes_of
from .series import MINUTE, RUSH, RUSH_SCORED, Series, rushes

BLOCK_MIN = 60
"""Neighbouring errors are resampled together: so many minutes, a twelfth of the scored part where that is shorter."""
RESAMPLES = 2000
RUSH_RATES_PER_S = (3.0, 20.0, 100.0)
RUSHES = 20


@dataclass(frozen=True)
class Score:
    """How one method did with its best setting."""

    name: str
    setting: str
    """Chosen on the tuning days, or nothing if there was nothing to choose."""
    errors: list[FloatArray]
    """By series `[scored minutes, H]` absolute errors, NaN where forecast or truth is unknown."""
    mase: FloatArray
    """`[S, H]`"""
    rush_error: float
    """Mean relative error one minute ahead while a made rush grows; NaN if it was not tried."""


def score_all(every: list[Series]) -> list[Score]:
    """All methods on all series, in the order of the table: naive ones, others, the library's, the shipped one last."""
    ticks = max(len(series.rate_per_s) for series in every)
    rates = np.full((ticks, len(every)), np.nan)
    for s, series in enumerate(every):
        rates[: len(series.rate_per_s), s] = series.rate_per_s
    made = np.hstack([rushes(rate, RUSHES) for rate in RUSH_RATES_PER_S])
    scores = []
    for method in all_methods():
        if method.name == SHIPPED:
            scores += [
                _score(name, "maximum likelihood", every, forecasts, np.nan)
                for name, forecasts in library_forecasts(every)
            ]
        scores.append(_chosen(method, every, method.run(rates), made))
    return scores


def _chosen(method: Method, every: list[Series], ahead: FloatArray, made: FloatArray) -> Score:
    """The method with the setting that is best on the tuning days, over all series and horizons."""
    tuned = [s for s, series in enumerate(every) if series.tuned_from is not None]
    on_tuning_days = [
        np.mean([
            np.nanmean(_errors(every[s], ahead[:, s, g], every[s].tuned_from or 0, every[s].scored_from), axis=0)
            / _scale(every[s])
            for s in tuned
        ])
        for g in range(len(method.settings))
    ]  # fmt: skip
    best = int(np.argmin(on_tuning_days))
    forecasts = [ahead[: len(series.rate_per_s) // MINUTE + 1, s, best] for s, series in enumerate(every)]
    return _score(method.name, method.settings[best], every, forecasts, _rush_error(method, best, made))


def _score(name: str, setting: str, every: list[Series], forecasts: list[FloatArray], rush_error: float) -> Score:
    errors = [
        _errors(series, ahead, series.scored_from, len(series.rate_per_s))
        for series, ahead in zip(every, forecasts, strict=True)
    ]
    mase = np.array([np.nanmean(e, axis=0) / _scale(series) for e, series in zip(errors, every, strict=True)])
    return Score(name, setting, errors, mase, rush_error)


def _errors(series: Series, ahead: FloatArray, from_tick: int, to_tick: int) -> FloatArray:
    """`[minutes, H]` of forecasts made from one tick on whose minute ends by the other."""
    minutes = minutes_of(series.rate_per_s[:, None])[:, 0]
    made = np.arange(from_tick // MINUTE, to_tick // MINUTE)
    errors = np.full((len(made), len(HORIZONS_MIN)), np.nan)
    for k, horizon in enumerate(HORIZONS_MIN):
        fits = made + horizon <= to_tick // MINUTE
        errors[fits, k] = np.abs(ahead[made[fits], k] - minutes[made[fits] + horizon - 1])
    return errors


def _scale(series: Series) -> float:
    minutes = minutes_of(series.rate_per_s[: series.scored_from, None])[:, 0]
    return float(np.nanmean(np.abs(np.diff(minutes))))


def _rush_error(method: Method, setting: int, made: FloatArray) -> float:
    """Forecasts are made once a minute, so the rush is shown six times, each beginning a tick later."""
    errors = []
    for shift in range(MINUTE):
        shown = made[shift:]
        shown = shown[: len(shown) // MINUTE * MINUTE]
        ahead = method.run(shown)[:, :, setting, 0]
        for minute in range(1, len(ahead)):
            tick = shift + minute * MINUTE
            if RUSH_SCORED.start <= tick < RUSH_SCORED.stop:
                true = RUSH[tick : tick + MINUTE].mean() * np.repeat(RUSH_RATES_PER_S, RUSHES)
                errors.append(np.abs(ahead[minute] - true) / true)
    return float(np.mean(errors))


def ratio(ours: FloatArray, theirs: FloatArray) -> tuple[float, float, float]:
    """Our mean absolute error over theirs, with a 95 % interval from a paired bootstrap over blocks; of one horizon."""
    both = ~np.isnan(ours) & ~np.isnan(theirs)
    a, b = ours[both], theirs[both]
    block = max(1, min(BLOCK_MIN, len(a) // 12))
    sums = [np.add.reduceat(x, np.arange(0, len(x), block)) for x in (a, b)]
    drawn = np.random.default_rng(0).integers(0, len(sums[0]), (RESAMPLES, len(sums[0])))
    ratios = sums[0][drawn].sum(axis=1) / sums[1][drawn].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(a.sum() / b.sum()), float(low), float(high)


def over(score: Score, other: Score) -> FloatArray:
    """`[H]` geometric mean over the series of the ratio of two methods' errors."""
    means: FloatArray = np.exp(np.log(score.mase / other.mase).mean(axis=0))
    return means


def named(scores: list[Score], name: str) -> Score:
    """The score of this method."""
    return next(score for score in scores if score.name == name)


__all__ = ["HORIZONS_MIN", "SEASONAL", "SHIPPED", "Score", "named", "over", "ratio", "score_all"]
