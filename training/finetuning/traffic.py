"""What a class's traffic is like, as a record shows it: how often, how evenly, how long, and who comes back. Pure.

Symbols: `T` ticks, `C` classes, `B` blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ...env.contract import FloatArray
from ...env.window import ARRIVED, OUTPUT_SQUARES, OUTPUT_SUM, PROMPT_SQUARES, PROMPT_SUM, SHED
from ...telemetry.record import Episode
from .estimates import Estimate, blocks, bootstrap
from .requests import base_arrivals, retry_ticks, shed_before

STEPS: Final = 48
"""Most steps in which a rate's movement is told."""
LEAST_STEP_S: Final = 300.0
FEWEST_SHED: Final = 30
"""Fewer requests turned away do not tell who comes back."""
MOST_CV, LEAST_CV = 5.0, 0.3
LEAST_SIGMA: Final = 0.02
"""Of lengths; all alike below."""


@dataclass(frozen=True)
class Traffic:
    """One class."""

    rate_per_s: Estimate
    cv: Estimate | None
    """Of the gaps at a steady rate, by the spread of counts; None where there are too few requests."""
    prompt_tokens: Estimate | None
    """Mean."""
    prompt_sigma: Estimate | None
    """Standard deviation of the logarithm, by the moments."""
    output_tokens: Estimate | None
    output_sigma: Estimate | None
    step_s: float
    factors: tuple[float, ...]
    """The rate in consecutive steps over its mean."""

    @property
    def unevenness(self) -> float:
        """The coefficient of variation that the twin's gaps have: 1 unless it is known to be another one."""
        if self.cv is None or self.cv.holds(1.0):
            return 1.0
        return float(np.clip(self.cv.value, LEAST_CV, MOST_CV))

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        names = ("rate_per_s", "cv", "prompt_tokens", "prompt_sigma", "output_tokens", "output_sigma")
        figures = {name: getattr(self, name) for name in names}
        return {name: own.as_json() if own is not None else None for name, own in figures.items()}

    def load(self, longest: float) -> dict[str, Any]:
        """As a scenario's workload has it.

        Args:
            longest: tokens of the longest request.
        """
        document: dict[str, Any] = {"rate_per_s": round(self.rate_per_s.value, 6)}
        if self.unevenness != 1.0:
            document |= {"arrivals": "gamma", "cv": round(self.unevenness, 4)}
        if len(self.factors) > 1:
            times = [round(n * self.step_s, 3) for n in range(len(self.factors))]
            document["shape"] = [
                {"kind": "steps", "times_s": times, "factors": [round(min(f, 1000.0), 6) for f in self.factors]}
            ]
        document["prompt_tokens"] = _length(self.prompt_tokens, self.prompt_sigma, longest, 1)
        document["output_tokens"] = _length(self.output_tokens, self.output_sigma, longest, 0)
        return document


def _length(mean: Estimate | None, sigma: Estimate | None, longest: float, least: int) -> dict[str, Any]:
    tokens = max(mean.value if mean else float(least), float(least))
    if sigma is None or sigma.value < LEAST_SIGMA or tokens < 1:
        return {"kind": "fixed", "tokens": round(tokens)}
    median = float(np.clip(tokens * math.exp(-0.5 * sigma.value**2), 1.0, longest - 1))
    return {"kind": "lognormal", "median": round(median, 3), "sigma": round(sigma.value, 4), "max": int(longest)}


def traffic_of(
    episodes: Sequence[Episode],
    c: int,
    returning: float,
    retry_after_s: float,
    believed: Sequence[float],
    rng: np.random.Generator,
) -> Traffic | None:
    """The traffic of class `c`; None where nothing came.

    Args:
        episodes: row 0 of each tells of a time before it, and is left out.
        c: the class.
        returning, retry_after_s: see `base_arrivals`.
        believed: of the scenario: requests per second, mean prompt tokens, mean output tokens; NaN where it says nothing.
        rng: draws the bootstrap's resamples.
    """
    counts = np.concatenate([base_arrivals(e, returning, retry_after_s)[1:, c] for e in episodes])
    if counts.sum() < 1:
        return None
    spans = np.concatenate([np.diff(e.time_s) for e in episodes])
    told = np.concatenate([e.since.told[1:, c] for e in episodes])
    columns = (PROMPT_SUM, PROMPT_SQUARES, OUTPUT_SUM, OUTPUT_SQUARES)
    sums = np.stack([np.concatenate([e.since.tally[1:, c, k] for e in episodes]) for k in columns]).astype(np.float64)
    block = blocks(len(counts))
    n_blocks = int(block[-1]) + 1

    def by_block(values: FloatArray) -> FloatArray:
        return np.bincount(block, weights=values, minlength=n_blocks).astype(np.float64)

    came, lasted, known = by_block(counts), by_block(spans), by_block(told)
    prompt, prompt2, output, output2 = (by_block(own) for own in sums)

    def mean(of: FloatArray) -> Any:
        return lambda w: (w @ of) / (w @ known)

    def sigma(of: FloatArray, squares: FloatArray) -> Any:
        def own(w: FloatArray) -> FloatArray:
            first, second = (w @ of) / (w @ known), (w @ squares) / (w @ known)
            return np.sqrt(np.log(np.maximum(second / first**2, 1.0 + 1e-12)))

        return own

    rate = bootstrap(lambda w: (w @ came) / (w @ lasted), n_blocks, rng, believed[0])
    if rate is None:
        value = float(counts.sum() / spans.sum())
        rate = Estimate(value, 0.0, math.inf, n_blocks, "too few blocks for an interval", believed[0])
    step_s, factors = _movement(episodes, c, returning, retry_after_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Traffic(
            rate_per_s=rate,
            cv=_evenness(counts, spans, block, n_blocks, rng),
            prompt_tokens=bootstrap(mean(prompt), n_blocks, rng, believed[1]),
            prompt_sigma=bootstrap(sigma(prompt, prompt2), n_blocks, rng),
            output_tokens=bootstrap(mean(output), n_blocks, rng, believed[2]),
            output_sigma=bootstrap(sigma(output, output2), n_blocks, rng),
            step_s=step_s,
            factors=factors,
        )


def _evenness(
    counts: FloatArray, spans: FloatArray, block: Any, n_blocks: int, rng: np.random.Generator
) -> Estimate | None:
    """Coefficient of variation of the gaps: of a renewal process the variance of counts over their mean is its square."""
    size, rate = np.bincount(block, minlength=n_blocks), counts / spans
    level = np.bincount(block, weights=counts, minlength=n_blocks) / np.bincount(block, spans, n_blocks)
    # Differences of neighbours: what moves slowly within a block is no unevenness. By the second, as ticks are not of one
    # length: the variance of a rate over s seconds is the mean rate times the square, over s.
    inside = block[1:] == block[:-1]
    spread = np.diff(rate) ** 2 / (1.0 / spans[1:] + 1.0 / spans[:-1])
    squares = np.bincount(block[1:][inside], weights=spread[inside], minlength=n_blocks)
    means = level * (size - 1)
    return bootstrap(lambda w: np.sqrt((w @ squares) / (w @ means)), n_blocks, rng, believed=math.nan)


def _movement(
    episodes: Sequence[Episode], c: int, returning: float, retry_after_s: float
) -> tuple[float, tuple[float, ...]]:
    """The rate in equal steps over its mean: of episodes of a day by time of the day, of others one behind the other."""
    began = episodes[0].wall_s[0] if episodes[0].wall_s[0] > 0 else episodes[0].time_s[0]
    whole = sum(e.duration_s for e in episodes)
    period = min(whole, 86_400.0)
    step_s = max(LEAST_STEP_S, period / STEPS)
    n = max(1, math.ceil(period / step_s - 1e-9))
    came, lasted = np.zeros(n), np.zeros(n)
    offset = 0.0
    for episode in episodes:
        since = (episode.wall_s[:-1] - began) if whole > period else offset + episode.time_s[:-1] - episode.time_s[0]
        place = np.minimum((np.mod(since, period) / step_s).astype(np.int64), n - 1)
        np.add.at(came, place, base_arrivals(episode, returning, retry_after_s)[1:, c])
        np.add.at(lasted, place, np.diff(episode.time_s))
        offset += episode.duration_s
    rate = np.divide(came, lasted, out=np.zeros(n), where=lasted > 0)
    mean = came.sum() / max(lasted.sum(), 1e-9)
    return step_s, tuple(float(x) for x in np.where(lasted > 0, rate / max(mean, 1e-12), 1.0))


def returning_share(
    episodes: Sequence[Episode], retry_after_s: float, rng: np.random.Generator, believed: float = 1.0
) -> Estimate | None:
    """Share of the requests that were turned away and came back: how arrivals follow what was turned away the time of a
    retry before, both by the tick and less their means over half an hour. None where too few were turned away."""
    products, squares = [], []
    shed_total = 0.0
    for episode in episodes:
        lag = retry_ticks(episode, retry_after_s)
        if len(episode) - 1 <= 2 * lag:
            continue
        shed_total += float(episode.since.tally[1:, :, SHED].sum())
        # Rows of whose retries the episode tells all; what its first row tells of was before it.
        began_s = episode.time_s - episode.lasted_s - lag * episode.tick_s
        told = np.flatnonzero(began_s > episode.time_s[0] - 0.5 * episode.tick_s)
        ticks = episode.lasted_ticks[told, None]
        shed = shed_before(episode, retry_after_s)[told] / ticks
        arrived = episode.since.tally[told, :, ARRIVED].astype(np.float64) / ticks
        x, y = _detrended(shed), _detrended(arrived)
        products.append((ticks * x * y).sum(axis=1))
        squares.append((ticks * x * x).sum(axis=1))
    if shed_total < FEWEST_SHED:
        return None
    xy, xx = np.concatenate(products), np.concatenate(squares)
    block = blocks(len(xy))
    n_blocks = int(block[-1]) + 1
    over, under = (np.bincount(block, weights=values, minlength=n_blocks) for values in (xy, xx))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = bootstrap(lambda w: (w @ over) / (w @ under), n_blocks, rng, believed, positive=False)
    if found is None:
        return None
    value, low, high = (float(np.clip(end, 0.0, 1.0)) for end in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.n, found.by, believed)


def _detrended(values: FloatArray) -> FloatArray:
    width = min(181, (len(values) - 1) // 2 * 2 + 1)  # odd, and no wider than what there is
    kernel = np.ones(width)
    weight = np.convolve(np.ones(len(values)), kernel, mode="same")
    trend = np.stack([np.convolve(column, kernel, mode="same") for column in values.T], axis=1) / weight[:, None]
    return values - trend
