"""When requests arrive: renewal processes of unit rate, alone or as the sum of many clients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..contract import FloatArray
from .spec import Clients


def renewal_points(kind: str, cv: float, total: float, rng: np.random.Generator) -> FloatArray:
    """`[N]` points in [0, total) of a stationary renewal process of rate 1 whose gaps have the given `cv`.

    `kind` is poisson, gamma or weibull.
    """
    # Poisson gaps are gamma gaps with cv 1.
    return renewal_points_of_shape(kind, weibull_shape(cv) if kind == "weibull" else 1.0 / cv**2, total, rng)


def renewal_points_of_shape(kind: str, shape: float, total: float, rng: np.random.Generator) -> FloatArray:
    """`[N]` points in [0, total) of a stationary renewal process of rate 1 with gamma or Weibull gaps of this shape.

    The first point lies a uniform share of a length-biased gap away, as seen by somebody who arrives at a random
    moment; with an ordinary first gap a bursty process would start too busy.
    """
    if kind == "weibull":
        scale = 1.0 / math.gamma(1.0 + 1.0 / shape)
        cv = math.sqrt(max(math.gamma(1.0 + 2.0 / shape) * scale * scale - 1.0, 0.0))
        first = rng.random() * scale * rng.gamma(1.0 + 1.0 / shape) ** (1.0 / shape)
    else:
        scale = 1.0 / shape
        cv = math.sqrt(scale)
        first = rng.random() * scale * rng.gamma(shape + 1.0)
    points = np.array([first])
    gaps = points
    while points[-1] < total:
        n = int((total - points[-1]) + 6.0 * cv * math.sqrt(total)) + 16
        drawn = rng.weibull(shape, n) if kind == "weibull" else rng.gamma(shape, size=n)
        gaps = np.concatenate([gaps, scale * drawn])
        points = np.cumsum(gaps)
    return points[points < total]


def points_of_clients(
    clients: Clients, kind: str, cv: float, total: float, stream: Callable[[int], np.random.Generator]
) -> FloatArray:
    """`[N]` points in [0, total) of the sum of all clients' processes, of rate 1 together.

    `stream` gives the random numbers of each client.
    """
    shares = zipf_shares(clients.count, clients.zipf)
    each = [renewal_points(kind, cv, share * total, stream(i)) / share for i, share in enumerate(shares)]
    points = np.sort(np.concatenate(each))
    return points[points < total]  # dividing may round up to the end


def zipf_shares(count: int, exponent: float) -> FloatArray:
    """`[count]` shares that sum to 1, the k-th in proportion to k to the power of -exponent."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: FloatArray = weights / weights.sum()
    return shares


def weibull_shape(cv: float) -> float:
    """The shape whose Weibull distribution has this coefficient of variation, by bisection."""
    low, high = 0.1, 200.0  # cv falls from 429 to 0.006
    while high - low > 1e-12 * high:
        middle = math.sqrt(low * high)
        log_ratio = math.lgamma(1.0 + 2.0 / middle) - 2.0 * math.lgamma(1.0 + 1.0 / middle)
        low, high = (middle, high) if math.expm1(log_ratio) > cv * cv else (low, middle)
    return high
