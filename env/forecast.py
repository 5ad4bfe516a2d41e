"""What arrival rate to expect: from the past only, the same in the simulator and in the controller.

A class's rate is a level that wanders, seen through the noise of single requests. How far it wanders differs between
services and hours, so several Kalman filters (local level models) that each believe in another wandering run side by
side, weighed by how well each has forecast the next tick (multiple-model estimation; Magill 1965, Bar-Shalom et al.,
Estimation with Applications to Tracking and Navigation, ch. 11.6). The last of them believes in a rush: it also
follows a slope. A request or two say little and a hundred say much, so a filter's memory is long where requests are
few and short where they are many. docs/forecasting.md compares this with the usual methods on real traces.

State is plain arrays, one call serves any number of classes and clusters. Symbols: `C` classes, `M` models, `H`
horizons; `...` optional leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .contract import FORECAST_HORIZON_S, FORECAST_SPAN_S, FloatArray, IntArray, Snapshot

WANDER: Final = np.array([0.013, 0.025, 0.042, 0.077, 0.025])
"""`[M]` share of itself by which a model's level is believed to move in a minute (one standard deviation)."""
RUSH_PER_S: Final = np.array([0.0, 0.0, 0.0, 0.0, 0.008])
"""`[M]` share of itself by which a model's level may grow or shrink each second: five-fold within minutes."""
SLOPE_S: Final = 60.0
"""A slope is believed for about this long."""
RUSH_S: Final = 180.0
"""And a rush, whatever its slope, for about this long."""

NOISE_S: Final = 1800.0
"""Over about how long it is learned how bursty requests are."""
NOISE_PRIOR: Final = 5.0
"""Until then they are believed to come as a Poisson process does, on the strength of this many requests."""
LEAST_NOISE: Final = 0.5
"""No class is believed to be more regular than this; a Poisson process has 1."""
NOISE_SPAN_S: Final = 60.0
"""Ticks that are longer tell nothing of noise: what changes from one to the next is the level."""
OUTLIER: Final = 16.0
"""A change counts for no more than this many times the variance that was expected of it."""

TAILS: Final = 4.0
"""Degrees of freedom of the t distribution that a model's errors are judged by: bursts are more frequent than a normal
distribution has them."""
LEAST_WEIGHT: Final = 0.01
"""Of a model beside the best one, so that it is back within a few ticks when its time comes."""
SURPRISE: Final = 6.0
"""An error beyond this many standard deviations is a new level, not noise: the model begins anew with it."""

FEWEST_PER_S: Final = 0.05
"""A class with fewer requests is believed to have this many, in what is said of noise and wandering."""
LONGEST_S: Final = 3600.0
"""A longer tick is taken for one of this length."""
_NOTHING_PER_S2: Final = 1e-12
"""Keeps rates that are as good as 0 out of a quotient."""


@dataclass(frozen=True)
class ForecastState:
    """What the forecast remembers."""

    level_per_s: FloatArray
    """`[..., C, M]` the rate now, as each model has it; NaN before the first rate."""
    slope_per_s2: FloatArray
    """`[..., C, M]` its change per second; 0 in all models but those of a rush."""
    level_var: FloatArray
    """`[..., C, M]` how uncertain the level is, (requests/s)^2."""
    cross_var: FloatArray
    """`[..., C, M]` covariance of level and slope."""
    slope_var: FloatArray
    """`[..., C, M]`"""
    log_weight: FloatArray
    """`[..., C, M]` evidence for each model, 0 for the best one."""
    squares: FloatArray
    """`[..., C]` squared changes from tick to tick that were seen lately, in requests."""
    poisson_squares: FloatArray
    """`[..., C]` what a Poisson process would have shown."""
    last_per_s: FloatArray
    """`[..., C]` the last known rate."""
    last_s: FloatArray
    """`[..., C]` length of the tick that it was seen in; 0 before the first."""


def start(*shape: int) -> ForecastState:
    """A forecast that has seen nothing, for arrays of `shape`."""
    models = (*shape, len(WANDER))
    return ForecastState(
        level_per_s=np.full(models, np.nan),
        slope_per_s2=np.zeros(models),
        level_var=np.zeros(models),
        cross_var=np.zeros(models),
        slope_var=np.zeros(models),
        log_weight=np.zeros(models),
        squares=np.zeros(shape),
        poisson_squares=np.zeros(shape),
        last_per_s=np.zeros(shape),
        last_s=np.zeros(shape),
    )


def forget(state: ForecastState, places: IntArray) -> ForecastState:
    """The same with nothing seen at `places` of the first axis."""
    fresh = start(*state.last_s.shape)
    kept = {name: known.copy() for name, known in vars(state).items()}
    for name, known in kept.items():
        known[places] = getattr(fresh, name)[places]
    return ForecastState(**kept)


def observe(state: ForecastState, rate_per_s: FloatArray, elapsed_s: float) -> ForecastState:
    """The state after `elapsed_s` seconds at `rate_per_s` `[..., C]`.

    A rate that is unknown (NaN) or cannot be changes nothing; neither does a tick of no length, nor a clock put back.
    """
    if not elapsed_s > 0:
        return state
    tick_s = min(elapsed_s, LONGEST_S)
    known = (rate_per_s >= 0) & (rate_per_s <= Snapshot.arrival_rate_per_s.high)
    rate = np.where(known, rate_per_s, 0.0)
    before = _moved(_begun(state, rate), tick_s)
    after = {**_corrected(before, rate, tick_s), **_noise_seen(before, rate, tick_s)}
    if not known.all():
        for name, array in after.items():
            old = getattr(state, name)
            after[name] = np.where(known if old.ndim == known.ndim else known[..., None], array, old)
    return ForecastState(**after)


def predict(state: ForecastState) -> FloatArray:
    """`[..., C, H]` expected mean rate over the minute that ends at each of `FORECAST_HORIZON_S`.

    NaN before the first rate, never negative.
    """
    ahead_s = np.asarray(FORECAST_HORIZON_S) - FORECAST_SPAN_S / 2.0
    reach_s = SLOPE_S * (1.0 - np.exp(-ahead_s / SLOPE_S))
    weight = np.exp(state.log_weight)
    steady, rushing = weight[..., :-1], weight[..., -1:] * np.exp(-ahead_s / RUSH_S)
    level = (steady * state.level_per_s[..., :-1]).sum(axis=-1, keepdims=True)
    rush = np.maximum(state.level_per_s[..., -1:] + state.slope_per_s2[..., -1:] * reach_s, 0.0)
    expected: FloatArray = (level + rushing * rush) / (steady.sum(axis=-1, keepdims=True) + rushing)
    return expected


def _begun(state: ForecastState, rate: FloatArray) -> ForecastState:
    """Where nothing was seen before, every model begins at the first rate, which it takes for no more than a guess."""
    new = np.isnan(state.level_per_s)
    if not new.any():
        return state
    first = rate[..., None]
    guess = np.maximum(first, FEWEST_PER_S) ** 2
    return replace(
        state,
        level_per_s=np.where(new, first, state.level_per_s),
        level_var=np.where(new, guess, state.level_var),
        slope_var=np.where(new, RUSH_PER_S**2 * guess, state.slope_var),
    )


def _moved(state: ForecastState, tick_s: float) -> ForecastState:
    """What each model expects `tick_s` later: slopes fade, and everything becomes less certain."""
    keep = np.exp(-tick_s / SLOPE_S)
    reach_s = SLOPE_S * (1.0 - keep)
    size = np.maximum(state.level_per_s, FEWEST_PER_S) ** 2
    turned = state.cross_var + reach_s * state.slope_var
    return replace(
        state,
        level_per_s=np.maximum(state.level_per_s + reach_s * state.slope_per_s2, 0.0),
        slope_per_s2=keep * state.slope_per_s2,
        level_var=state.level_var + reach_s * (state.cross_var + turned) + WANDER**2 / 60.0 * tick_s * size,
        cross_var=keep * turned,
        slope_var=keep**2 * state.slope_var + (1.0 - keep**2) * RUSH_PER_S**2 * size,
    )


def _corrected(state: ForecastState, rate: FloatArray, tick_s: float) -> dict[str, FloatArray]:
    """What each model believes after a rate was seen, and how well it had expected it."""
    seen = rate[..., None]
    error = seen - state.level_per_s
    noise = _noise(state)[..., None] / tick_s
    counted = noise * np.maximum(state.level_per_s, FEWEST_PER_S)
    expected = state.level_var + counted
    evidence = np.log(expected) + (TAILS + 1.0) * np.log1p(error**2 / (TAILS * expected))
    log_weight = state.log_weight - 0.5 * evidence
    log_weight = log_weight - log_weight.max(axis=-1, keepdims=True)
    gain, slope_gain = state.level_var / expected, state.cross_var / expected
    after = {
        "level_per_s": np.maximum(state.level_per_s + gain * error, 0.0),
        "slope_per_s2": state.slope_per_s2 + slope_gain * error,
        "level_var": gain * counted,
        "cross_var": (1.0 - gain) * state.cross_var,
        "slope_var": state.slope_var - slope_gain * state.cross_var,
    }
    surprised = error**2 > SURPRISE**2 * expected
    if surprised.any():
        size = np.maximum(seen, FEWEST_PER_S)
        anew = {
            "level_per_s": seen,
            "slope_per_s2": 0.0,
            "level_var": noise * size,
            "cross_var": 0.0,
            "slope_var": RUSH_PER_S**2 * size**2,
        }
        after = {name: np.where(surprised, anew[name], array) for name, array in after.items()}
    return {**after, "log_weight": np.maximum(log_weight, np.log(LEAST_WEIGHT))}


def _noise(state: ForecastState) -> FloatArray:
    """`[..., C]` variance of the number of requests over its mean: 1 for a Poisson process, more for bursts."""
    noise = (state.squares + NOISE_PRIOR) / (state.poisson_squares + NOISE_PRIOR)
    return np.maximum(noise, LEAST_NOISE)


def _noise_seen(state: ForecastState, rate: FloatArray, tick_s: float) -> dict[str, FloatArray]:
    """The squared change since the last tick, beside what a Poisson process would have shown."""
    last_s = np.full_like(state.last_s, tick_s)
    same = (state.last_s > 0) & (np.maximum(state.last_s, tick_s) <= NOISE_SPAN_S)
    # The variance of a rate over T seconds is rate / T; what a change says grows with the requests it was seen in.
    poisson = rate / tick_s + np.divide(state.last_per_s, state.last_s, out=np.zeros_like(rate), where=same)
    requests = np.where(same, rate * tick_s + state.last_per_s * state.last_s, 0.0)
    surprise = np.divide(
        (rate - state.last_per_s) ** 2, poisson, out=np.zeros_like(rate), where=poisson > _NOTHING_PER_S2
    )
    keep = np.exp(-tick_s / NOISE_S)
    return {
        "squares": keep * state.squares + requests * np.minimum(surprise, OUTLIER * _noise(state)),
        "poisson_squares": keep * state.poisson_squares + requests,
        "last_per_s": rate,
        "last_s": last_s,
    }
