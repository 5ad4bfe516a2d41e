"""How far a mean is known, however often somebody looks: a confidence sequence for few, unevenly spread differences. Pure.

A confidence interval holds for one look at a number of values that was fixed before; whoever looks after every value and
stops when he likes what he sees is wrong far more often than it says. A confidence sequence holds at all looks together:
with probability `1 - alpha` the true mean lies inside at every one of them.

This one inverts the mixture sequential probability ratio test of a normal mean of unknown variance (a t-test): effect sizes
mean/deviation are mixed over a normal prior, the deviation over the right Haar prior. Its Bayes factor

    B = (1 + n g)^(-1/2) [ (1 + t^2/(n-1)) / (1 + t^2/((n-1)(1 + n g))) ]^(n/2)

is a martingale of mean 1 where the mean is the one that `t` is reckoned from, so that it ever reaches 1/alpha with
probability alpha at most (Ville). Mixture sequential tests: H. Robbins, Ann. Math. Statist. 41 (1970); for experiments that
are watched: R. Johari, P. Koomen, L. Pekelis, D. Walsh, Operations Research 70 (2022). The t-test: H. Wang, A. Ramdas,
Sequential Analysis 44 (2025), arXiv:2310.03722; why it may be stopped at will: M. Perez-Ortiz, T. Lardy, R. de Heide,
P. Gruenwald, Ann. Statist. 52 (2024), arXiv:2208.07610.

Symbol: `n` values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..env.contract import FloatArray

PRIOR_VARIANCE: Final = 1.0
"""`g`, of the effect size: what a trial is to see within tens of values are shifts of about one deviation."""


@dataclass(frozen=True)
class Bounds:
    """A mean, and what it lies within; infinite where nothing is known yet."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """For a JSON document: None for an end that is not known."""
        return {"mean": self.mean, "low": _known(self.low), "high": _known(self.high)}


def confidence_sequence(values: FloatArray, alpha: float, least_deviation: float) -> Bounds:
    """The mean of `[n]` values, and where the true one lies: at all `n` together, but for probability `alpha`.

    Args:
        values: independent, of one mean, about normal; without NaN.
        alpha: of missing the true mean ever, above or below.
        least_deviation: added to theirs in squares: values that happen to be alike are not known that well.
    """
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return Bounds(mean, -math.inf, math.inf)
    spread = 1.0 + n * PRIOR_VARIANCE
    # B < 1/alpha, solved for t^2/(n-1).
    k = (math.sqrt(spread) / alpha) ** (2.0 / n)
    if k >= spread:
        return Bounds(mean, -math.inf, math.inf)
    t = math.sqrt((n - 1) * (k - 1.0) / (1.0 - k / spread))
    deviation = math.hypot(float(values.std(ddof=1)), least_deviation)
    radius = t * deviation / math.sqrt(n)
    return Bounds(mean, mean - radius, mean + radius)


def _known(end: float) -> float | None:
    return end if math.isfinite(end) else None
