"""What arrival rate to expect: from the past only, the same in the simulator and in the controller.

Holt's linear trend with damping (Gardner & McKenzie 1985), in continuous time. State is plain arrays, one call serves
any number of classes and clusters. Symbols: `C` classes, `H` horizons; `...` optional leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import FORECAST_HORIZON_S, FloatArray

LEVEL_S = 25.0
"""Memory of the level: long enough to smooth Poisson noise at a few requests per second."""
TREND_S = 50.0
"""Memory of the trend: a rush that takes minutes to build up is seen within one."""
DAMPING_S = 120.0
"""A trend is believed for about this long."""


@dataclass(frozen=True)
class ForecastState:
    """What the forecast remembers."""

    level_per_s: FloatArray
    """`[..., C]` the rate now, smoothed; NaN before the first rate."""
    trend_per_s2: FloatArray
    """`[..., C]` its change per second."""


def start(*shape: int) -> ForecastState:
    """A forecast that has seen nothing, for arrays of `shape`."""
    return ForecastState(level_per_s=np.full(shape, np.nan), trend_per_s2=np.zeros(shape))


def observe(state: ForecastState, rate_per_s: FloatArray, elapsed_s: float) -> ForecastState:
    """The state after `elapsed_s` seconds at `rate_per_s` `[..., C]`; an unknown rate (NaN) changes nothing."""
    if elapsed_s <= 0:
        return state
    expected = state.level_per_s + state.trend_per_s2 * elapsed_s
    keep_level, keep_trend = np.exp(-elapsed_s / LEVEL_S), np.exp(-elapsed_s / TREND_S)
    level = np.where(np.isnan(expected), rate_per_s, keep_level * expected + (1.0 - keep_level) * rate_per_s)
    slope = np.where(np.isnan(state.level_per_s), 0.0, (level - state.level_per_s) / elapsed_s)
    trend = keep_trend * state.trend_per_s2 + (1.0 - keep_trend) * slope
    unknown = np.isnan(rate_per_s)
    return ForecastState(
        level_per_s=np.where(unknown, state.level_per_s, level),
        trend_per_s2=np.where(unknown, state.trend_per_s2, trend),
    )


def predict(state: ForecastState) -> FloatArray:
    """`[..., C, H]` expected rate at each of `FORECAST_HORIZON_S`; NaN before the first rate, never negative."""
    reach_s = DAMPING_S * (1.0 - np.exp(-np.asarray(FORECAST_HORIZON_S) / DAMPING_S))
    return np.maximum(state.level_per_s[..., None] + state.trend_per_s2[..., None] * reach_s, 0.0)
