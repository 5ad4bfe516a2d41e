"""How a rate moves."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from .fields import Factor, NonNegativeFloat, PositiveFloat, Strict

HOUR_S, DAY_S, WEEK_S = 3600.0, 86_400.0, 604_800.0


class Diurnal(Strict):
    """The rate times 1 + amplitude cos(2 pi (t - peak_at_s) / period_s); its mean over a period is 1."""

    kind: Literal["diurnal"] = "diurnal"
    period_s: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 86_400.0
    amplitude: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    peak_at_s: Annotated[float, Field(allow_inf_nan=False)] = 0.0


class Bursts(Strict):
    """Bursts at random times; the quiet rate is lowered so that the long-run mean stays that of the class."""

    kind: Literal["bursts"] = "bursts"
    every_s: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Mean time from the start of one burst to the start of the next; the quiet between is exponential."""
    duration_s: PositiveFloat
    factor: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]
    """Rate in a burst over rate outside."""

    @model_validator(mode="after")
    def _leaves_quiet(self) -> Bursts:
        if self.duration_s >= self.every_s:
            raise ValueError(f"wanted duration_s < every_s, got {self.duration_s:g} and {self.every_s:g}")
        return self

    @property
    def quiet_level(self) -> float:
        """What the rate is multiplied by outside bursts."""
        return 1.0 / (1.0 + (self.factor - 1.0) * self.duration_s / self.every_s)


class _Points(Strict):
    times_s: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1, max_length=100_000)]
    """The first is 0, each later than the one before."""
    factors: Annotated[tuple[Factor, ...], Field(min_length=1)]
    """One for each time; 1 is the class's `rate_per_s`."""

    @model_validator(mode="after")
    def _paired(self) -> _Points:
        if len(self.times_s) != len(self.factors):
            raise ValueError(
                f"wanted one factor a time, got {len(self.times_s)} times_s and {len(self.factors)} factors"
            )
        if self.times_s[0] != 0.0:
            raise ValueError(f"times_s: wanted 0 first, got {self.times_s[0]:g}")
        for before, after in zip(self.times_s, self.times_s[1:], strict=False):
            if after <= before:
                raise ValueError(f"times_s: wanted each later than the one before, got {after:g} after {before:g}")
        return self


class Ramp(_Points):
    """The rate times a factor drawn straight from point to point, and held after the last."""

    kind: Literal["ramp"] = "ramp"


class Steps(_Points):
    """The rate times a factor held from its time to the next."""

    kind: Literal["steps"] = "steps"


class Weekly(Strict):
    """The rate times a factor for each day or each hour of the week, over their mean: its mean over a week is 1."""

    kind: Literal["weekly"] = "weekly"
    factors: Annotated[tuple[Factor, ...], Field(min_length=7, max_length=168)]
    """7 (one a day) or 168 (one an hour), Monday first."""
    starts_at_s: Annotated[float, Field(ge=0, lt=WEEK_S, allow_inf_nan=False)] = 0.0
    """Time of the week at which the run begins: seconds since Monday 0:00."""

    @model_validator(mode="after")
    def _whole(self) -> Weekly:
        if len(self.factors) not in (7, 168):
            raise ValueError(f"factors: wanted 7 (days) or 168 (hours), got {len(self.factors)}")
        if not any(self.factors):
            raise ValueError("factors: wanted one above 0")
        return self

    @property
    def step_s(self) -> float:
        """How long each factor holds."""
        return WEEK_S / len(self.factors)


RateShape: TypeAlias = Annotated[Diurnal | Weekly | Bursts | Ramp | Steps, Field(discriminator="kind")]
