"""A rate that moves, and the exact change of time that turns unit-rate arrivals into arrivals at that rate.

Symbols: `K` cells, inside each of which the rate is smooth; `N` arrivals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..contract import FloatArray, IntArray
from .requests import WorkloadError
from .spec import Bursts, Diurnal, Ramp, RateShape, Steps, Weekly

MAX_CELLS = 5_000_000
CELLS_PER_PERIOD = 32
# Four Gauss-Legendre points are exact for polynomials up to degree 7, and good to 1e-13 of the integral of a cosine
# over 1/32 of its period: no step of simulated time, and no thinning, stands between rate and arrivals.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(4)
TOLERANCE = 1e-10  # of a cell's arrivals; rounding late in a run of many days allows no much finer one
MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class RateCurve:
    """Arrivals per second over [0, edges_s[-1]]."""

    edges_s: FloatArray
    """`[K + 1]` sorted; the rate may jump at an edge only."""
    level_per_s: FloatArray
    """`[K]` product of everything that is constant inside a cell."""
    diurnals: tuple[Diurnal, ...]
    ramps: tuple[Ramp, ...]

    def per_s(self, t_s: FloatArray, cell: IntArray) -> FloatArray:
        """The rate at times that lie in the given cells; `cell` broadcasts against `t_s`."""
        rate: FloatArray = np.broadcast_to(self.level_per_s[cell], t_s.shape).copy()
        for diurnal in self.diurnals:
            phase = 2.0 * np.pi / diurnal.period_s * (t_s - diurnal.peak_at_s)
            rate *= 1.0 + diurnal.amplitude * np.cos(phase)
        for ramp in self.ramps:
            rate *= np.interp(t_s, ramp.times_s, ramp.factors)
        return rate

    def expected_in_cell(self, cell: IntArray, for_s: FloatArray) -> FloatArray:
        """`[N]` expected arrivals in the first `for_s` seconds of each cell."""
        half = for_s / 2.0
        at = self.edges_s[cell][:, None] + half[:, None] * (1.0 + NODES)
        expected: FloatArray = half * (self.per_s(at, cell[:, None]) @ WEIGHTS)
        return expected

    def expected_at_edges(self) -> FloatArray:
        """`[K + 1]` expected arrivals from 0 to each edge."""
        cells = np.arange(len(self.level_per_s))
        return np.concatenate([[0.0], np.cumsum(self.expected_in_cell(cells, np.diff(self.edges_s)))])

    def at_start_per_s(self) -> float:
        """The rate at time 0."""
        return float(self.per_s(np.zeros(1), np.zeros(1, np.int64))[0])

    def times_at(self, expected: FloatArray) -> FloatArray:
        """`[N]` the times by which each of `expected` (sorted, less than the total) arrivals were expected.

        Newton's method inside the cell, halving the bracket where it would leave it.
        """
        at_edges = self.expected_at_edges()
        cell = np.searchsorted(at_edges, expected, side="right") - 1
        start_s, in_cell = self.edges_s[cell], at_edges[cell + 1] - at_edges[cell]
        wanted = expected - at_edges[cell]
        low, high = np.zeros(len(cell)), self.edges_s[cell + 1] - start_s
        into_s = high * wanted / in_cell
        active = np.arange(len(cell))
        for _ in range(MAX_STEPS):
            surplus = self.expected_in_cell(cell[active], into_s[active]) - wanted[active]
            open_still = np.abs(surplus) > TOLERANCE * in_cell[active]
            active, surplus = active[open_still], surplus[open_still]
            if not len(active):
                break
            now = into_s[active]
            high[active] = np.where(surplus > 0.0, now, high[active])
            low[active] = np.where(surplus > 0.0, low[active], now)
            with np.errstate(divide="ignore"):
                newton = now - surplus / self.per_s(start_s[active] + now, cell[active])
            inside = (newton > low[active]) & (newton < high[active])
            into_s[active] = np.where(inside, newton, (low[active] + high[active]) / 2.0)
        return np.maximum.accumulate(start_s + into_s)


def rate_curve(
    rate_per_s: float, shapes: Sequence[RateShape], duration_s: float, rngs: Sequence[np.random.Generator]
) -> RateCurve:
    """The rate over a run; `rngs`, one a shape, draw the times of bursts.

    Raises:
        WorkloadError: the shapes change too often for the length of the run.
    """
    starts = {
        i: _burst_starts(shape, duration_s, rng)
        for i, (shape, rng) in enumerate(zip(shapes, rngs, strict=True))
        if isinstance(shape, Bursts)
    }
    edges_s = _edges(shapes, starts, duration_s)
    middle = (edges_s[1:] + edges_s[:-1]) / 2.0
    level = np.full(len(middle), rate_per_s)
    for i, shape in enumerate(shapes):
        if isinstance(shape, Steps):
            level *= np.array(shape.factors)[np.searchsorted(shape.times_s, middle, side="right") - 1]
        elif isinstance(shape, Weekly):
            factors = np.array(shape.factors)
            step = np.floor((middle + shape.starts_at_s) / shape.step_s).astype(np.int64)
            level *= factors[step % len(factors)] / factors.mean()
        elif isinstance(shape, Bursts):
            latest = np.searchsorted(starts[i], middle, side="right") - 1
            bursting = (latest >= 0) & (middle < starts[i][latest] + shape.duration_s)
            level *= shape.quiet_level * np.where(bursting, shape.factor, 1.0)
    return RateCurve(
        edges_s,
        level,
        tuple(shape for shape in shapes if isinstance(shape, Diurnal)),
        tuple(shape for shape in shapes if isinstance(shape, Ramp)),
    )


def _burst_starts(bursts: Bursts, duration_s: float, rng: np.random.Generator) -> FloatArray:
    """Sorted times at which bursts start, the first perhaps before 0, at least one at or after `duration_s`.

    The run begins at a random moment of the endless process, so that a burst may be under way.
    """
    if duration_s / bursts.every_s > MAX_CELLS:
        raise WorkloadError(f"bursts.every_s: {bursts.every_s:g}: too often for a run of {duration_s:g} s")
    quiet_mean_s = bursts.every_s - bursts.duration_s
    under_way, elapsed_frac = rng.random(2)
    first = (
        -elapsed_frac * bursts.duration_s
        if under_way < bursts.duration_s / bursts.every_s
        else rng.exponential(quiet_mean_s)
    )
    gaps = starts = np.array([first])
    while starts[-1] < duration_s:
        n = int((duration_s - starts[-1]) / bursts.every_s) + 16
        gaps = np.concatenate([gaps, bursts.duration_s + rng.exponential(quiet_mean_s, n)])
        starts = np.cumsum(gaps)
    return starts


def _edges(shapes: Sequence[RateShape], starts: dict[int, FloatArray], duration_s: float) -> FloatArray:
    """Where some shape jumps or bends, and often enough between for the quadrature of a cosine."""
    parts: list[FloatArray] = []
    for i, shape in enumerate(shapes):
        if isinstance(shape, Bursts):
            parts += [starts[i], starts[i] + shape.duration_s]
        elif isinstance(shape, Diurnal):
            step_s = shape.period_s / CELLS_PER_PERIOD
            if duration_s / step_s > MAX_CELLS:
                raise WorkloadError(f"diurnal.period_s: {shape.period_s:g}: too short for a run of {duration_s:g} s")
            parts.append(np.arange(0.0, duration_s, step_s))
        elif isinstance(shape, Weekly):
            if duration_s / shape.step_s > MAX_CELLS:
                raise WorkloadError(f"weekly: too many changes in a run of {duration_s:g} s")
            parts.append(np.arange(-(shape.starts_at_s % shape.step_s), duration_s, shape.step_s))
        else:
            parts.append(np.array(shape.times_s))
    inside = np.concatenate([np.empty(0), *parts])
    return np.unique(np.concatenate([[0.0], inside[(inside > 0.0) & (inside < duration_s)], [duration_s]]))
