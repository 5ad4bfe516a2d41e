"""What arrival rate to expect: from the past only, the same in the simulator and in the controller.

Two exponential averages, a fast and a slow one, with a damped trend between them. State is plain arrays, one call
serves any number of classes and clusters. Symbols: `C` classes, `H` horizons; `...` optional leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import FORECAST_HORIZON_S, FloatArray

FAST_S = 30.0
"""Memory of the fast average: long enough to smooth Poisson noise at a few requests per second."""
SLOW_S = 240.0
"""Memory of the slow average: the base that a burst falls back to."""
DAMPING_S = 180.0
"""A trend is believed for about this long (damped trend, Gardner & McKenzie 1985)."""


@dataclass(frozen=True)
class ForecastState:
    """What the forecast remembers."""

    fast_per_s: FloatArray
    """`[..., C]`, NaN before the first rate."""
    slow_per_s: FloatArray
    """`[..., C]`"""


def start(*shape: int) -> ForecastState:
    """A forecast that has seen nothing, for arrays of `shape`."""
    return ForecastState(fast_per_s=np.full(shape, np.nan), slow_per_s=np.full(shape, np.nan))


def observe(state: ForecastState, rate_per_s: FloatArray, elapsed_s: float) -> ForecastState:
    """The state after `elapsed_s` seconds at `rate_per_s` `[..., C]`; an unknown rate (NaN) changes nothing."""
    return ForecastState(
        fast_per_s=_blend(state.fast_per_s, rate_per_s, elapsed_s / FAST_S),
        slow_per_s=_blend(state.slow_per_s, rate_per_s, elapsed_s / SLOW_S),
    )


def predict(state: ForecastState) -> FloatArray:
    """`[..., C, H]` expected rate at each of `FORECAST_HORIZON_S`; NaN before the first rate, never negative."""
    horizon_s = np.asarray(FORECAST_HORIZON_S)
    # The slow average lags a steady trend by SLOW_S and the fast one by FAST_S: their distance measures the trend.
    trend_per_s2 = (state.fast_per_s - state.slow_per_s) / (SLOW_S - FAST_S)
    reach_s = DAMPING_S * (1.0 - np.exp(-horizon_s / DAMPING_S))
    return np.maximum(state.fast_per_s[..., None] + trend_per_s2[..., None] * reach_s, 0.0)


def _blend(old: FloatArray, new: FloatArray, elapsed: float) -> FloatArray:
    keep = np.exp(-elapsed)
    blended = np.where(np.isnan(old), new, keep * old + (1.0 - keep) * new)
    return np.where(np.isnan(new), old, blended)
