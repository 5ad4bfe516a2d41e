"""Intervals by resampling: of runs, and of scenarios with their runs.

Symbols: `D` draws, `S` scenarios, `K` seeds, `N` values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...env.contract import FloatArray, IntArray

BOOTSTRAP_DRAWS = 2000
LOW, HIGH = 0.025, 0.975
"""Quantiles of a 95 % interval."""
_LEAST_RATIO = 1e-9
"""Who pays nothing at all has a ratio of 0, which has no logarithm."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """For a JSON document: None for an end that is not known."""
        return {
            "mean": self.mean,
            "low": None if np.isnan(self.low) else self.low,
            "high": None if np.isnan(self.high) else self.high,
        }


def bootstrap(values: FloatArray, seed: int = 0) -> Interval:
    """Mean of `[N]` values and the 2.5 and 97.5 percentiles of its bootstrap distribution."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(BOOTSTRAP_DRAWS, len(values)))].mean(axis=1)
    return interval(float(values.mean()), means)


def interval(point: float, draws: FloatArray) -> Interval:
    """An estimate with the percentiles of its `[D]` draws; draws of NaN, which tell nothing, are left out."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return Interval(point, float("nan"), float("nan"))
    low, high = np.quantile(known, [LOW, HIGH])
    return Interval(point, float(low), float(high))


@dataclass(frozen=True, eq=False)
class Resamples:
    """Which scenarios and which of their seeds each draw takes: the same for every policy, so that all is paired.

    Hierarchical: scenarios are drawn with replacement, and for each of them its seeds, since the runs of one scenario
    are more alike than those of two.
    """

    scenario: IntArray
    """`[D, S]`"""
    seed: IntArray
    """`[D, S, K]` places in the runs of that scenario."""

    def of(self, values: FloatArray) -> FloatArray:
        """`[D, S, K, ...]` from `[S, K, ...]`."""
        taken: FloatArray = values[self.scenario[:, :, None], self.seed]
        return taken


def resamples(scenarios: int, seeds: int, draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> Resamples:
    """The draws for so many scenarios of so many seeds each."""
    rng = np.random.default_rng(seed)
    return Resamples(
        scenario=rng.integers(scenarios, size=(draws, scenarios)),
        seed=rng.integers(seeds, size=(draws, scenarios, seeds)),
    )


def geometric(ratios: FloatArray, drawn: Resamples) -> Interval:
    """Geometric mean over scenarios and seeds of ratios `[S, K]`, with its interval: a tenth saved is a tenth wherever it is,
    and whichever of two is the reference makes no difference."""
    return exponential(hierarchical(np.log(np.maximum(ratios, _LEAST_RATIO)), drawn))


def exponential(of: Interval) -> Interval:
    """The interval of a ratio from that of its logarithm."""
    return Interval(float(np.exp(of.mean)), float(np.exp(of.low)), float(np.exp(of.high)))


def hierarchical(values: FloatArray, drawn: Resamples) -> Interval:
    """Mean over scenarios of the mean over seeds of `[S, K]`, with its interval."""
    return interval(float(values.mean()), drawn.of(values).mean(axis=(1, 2)))
