"""The alternative to a price of misses as input: multipliers that follow the misses of the rollouts.

One for interactive and one for deferrable classes. A plain multiplicative update swings from one end to the other,
because misses answer minutes after the multiplier and come in bursts; so the error is smoothed, its step bounded,
and the multiplier kept between bounds.

Symbols: `C` classes, `K` kinds of class (`KINDS`), `...` optional leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ..env.contract import BoolArray, FloatArray

KINDS: Final = ("interactive", "deferrable")
LOWEST, HIGHEST = 0.02, 5.0
"""Bounds of a multiplier: below, misses are free; above, the bill no longer counts."""
STEP: Final = 0.1
"""Most by which the logarithm of a multiplier moves at an update."""
MEMORY: Final = 0.8
"""Share of the smoothed error that the last updates keep: of about five."""


def of_kind(deferrable: BoolArray) -> BoolArray:
    """`[..., K, C]` which classes are of which kind."""
    return np.stack([~deferrable, deferrable], axis=-2)


@dataclass
class Multipliers:
    """What missing a whole allowance costs at present, in reference bills, by kind of class."""

    values: FloatArray = field(default_factory=lambda: np.full(len(KINDS), 0.3))
    """`[K]`"""
    error: FloatArray = field(default_factory=lambda: np.zeros(len(KINDS)))
    """`[K]` smoothed, from -1 (nothing missed) to 1 (at least twice what is allowed)."""

    def update(self, missed: FloatArray) -> None:
        """Follow the misses of a rollout.

        Args:
            missed: `[K]` in allowances, 1 is as much as the targets allow; NaN where the kind had no requests.
        """
        fresh = np.clip(missed - 1.0, -1.0, 1.0)
        smoothed = MEMORY * self.error + (1.0 - MEMORY) * fresh
        self.error = np.where(np.isnan(fresh), self.error, smoothed)
        moved = self.values * np.exp(STEP * self.error)
        self.values = np.where(np.isnan(fresh), self.values, np.clip(moved, LOWEST, HIGHEST))

    def prices(self, deferrable: BoolArray) -> FloatArray:
        """`[..., C]` the multiplier of each class."""
        prices: FloatArray = np.where(deferrable, self.values[1], self.values[0])
        return prices

    def as_json(self) -> dict[str, list[float]]:
        """To resume from (`from_json`)."""
        return {"values": self.values.tolist(), "error": self.error.tolist()}

    @classmethod
    def from_json(cls, kept: dict[str, Sequence[float]]) -> Multipliers:
        """What `as_json` gave.

        Raises:
            ValueError: not two finite numbers each, or a multiplier out of bounds.
        """
        values, error = (np.asarray(kept[name], dtype=np.float64) for name in ("values", "error"))
        if values.shape != (len(KINDS),) or error.shape != (len(KINDS),):
            raise ValueError(f"multipliers {kept}: wanted {len(KINDS)} values and errors")
        if not ((values >= LOWEST) & (values <= HIGHEST) & (np.abs(error) <= 1.0)).all():
            raise ValueError(f"multipliers {kept}: wanted values in [{LOWEST}, {HIGHEST}] and errors in [-1, 1]")
        return cls(values, error)
