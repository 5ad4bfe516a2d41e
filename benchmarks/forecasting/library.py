"""What a statistics library makes of the same minutes, as a mark: statsmodels, whose place in the table is empty
without it.

Its models are fitted by maximum likelihood to the ticks that may be tuned on; where a trace has none, to the whole of
it, scored part included, which favours them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from poolpilot.env.contract import FloatArray

from .methods import HORIZONS_MIN, minutes_of
from .series import MINUTE, Series


def library_forecasts(every: list[Series]) -> Iterator[tuple[str, list[FloatArray]]]:
    """Name, and by series `[M + 1, H]` forecasts; nothing if statsmodels is not installed."""
    try:
        from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing
        from statsmodels.tsa.statespace.sarimax import SARIMAX
    except ImportError:
        return
    models: dict[str, Callable[[FloatArray], Any]] = {
        "statsmodels ARIMA(1,1,1)": lambda minutes: SARIMAX(minutes, order=(1, 1, 1)),
        "statsmodels ETS(A,Ad,N)": lambda minutes: ExponentialSmoothing(minutes, trend=True, damped_trend=True),
    }
    for name, model in models.items():
        yield name, [_forecast(model, series) for series in every]


def _forecast(model: Callable[[FloatArray], Any], series: Series) -> FloatArray:
    """`[M + 1, H]` from the filtered states: what the fitted model expects of the minutes to come."""
    minutes = minutes_of(series.rate_per_s[:, None])[:, 0]
    end = len(minutes) if series.tuned_from is None else series.scored_from // MINUTE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optimisers that stop early: what they have is still the better start
        fitted = model(minutes[:end]).fit(disp=False)
        filtered = model(minutes).smooth(fitted.params)
    results = filtered.filter_results
    state = results.filtered_state  # [states, M]
    out = np.full((len(minutes) + 1, len(HORIZONS_MIN)), np.nan)
    for place, horizon in enumerate(HORIZONS_MIN):
        ahead = state
        for _ in range(horizon):
            ahead = results.transition[..., 0] @ ahead + results.state_intercept[..., :1]
        out[1:, place] = np.maximum((results.design[..., 0] @ ahead)[0] + results.obs_intercept[0, 0], 0.0)
    return out
