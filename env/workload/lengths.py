"""Log-normal lengths: finding the parameters that give a wanted mean and 95th percentile.

Standard library only, because the scenario file is validated with it, in the live controller too.
"""

from __future__ import annotations

import math

Z95 = 1.6448536269514722
"""95th percentile of the standard normal distribution."""


def clipped_lognormal_mean(mu: float, sigma: float, low: float, high: float) -> float:
    """Mean of exp(mu + sigma Z) after values below `low` and above `high` are set to these."""
    below, above = ((math.log(limit) - mu) / sigma for limit in (low, high))
    between = math.exp(mu + sigma * sigma / 2.0) * (_normal_cdf(above - sigma) - _normal_cdf(below - sigma))
    return low * _normal_cdf(below) + between + high * _normal_cdf(-above)


def lognormal_from_mean_p95(mean: float, p95: float, low: float, high: float) -> tuple[float, float]:
    """The (mu, sigma) whose lengths, once held between `low` and `high`, have this mean and 95th percentile.

    Of the two log-normals that may fit, the narrower one.

    Raises:
        ValueError: no log-normal has them; the message says which means can be had.
    """
    if not low < mean < p95 < high:
        raise ValueError(f"wanted min < mean < p95 < max, got {low:g}, {mean:g}, {p95:g}, {high:g}")

    def mean_at(sigma: float) -> float:
        return clipped_lognormal_mean(math.log(p95) - Z95 * sigma, sigma, low, high)

    # With the 95th percentile held, the mean falls from p95 as the spread grows, down to sigma = Z95.
    narrow, wide = 1e-4, Z95
    if not mean_at(wide) <= mean <= mean_at(narrow):
        raise ValueError(
            f"no log-normal has mean {mean:g} and p95 {p95:g} between {low:g} and {high:g}:"
            f" with this p95 wanted a mean from {mean_at(wide):.4g} to {mean_at(narrow):.4g}"
        )
    while wide - narrow > 1e-12:
        middle = (narrow + wide) / 2.0
        narrow, wide = (middle, wide) if mean_at(middle) > mean else (narrow, middle)
    return math.log(p95) - Z95 * wide, wide


def _normal_cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2.0)) / 2.0
