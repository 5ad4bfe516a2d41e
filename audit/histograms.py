"""Prometheus histograms as distributions: quantiles, shares, and values drawn from them. Pure.

Symbols: `B` finite bounds, `N` values drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtr

from ..env.contract import FloatArray
from ..env.window import BUCKET_LOW_S, BUCKETS_PER_E, N_BUCKETS

_LEAST_FRAC: Final = 0.1
"""The first bucket has no lower end: it is taken to reach from this share of its upper end."""
_OPEN_END: Final = 2.0
"""The last one has no upper end: it is taken to reach so many times as far as the last bound."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values fell between which bounds."""

    bounds: FloatArray
    """`[B]` upper ends, rising, finite."""
    counts: FloatArray
    """`[B + 1]` values in each bucket, not cumulated; the last one has no upper end."""
    total: float = math.nan
    """Sum of all values; NaN if it is not known."""

    @property
    def count(self) -> float:
        """All values."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """Of all values: exact where the sum is known, else by the buckets' middles; NaN of nothing."""
        if self.count <= 0:
            return math.nan
        if not math.isnan(self.total):
            return self.total / self.count
        low, high = self.ends()
        return float((self.counts * np.sqrt(low * high)).sum() / self.count)

    def ends(self, top: float | None = None) -> tuple[FloatArray, FloatArray]:
        """`[B + 1]` lower and upper ends; `top` is the largest value that can be."""
        last = float(self.bounds[-1])
        highest = max(_OPEN_END * last if top is None else top, last)
        high = np.append(self.bounds, highest)
        low = np.append(_LEAST_FRAC * self.bounds[0], self.bounds)
        return low, high

    def quantile(self, share: float) -> float:
        """The value that `share` (0..1) of all values do not exceed, straight in the logarithm inside a bucket; NaN of
        nothing."""
        if self.count <= 0:
            return math.nan
        low, high = self.ends()
        cumulated = np.cumsum(self.counts)
        place = int(np.searchsorted(cumulated, share * self.count, side="left"))
        place = min(place, len(self.counts) - 1)
        inside = float(self.counts[place])
        part = (share * self.count - (cumulated[place] - inside)) / inside if inside > 0 else 0.5
        return float(low[place] * (high[place] / low[place]) ** min(max(part, 0.0), 1.0))

    def share_within(self, limit: float) -> float:
        """The share of values up to `limit`, likewise; NaN of nothing or without a limit."""
        if self.count <= 0 or math.isnan(limit):
            return math.nan
        low, high = self.ends()
        inside = np.clip(np.log(np.maximum(limit, 1e-12) / low) / np.log(high / low), 0.0, 1.0)
        return float((self.counts * inside).sum() / self.count)

    @staticmethod
    def joined(parts: Sequence[Histogram]) -> Histogram:
        """All values of all parts; ValueError if their bounds differ."""
        first = parts[0]
        if any(not np.array_equal(part.bounds, first.bounds) for part in parts):
            raise ValueError("histograms of other bounds cannot be added")
        return Histogram(
            first.bounds, np.sum([part.counts for part in parts], axis=0), float(sum(part.total for part in parts))
        )

    def drawn(self, n: int, rng: np.random.Generator, top: float) -> FloatArray:
        """`[N]` values as they may have been: the histogram's shares, spread inside each bucket so that their mean is the
        histogram's, in random order.

        Inside a bucket values are log-uniform to some power, the same for all buckets, found from the mean. Values are
        drawn stratified: their shares are the histogram's up to one in `N`.
        """
        if n == 0 or self.count <= 0:
            return np.zeros(0)
        low, high = self.ends(top)
        level = (np.arange(n) + rng.random(n)) / n
        cumulated = np.cumsum(self.counts) / self.count
        place = np.minimum(np.searchsorted(cumulated, level, side="right"), len(self.counts) - 1)
        share = self.counts[place] / self.count
        inside = np.clip((level - (cumulated[place] - share)) / np.maximum(share, 1e-12), 0.0, 1.0)
        lowest, ratio = low[place], np.log(high[place] / low[place])

        def values(power: float) -> FloatArray:
            spread: FloatArray = lowest * np.exp(ratio * inside**power)
            return spread

        drawn = values(_power_for(self.mean, values))
        return rng.permutation(drawn)


def _power_for(mean: float, values: Callable[[float], FloatArray]) -> float:
    """The power with which the values' mean comes nearest to `mean`; a larger one makes smaller values."""
    if math.isnan(mean):
        return 1.0
    low, high = math.log(0.02), math.log(50.0)
    for _ in range(40):
        middle = 0.5 * (low + high)
        if float(np.mean(values(math.exp(middle)))) > mean:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def spread_around(mean: float, sigma: float) -> Histogram:
    """A log-normal distribution of this mean as a histogram, where only a mean is known."""
    median = mean / math.exp(0.5 * sigma**2)
    bounds = median * np.exp(sigma * np.linspace(-3.0, 3.0, 25))
    cumulated = np.append(ndtr(np.linspace(-3.0, 3.0, 25)), 1.0)
    counts = np.diff(cumulated, prepend=0.0)
    return Histogram(bounds, counts * 1e6, mean * 1e6)


def through(counts: FloatArray, bounds: FloatArray) -> Histogram:
    """A simulated tally's latencies (`[env.window.N_BUCKETS]` counts) as a histogram with these bounds would show them: so
    that both sides of a comparison are seen through the same glass."""
    edges = BUCKET_LOW_S * np.exp(np.arange(N_BUCKETS + 1) / BUCKETS_PER_E)
    cumulated = np.concatenate([[0.0], np.cumsum(counts)])
    below = np.interp(np.log(np.maximum(bounds, 1e-12)), np.log(edges), cumulated)
    whole = float(counts.sum())
    middles = np.sqrt(edges[:-1] * edges[1:])
    own = np.diff(np.concatenate([[0.0], below, [whole]]))
    return Histogram(np.asarray(bounds, dtype=np.float64), own, float((counts * middles).sum()))
