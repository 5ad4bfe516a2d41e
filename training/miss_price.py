"""At which price of a miss a policy holds its targets: a search over a frontier that ought to be monotone.

A trained policy takes the price as input, so one network holds a whole frontier of bill against misses; what ships is
the cheapest price that holds the targets (`criterion.HELD`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .criterion import HELD, Outcome, loss

PRICES: Final = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0)
"""Grid that the search starts from, in reference bills for a whole allowance: the range that is trained on."""
HEADROOMS: Final = (0.88, 0.94, 1.0)
"""Factors on what the network thinks that classes need, each with a search of its own: the range of prices alone is narrow."""
HALVINGS: Final = 2
"""Times that the interval between missed and held is halved, on a logarithmic scale."""


@dataclass(frozen=True)
class Point:
    """A price and what comes of it."""

    miss_price: float
    outcome: Outcome

    @property
    def held(self) -> bool:
        """Whether the targets are held."""
        return self.outcome.shortfall <= HELD

    def as_json(self) -> dict[str, float | bool]:
        """For a card."""
        return {
            "miss_price": self.miss_price,
            "bill_ratio": self.outcome.bill_ratio,
            "shortfall": self.outcome.shortfall,
            "loss": loss(self.outcome),
            "held": self.held,
        }


@dataclass(frozen=True)
class Settled:
    """The price that was chosen, and all that were tried."""

    chosen: Point
    points: tuple[Point, ...]
    """From the lowest price to the highest."""
    headroom: float = 1.0
    """Times what the network thought that classes need."""
    steps: int = 0
    """Of training, after which the weights were these."""

    @property
    def monotone(self) -> bool:
        """Whether a higher price never misses more: if not, the frontier is noisy, and more seeds are due."""
        shortfalls = [point.outcome.shortfall for point in self.points]
        return all(b <= a + 1e-9 for a, b in itertools.pairwise(shortfalls))

    def table(self) -> list[dict[str, float | bool]]:
        """For a card."""
        return [point.as_json() for point in self.points]


def settle(
    outcomes_at: Callable[[Sequence[float]], Sequence[Outcome]],
    prices: Sequence[float] = PRICES,
    halvings: int = HALVINGS,
) -> Settled:
    """The lowest price from which on every price that was tried holds the targets.

    If none holds, the price of least loss. `outcomes_at` scores several prices at once, so that they can be run side
    by side.
    """
    grid = sorted(prices)
    points = [Point(p, outcome) for p, outcome in zip(grid, outcomes_at(grid), strict=True)]
    for _ in range(halvings):
        held = _held_from(points)
        if held in (0, len(points)):
            break  # everything holds, or nothing does: there is no interval to halve
        middle = float(np.sqrt(points[held - 1].miss_price * points[held].miss_price))
        points.insert(held, Point(middle, outcomes_at([middle])[0]))
    held = _held_from(points)
    chosen = points[held] if held < len(points) else min(points, key=lambda p: loss(p.outcome))
    return Settled(chosen, tuple(points))


def _held_from(points: Sequence[Point]) -> int:
    """Index from which on all hold; the number of points if the last one does not."""
    missed = [i for i, point in enumerate(points) if not point.held]
    return missed[-1] + 1 if missed else 0
