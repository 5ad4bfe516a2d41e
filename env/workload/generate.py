"""Requests drawn from what a scenario says of each class.

Symbols: `N` requests of one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from ..contract import FloatArray, IntArray
from .rates import rate_curve
from .requests import Workload, WorkloadError, check_class_names
from .spec import Bimodal, ClassLoad, Fixed, GeneratedSpec, LengthSpec

MAX_REQUESTS = 50_000_000  # 1.6 GB of arrays; more is a mistyped rate, not a wish
ARRIVALS, LENGTHS, SHAPES = range(3)  # streams of one class: what is drawn for one leaves the others as they were


def generate(spec: GeneratedSpec, class_names: Sequence[str], duration_s: float, seed: int) -> Workload:
    """Draw the requests of a run over [0, duration_s).

    Each class has random streams of its own, keyed by its place in `class_names`: changing one class, or making the
    run longer, leaves all other requests as they were (to a microsecond).

    Raises:
        WorkloadError: `spec` names a class that is not in `class_names`, or asks for too many requests.
    """
    names = tuple(class_names)
    check_class_names(spec.named_classes, names)
    if not (math.isfinite(duration_s) and duration_s > 0.0):
        raise WorkloadError(f"duration_s: {duration_s!r}: wanted a finite number above 0")
    empty = np.empty(0, np.int64)
    parts = [Workload(np.empty(0), empty, empty, empty, names)]
    for i, name in enumerate(names):
        if name in spec.classes:
            arrival_s, prompt_tokens, output_tokens = _class_requests(name, spec.classes[name], duration_s, seed, i)
            parts.append(Workload(arrival_s, prompt_tokens, output_tokens, np.full(len(arrival_s), i), names))
    return Workload.mix(*parts)


def _class_requests(
    name: str, load: ClassLoad, duration_s: float, seed: int, position: int
) -> tuple[FloatArray, IntArray, IntArray]:
    """`[N]` arrival times, prompt lengths and output lengths of one class."""
    rngs = [_stream(seed, position, SHAPES, i) for i in range(len(load.shape))]
    curve = rate_curve(load.rate_per_s, load.shape, duration_s, rngs)
    expected = float(curve.expected_at_edges()[-1])
    if expected > MAX_REQUESTS:
        raise WorkloadError(
            f"workload.classes.{name}.rate_per_s: {load.rate_per_s:g}: makes {expected:.3g} requests in"
            f" {duration_s:g} s, wanted at most {MAX_REQUESTS:.0e}; lower it, or shorten the run"
        )
    arrival_s = curve.times_at(renewal_points(load.arrivals, load.cv, expected, _stream(seed, position, ARRIVALS)))
    arrival_s = arrival_s[arrival_s < duration_s]
    scores = _stream(seed, position, LENGTHS).standard_normal((len(arrival_s), 2))
    rho = load.correlation
    output_scores = rho * scores[:, 0] + math.sqrt(1.0 - rho * rho) * scores[:, 1]
    return arrival_s, lengths_at(load.prompt_tokens, scores[:, 0]), lengths_at(load.output_tokens, output_scores)


def renewal_points(kind: str, cv: float, total: float, rng: np.random.Generator) -> FloatArray:
    """`[N]` points in [0, total) of a stationary renewal process of rate 1 whose gaps have the given `cv`.

    `kind` is poisson, gamma or weibull. The first point lies a uniform share of a length-biased gap away, as seen by
    somebody who arrives at a random moment; with an ordinary first gap a bursty process would start too busy.
    """
    if kind == "weibull":
        shape = _weibull_shape(cv)
        scale = 1.0 / math.gamma(1.0 + 1.0 / shape)
        first = rng.random() * scale * rng.gamma(1.0 + 1.0 / shape) ** (1.0 / shape)
    else:  # Poisson gaps are gamma gaps with cv 1
        shape, scale = 1.0 / cv**2, cv**2
        first = rng.random() * scale * rng.gamma(shape + 1.0)
    points = np.array([first])
    gaps = points
    while points[-1] < total:
        n = int((total - points[-1]) + 6.0 * cv * math.sqrt(total)) + 16
        drawn = rng.weibull(shape, n) if kind == "weibull" else rng.gamma(shape, size=n)
        gaps = np.concatenate([gaps, scale * drawn])
        points = np.cumsum(gaps)
    return points[points < total]


def lengths_at(spec: LengthSpec, scores: FloatArray) -> IntArray:
    """`[N]` int64 lengths whose ranks are those of the standard normal `scores`.

    A mixture takes its long requests from the highest scores, which keeps each part's own distribution.
    """
    if isinstance(spec, Fixed):
        return np.full(len(scores), spec.tokens, dtype=np.int64)
    if isinstance(spec, Bimodal):
        rank = ndtr(scores)
        short_share = 1.0 - spec.long_share
        is_long = rank >= short_share
        within = np.where(is_long, (rank - short_share) / spec.long_share, rank / short_share)
        inner = ndtri(within)
        lengths: IntArray = np.where(is_long, lengths_at(spec.long, inner), lengths_at(spec.short, inner))
        return lengths
    mu, sigma = spec.mu_sigma
    with np.errstate(over="ignore"):
        drawn = np.clip(np.exp(mu + sigma * scores), spec.min, spec.max)
    rounded: IntArray = np.rint(drawn).astype(np.int64)
    return rounded


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _weibull_shape(cv: float) -> float:
    """The shape whose Weibull distribution has this coefficient of variation, by bisection."""
    low, high = 0.1, 200.0  # cv falls from 429 to 0.006
    while high - low > 1e-12 * high:
        middle = math.sqrt(low * high)
        log_ratio = math.lgamma(1.0 + 2.0 / middle) - 2.0 * math.lgamma(1.0 + 1.0 / middle)
        low, high = (middle, high) if math.expm1(log_ratio) > cv * cv else (low, middle)
    return high
