"""The arrival rates that a forecast is a guess of, read off the worlds themselves. Not causal: for marks, no opponent.

Symbols: `B` clusters, `C` classes, `H` forecast steps, `T` edges of buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from .contract import FORECAST_HORIZON_S, FORECAST_SPAN_S, FloatArray, IntArray
from .workload.requests import Workload

BUCKET_S: Final = 5.0
"""Arrivals are counted in buckets of this length; between their edges they are taken as evenly spread."""


class TrueRates:
    """What will arrive, for a batch whose clusters may be replaced."""

    def __init__(self, workloads: Sequence[Workload], durations_s: Sequence[float], n_classes: int) -> None:
        """`n_classes` is the batch's maximum; classes beyond a cluster's own are unknown (NaN)."""
        self._n_classes = n_classes
        self._arrived = [_arrived(w, d) for w, d in zip(workloads, durations_s, strict=True)]

    def replace(self, seats: IntArray, workloads: Sequence[Workload], durations_s: Sequence[float]) -> None:
        """New clusters at `seats`."""
        for b, workload, duration_s in zip(seats.tolist(), workloads, durations_s, strict=True):
            self._arrived[b] = _arrived(workload, duration_s)

    def ahead(self, time_s: FloatArray) -> FloatArray:
        """`[B, C, H]` mean rate over the minute that ends at each of `FORECAST_HORIZON_S` from `time_s` `[B]`.

        Beyond the end of the world its last minute goes on.
        """
        rates = np.full((len(time_s), self._n_classes, len(FORECAST_HORIZON_S)), np.nan)
        for b, (edges_s, arrived) in enumerate(self._arrived):
            span_s = min(FORECAST_SPAN_S, edges_s[-1])
            until_s = np.clip(time_s[b] + np.asarray(FORECAST_HORIZON_S), span_s, edges_s[-1])
            for c, count in enumerate(arrived):
                more = np.interp(until_s, edges_s, count) - np.interp(until_s - span_s, edges_s, count)
                rates[b, c] = more / span_s
        return rates


def _arrived(workload: Workload, duration_s: float) -> tuple[FloatArray, FloatArray]:
    """Edges of buckets `[T]` from 0 to the end, and requests of each class that arrived until then `[C, T]`."""
    bucket_s = min(BUCKET_S, duration_s)
    edges_s = np.append(np.arange(0.0, duration_s, bucket_s), duration_s)
    counts = workload.rates_per_s(bucket_s)[: len(edges_s) - 1].T * bucket_s
    counts = np.pad(counts, ((0, 0), (1, len(edges_s) - 1 - counts.shape[1])))
    return edges_s, np.cumsum(counts, axis=1)
