"""How much longer each pool takes for everything than the scenario believes, by indirect inference.

What is held against the record is not a formula but a simulation: the stretch is replayed in the twin, and each pool's factor
moves until sequences stay as long in its batches for each token as they did (Gourieroux, Monfort and Renault, 1993). Queueing,
batching and how figures are sampled are so the same on both sides. By Little's law the statistic is the time that a token
takes a sequence: the sum of running sequences over the sum of tokens per second, each times as long as its tick lasted.

Symbols: `P` pools, `B` blocks, `R` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...env.contract import FloatArray
from ...env.scenario import Scenario
from ...env.workload.requests import Workload
from .estimates import Estimate, blocks, bootstrap
from .stretches import Stretch
from .twin import Run, recorded, simulated, with_factors

ROUNDS: Final = 5
CLOSE: Final = 0.004
"""The statistics are as good as equal when their logarithms differ by less."""
USUAL_SLOPE: Final = 1.3
"""How the logarithm of the statistic follows that of the factor, until two rounds tell: more than 1, since slower sequences
meet more others in their batch."""
SLOPES: Final = (0.6, 4.0)
MOST: Final = math.log(5.0)
"""A factor beyond is no refit, but another machine."""
SYSTEMATIC: Final = 0.015
"""Half the width, in the logarithm, of what blocks cannot show: lengths are drawn from a log-normal distribution. In records
of four worlds that were as believed but for another pool, what was found lay 0.8 to 2.0 % above, 1.4 % in the mean."""
MOST_RUNS, ENOUGH_TICKS = 4, 2000
"""Of the twin in a round, on their mean: which request goes where is chance, and in a short record it does not even out. So
many at most, and one where there are so many ticks."""
FEWEST_TOKENS: Final = 5_000.0
"""A pool that processed fewer tells nothing of its speed."""


@dataclass(frozen=True)
class Speeds:
    """Factors on each pool's times, where the record tells them."""

    factors: dict[str, Estimate]
    unknown: dict[str, str]
    """Why of the other pools nothing is known."""


def speeds_of(
    scenario: Scenario,
    stretches: Sequence[tuple[Stretch, Workload]],
    seed: int,
    rng: np.random.Generator,
    progress: Callable[[str], None],
    suspect: frozenset[str] = frozenset(),
) -> Speeds:
    """Each pool's factor on the scenario's times.

    Args:
        scenario: with all else refitted already.
        stretches: to fit to, with their requests.
        seed: of the twin's runs, this and those after it: the same in every round.
        rng: draws the bootstrap's resamples.
        progress: told what is being done.
        suspect: pools whose telemetry is not to be trusted.

    Raises:
        ValueError: the scenario cannot be simulated.
    """
    names = scenario.pool_names
    real = [_sums(stretch, recorded(stretch.episode), recorded(stretch.episode)) for stretch, _ in stretches]
    measured = _joined(real)
    unknown: dict[str, str] = {}
    for p, name in enumerate(names):
        if name in suspect:
            unknown[name] = "its telemetry contradicts itself"
        elif measured.tokens[:, p].sum() < FEWEST_TOKENS:
            unknown[name] = f"{measured.tokens[:, p].sum():.0f} tokens processed, wanted {FEWEST_TOKENS:.0f}"
        elif len(measured.tokens) < 2:
            unknown[name] = "too short"
    known = np.array([name not in unknown for name in names])
    n_runs = int(np.clip(ENOUGH_TICKS // max(sum(stretch.ticks for stretch, _ in stretches), 1), 1, MOST_RUNS))
    seeds = [seed + n for n in range(n_runs)]
    theta, slope = np.zeros(len(names)), np.full(len(names), USUAL_SLOPE)
    before: tuple[FloatArray, FloatArray] | None = None
    twin, off = measured, np.zeros(len(names))
    for n in range(ROUNDS):
        progress(f"speeds, round {n + 1}")
        tried = with_factors(scenario, dict(zip(names, np.exp(theta), strict=True)))
        twin = _joined(
            [_sums(s, recorded(s.episode), *simulated(tried, s, requests, seeds)) for s, requests in stretches]
        )
        off = np.where(known, _log_ratio(measured, twin), 0.0)
        off = np.where(np.isfinite(off), off, 0.0)
        if before is not None:
            moved = theta - before[0]
            found = np.divide(before[1] - off, moved, out=slope.copy(), where=np.abs(moved) > 0.02)
            slope = np.clip(found, *SLOPES)
        before = (theta.copy(), off.copy())
        if n == ROUNDS - 1 or (np.abs(off) < CLOSE).all():
            break
        theta = np.clip(theta + off / slope, -MOST, MOST)
    factors: dict[str, Estimate] = {}
    for p, name in enumerate(names):
        if not known[p]:
            continue
        found_p = _estimate(measured, twin, p, float(theta[p]), float(slope[p]), rng)
        if found_p is None:
            unknown[name] = "too few blocks of traffic for an interval"
        else:
            factors[name] = found_p
    return Speeds(factors, unknown)


@dataclass(frozen=True)
class _Sums:
    """By block, `[B, P]`."""

    running: FloatArray
    tokens: FloatArray


def _sums(stretch: Stretch, real: Run, *runs: Run) -> _Sums:
    """Sums of `runs` over the ticks after the warm ones, of which both are known in the record."""
    rows = slice(stretch.warm + 1, None)
    known = np.isfinite(real.running[rows]) & np.isfinite(real.tokens_per_s[rows])
    lasted_s = stretch.episode.lasted_s[rows, None]
    block = blocks(known.shape[0])
    count = int(block[-1]) + 1
    summed = []
    running = sum(run.running[rows] * lasted_s for run in runs)
    tokens = sum(np.nan_to_num(run.tokens_per_s[rows]) * lasted_s for run in runs)
    for values in (running, tokens):
        total = np.zeros((count, known.shape[1]))
        np.add.at(total, block, np.where(known, np.nan_to_num(values), 0.0))
        summed.append(total)
    return _Sums(*summed)


def _joined(parts: Sequence[_Sums]) -> _Sums:
    return _Sums(np.concatenate([p.running for p in parts]), np.concatenate([p.tokens for p in parts]))


def _log_ratio(real: _Sums, made: _Sums, weights: FloatArray | None = None) -> FloatArray:
    """`[P]`, or `[R, P]` with weights `[R, B]` of the blocks: the logarithm of one statistic over the other."""
    w = np.ones(len(real.running)) if weights is None else weights
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: FloatArray = np.log((w @ real.running) / (w @ real.tokens)) - np.log(
            (w @ made.running) / (w @ made.tokens)
        )
    return ratio


def _estimate(
    real: _Sums, made: _Sums, p: int, theta: float, slope: float, rng: np.random.Generator
) -> Estimate | None:
    """The factor and its interval: how far the two statistics differ from block to block, both with the same traffic."""
    own, other = (_Sums(s.running[:, [p]], s.tokens[:, [p]]) for s in (real, made))
    busy = (own.tokens[:, 0] > 0) & (other.tokens[:, 0] > 0)
    own, other = (_Sums(s.running[busy], s.tokens[busy]) for s in (own, other))

    def factor(weights: FloatArray) -> FloatArray:
        values: FloatArray = np.exp(theta + _log_ratio(own, other, weights)[:, 0] / slope)
        return values

    found = bootstrap(factor, int(busy.sum()), rng, believed=1.0)
    if found is None:
        return None
    low = found.value * math.exp(-math.hypot(math.log(found.value / found.low), SYSTEMATIC))
    high = found.value * math.exp(math.hypot(math.log(found.high / found.value), SYSTEMATIC))
    return replace(found, low=low, high=high, by=f"{found.by}, simulated beside")
