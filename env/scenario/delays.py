"""How long something takes, as a scenario says it: fixed, log-normal, or by measured quantiles."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from .fields import NonNegativeFloat, Share, Strict

MAX_KNOTS: Final = 16
"""Most quantiles of one delay: they are laid out in rows of one width for compiled code."""


class FixedDelay(Strict):
    """Always as long. A plain number stands for one."""

    kind: Literal["fixed"] = "fixed"
    s: NonNegativeFloat
    """Seconds."""

    @property
    def mean_s(self) -> float:
        """Expected delay."""
        return self.s

    def at(self, share: float) -> float:
        """The delay that this share of all is shorter than."""
        return self.s

    def scaled(self, factor: float) -> FixedDelay:
        """So many times as long."""
        return FixedDelay(kind="fixed", s=self.s * factor)


class LognormalDelay(Strict):
    """Log-normal, by its mean and its spread."""

    kind: Literal["lognormal"] = "lognormal"
    mean_s: NonNegativeFloat
    """Expected delay."""
    spread_frac: Annotated[float, Field(ge=0, le=5)] = 0.2
    """Standard deviation over mean."""

    def at(self, share: float) -> float:
        """The delay that this share of all is shorter than."""
        variance = math.log1p(self.spread_frac**2)
        if variance == 0.0 or self.mean_s == 0.0:
            return self.mean_s
        normal = NormalDist().inv_cdf(min(max(share, 1e-12), 1.0 - 1e-12))
        return self.mean_s * math.exp(math.sqrt(variance) * normal - 0.5 * variance)

    def scaled(self, factor: float) -> LognormalDelay:
        """So many times as long."""
        return LognormalDelay(kind="lognormal", mean_s=self.mean_s * factor, spread_frac=self.spread_frac)


class EmpiricalDelay(Strict):
    """By quantiles of what was measured, straight lines between them."""

    kind: Literal["empirical"] = "empirical"
    quantiles: Annotated[tuple[tuple[Share, NonNegativeFloat], ...], Field(min_length=2, max_length=MAX_KNOTS)]
    """Pairs of share and seconds: from share 0 (the shortest) to share 1 (the longest), both rising."""

    @model_validator(mode="after")
    def _rising(self) -> EmpiricalDelay:
        shares = [share for share, _ in self.quantiles]
        if shares[0] != 0.0 or shares[-1] != 1.0:
            raise ValueError(f"quantiles: wanted shares from 0 to 1, got {shares[0]:g} to {shares[-1]:g}")
        for (share, seconds), (next_share, next_seconds) in pairwise(self.quantiles):
            if next_share <= share or next_seconds < seconds:
                raise ValueError(
                    f"quantiles: wanted rising pairs, got [{next_share:g}, {next_seconds:g}] after [{share:g}, {seconds:g}]"
                )
        return self

    @property
    def mean_s(self) -> float:
        """Expected delay."""
        return sum((b - a) * (x + y) / 2.0 for (a, x), (b, y) in pairwise(self.quantiles))

    def at(self, share: float) -> float:
        """The delay that this share of all is shorter than."""
        for (a, x), (b, y) in pairwise(self.quantiles):
            if share < b:
                return x + (y - x) * (share - a) / (b - a)
        return self.quantiles[-1][1]

    def scaled(self, factor: float) -> EmpiricalDelay:
        """So many times as long."""
        return EmpiricalDelay(
            kind="empirical", quantiles=tuple((share, seconds * factor) for share, seconds in self.quantiles)
        )


def _plain_number(value: Any) -> Any:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return {"kind": "fixed", "s": value} if plain else value


Delay: TypeAlias = Annotated[
    FixedDelay | LognormalDelay | EmpiricalDelay, Field(discriminator="kind"), BeforeValidator(_plain_number)
]
"""A distribution of seconds, or a number of seconds."""
