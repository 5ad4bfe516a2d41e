"""A figure with its interval, and the two ways in which intervals are made here. Pure.

Symbols: `B` blocks of consecutive ticks, `R` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import chi2, t

from ...env.contract import FloatArray, IntArray

SHARE: Final = 0.95
"""Of the intervals."""
RESAMPLES: Final = 2000
FEWEST_BLOCKS: Final = 5
"""Fewer blocks tell nothing of how much they differ."""


@dataclass(frozen=True)
class Estimate:
    """A figure, between what and what it lies with 95 % confidence, and how that was found."""

    value: float
    low: float
    high: float
    n: int
    """Blocks, starts or events that it rests on."""
    by: str
    """The way in which the interval was made."""
    believed: float = math.nan
    """What the scenario said before."""

    def holds(self, true: float) -> bool:
        """Whether the interval has a value in it."""
        return self.low <= true <= self.high

    @property
    def differs(self) -> bool:
        """Whether what was believed lies outside."""
        return not math.isnan(self.believed) and not self.holds(self.believed)

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        believed = None if math.isnan(self.believed) else self.believed
        own = {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "by": self.by}
        return {**own, "believed": believed}


def block_of(n_ticks: int) -> int:
    """Ticks of a block: long enough that queues of one are gone in the next, short enough that there are a dozen."""
    return int(np.clip(n_ticks // 12, 6, 60))


def blocks(n_ticks: int) -> IntArray:
    """`[T]` the block of each tick; what does not fill one belongs to the last."""
    size = block_of(n_ticks)
    whole = max(n_ticks // size, 1)
    return np.minimum(np.arange(n_ticks) // size, whole - 1)


def bootstrap(
    statistic: Callable[[FloatArray], FloatArray],
    n_blocks: int,
    rng: np.random.Generator,
    believed: float = math.nan,
    positive: bool = True,
) -> Estimate | None:
    """The block bootstrap's percentile interval, widened for few blocks as Student's t is wider than the normal.

    Args:
        statistic: of `[R, B]` weights of the blocks, `[R]`; ones are the data as they are.
        n_blocks: `B`.
        rng: draws the resamples.
        believed: see `Estimate`.
        positive: widen in the logarithm.

    Returns:
        None where there are fewer than `FEWEST_BLOCKS`, or the statistic is not finite.
    """
    if n_blocks < FEWEST_BLOCKS:
        return None
    value = float(statistic(np.ones((1, n_blocks)))[0])
    weights = rng.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks), RESAMPLES).astype(np.float64)
    drawn = statistic(weights)
    drawn = drawn[np.isfinite(drawn) & ((drawn > 0) | (not positive))]
    if not math.isfinite(value) or (positive and value <= 0) or len(drawn) < RESAMPLES // 2:
        return None
    tail = 0.5 * (1.0 - SHARE)
    widen = t.ppf(1.0 - tail, n_blocks - 1) / t.ppf(1.0 - tail, 10**6) * math.sqrt(n_blocks / (n_blocks - 1))
    scale = np.log if positive else np.asarray
    middle = float(scale(np.array(value)))
    low, high = (middle + widen * (np.quantile(scale(drawn), q) - middle) for q in (tail, 1.0 - tail))
    ends = (math.exp(low), math.exp(high)) if positive else (float(low), float(high))
    return Estimate(value, *ends, n_blocks, f"bootstrap of {n_blocks} blocks", believed)


def rate_of(events: int, exposure: float, believed: float = math.nan) -> Estimate | None:
    """Events per unit of exposure, as of a Poisson process: the exact interval by its likelihood (Garwood, 1936).

    None without exposure.
    """
    if exposure <= 0:
        return None
    tail = 0.5 * (1.0 - SHARE)
    low = 0.5 * float(chi2.ppf(tail, 2 * events)) if events else 0.0
    high = 0.5 * float(chi2.ppf(1.0 - tail, 2 * events + 2))
    return Estimate(events / exposure, low / exposure, high / exposure, events, "likelihood (Poisson, exact)", believed)


def mean_of(values: FloatArray, weights: FloatArray, spread_frac: float, believed: float) -> Estimate | None:
    """Mean of positive durations: by their own spread, or where there are few by the larger of theirs and the believed.

    The mean of log-normal durations, with Student's t on their logarithm's scale.

    Args:
        values: `[N]` each the mean of so many as `weights` says.
        weights: `[N]`
        spread_frac: believed standard deviation over mean.
        believed: see `Estimate`.
    """
    count = float(weights.sum())
    if count < 1:
        return None
    mean = float((values * weights).sum() / count)
    own = 0.0
    if len(values) > 1:
        own = math.sqrt(float((weights * (values / mean - 1.0) ** 2).sum() / (len(values) - 1)))
    spread = own if len(values) >= 8 else max(own, spread_frac)
    half = float(t.ppf(0.5 * (1.0 + SHARE), max(len(values) - 1, 2))) * spread / math.sqrt(count)
    return Estimate(
        mean, mean * math.exp(-half), mean * math.exp(half), int(count), "likelihood (log-normal)", believed
    )
