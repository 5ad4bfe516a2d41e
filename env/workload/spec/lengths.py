"""How long prompts and answers are."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PrivateAttr, model_validator

from ..lengths import clipped_lognormal_mean, lognormal_from_mean_p95
from .fields import MAX_TOKENS, PositiveTokens, Strict, Tokens


class Fixed(Strict):
    """Every request has the same length."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens
    """0 output tokens: a prefill-only class, such as embeddings."""

    @property
    def least(self) -> int:
        """Shortest length it can give."""
        return self.tokens

    @property
    def mean_tokens(self) -> float:
        """Expected length."""
        return float(self.tokens)


class Lognormal(Strict):
    """Log-normal lengths held between `min` and `max`, given by mean and p95 or by median and sigma.

    `mean` and `p95` are those of the lengths as served, after `min` and `max`; `median` and `sigma` (standard
    deviation of the logarithm) are those before.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: PositiveTokens | None = None
    p95: PositiveTokens | None = None
    median: PositiveTokens | None = None
    sigma: Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)] | None = None
    min: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 1
    max: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 131_072
    _mu_sigma: tuple[float, float] = PrivateAttr(default=(0.0, 0.0))

    @model_validator(mode="after")
    def _solved(self) -> Lognormal:
        if self.min >= self.max:
            raise ValueError(f"wanted min < max, got {self.min} and {self.max}")
        given = {name for name in ("mean", "p95", "median", "sigma") if getattr(self, name) is not None}
        if self.mean is not None and self.p95 is not None and len(given) == 2:
            self._mu_sigma = lognormal_from_mean_p95(self.mean, self.p95, self.min, self.max)
        elif self.median is not None and self.sigma is not None and len(given) == 2:
            if not self.min <= self.median <= self.max:
                raise ValueError(f"wanted min <= median <= max, got {self.min}, {self.median:g}, {self.max}")
            self._mu_sigma = math.log(self.median), self.sigma
        else:
            raise ValueError(
                f"wanted either mean and p95, or median and sigma, got {', '.join(sorted(given)) or 'none'}"
            )
        return self

    @property
    def mu_sigma(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm, before `min` and `max`."""
        return self._mu_sigma

    @property
    def least(self) -> int:
        """Shortest length it can give."""
        return self.min

    @property
    def mean_tokens(self) -> float:
        """Expected length, before rounding to whole tokens."""
        return clipped_lognormal_mean(*self._mu_sigma, self.min, self.max)


class Bimodal(Strict):
    """A mixture of short and long requests."""

    kind: Literal["bimodal"] = "bimodal"
    short: Lognormal
    long: Lognormal
    long_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """Share of requests drawn from `long`."""

    @property
    def least(self) -> int:
        """Shortest length it can give."""
        return min(self.short.least, self.long.least)

    @property
    def mean_tokens(self) -> float:
        """Expected length, before rounding to whole tokens."""
        return (1.0 - self.long_share) * self.short.mean_tokens + self.long_share * self.long.mean_tokens


LengthSpec: TypeAlias = Annotated[Lognormal | Fixed | Bimodal, Field(discriminator="kind")]
