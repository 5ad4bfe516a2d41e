"""What a scenario file says under `workload:`, validated.

```yaml
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 6
      arrivals: gamma
      cv: 1.5
      shape:
        - {kind: diurnal, period_s: 86400, amplitude: 0.5, peak_at_s: 50400}
        - {kind: bursts, every_s: 1800, duration_s: 120, factor: 3}
      prompt_tokens: {kind: lognormal, mean: 1155, p95: 3300, max: 8000}
      output_tokens: {kind: lognormal, median: 130, sigma: 1.0, max: 1500}
```
or
```yaml
workload:
  kind: trace
  path: traces/azure.csv
  rate_factor: 0.5
  assign:
    - {class: summarisation, min_prompt_tokens: 2000}
    - {class: batch, share: 0.1}
    - {class: chat}
```
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from .lengths import clipped_lognormal_mean, lognormal_from_mean_p95

MAX_TOKENS = 10_000_000
"""More tokens in one request than any served model takes; a larger figure is a mistake in the data."""

Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
PositiveTokens = Annotated[float, Field(gt=0, le=MAX_TOKENS, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Fixed(_Strict):
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


class Lognormal(_Strict):
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


class Bimodal(_Strict):
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


class Diurnal(_Strict):
    """The rate times 1 + amplitude cos(2 pi (t - peak_at_s) / period_s); its mean over a period is 1."""

    kind: Literal["diurnal"] = "diurnal"
    period_s: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 86_400.0
    amplitude: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    peak_at_s: Annotated[float, Field(allow_inf_nan=False)] = 0.0


class Bursts(_Strict):
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


class _Points(_Strict):
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


RateShape: TypeAlias = Annotated[Diurnal | Bursts | Ramp | Steps, Field(discriminator="kind")]


class ClassLoad(_Strict):
    """The requests of one class."""

    rate_per_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    """Mean rate. `diurnal` and `bursts` keep it in the long run; `ramp` and `steps` multiply it as written."""
    arrivals: Literal["poisson", "gamma", "weibull"] = "poisson"
    """Distribution of the time between arrivals (at a constant rate)."""
    cv: Annotated[float, Field(ge=0.05, le=10, allow_inf_nan=False)] = 1.0
    """Coefficient of variation of the time between arrivals (at a constant rate); 1 is Poisson, above 1 is bursty."""
    shape: tuple[RateShape, ...] = ()
    """How the rate moves; multiplied together."""
    prompt_tokens: LengthSpec
    output_tokens: LengthSpec
    correlation: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] = 0.0
    """Between prompt and output length: of the normal scores (Gaussian copula), so about the rank correlation."""

    @model_validator(mode="after")
    def _possible(self) -> ClassLoad:
        if self.arrivals == "poisson" and self.cv != 1.0:
            raise ValueError(f"cv: Poisson arrivals have cv 1, got {self.cv:g}; wanted arrivals: gamma or weibull")
        if self.prompt_tokens.least < 1:
            raise ValueError("prompt_tokens: wanted at least 1 token in every prompt, got 0")
        return self


class GeneratedSpec(_Strict):
    """Requests drawn from distributions."""

    kind: Literal["generated"] = "generated"
    classes: Annotated[dict[str, ClassLoad], Field(min_length=1)]
    """A class of the scenario that is not named here gets no requests."""

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Class names that appear here."""
        return tuple(self.classes)


class AssignRule(_Strict):
    """Requests that become one class: those still without a class that meet every condition, or a share of them."""

    class_name: str = Field(alias="class")
    min_prompt_tokens: Tokens | None = None
    max_prompt_tokens: Tokens | None = None
    """Bounds are inclusive."""
    min_output_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Of those still without a class that meet the conditions, drawn at random by the run's seed."""

    @model_validator(mode="after")
    def _ordered(self) -> AssignRule:
        for what in ("prompt_tokens", "output_tokens"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"wanted min_{what} <= max_{what}, got {low} and {high}")
        return self

    @property
    def catches_all(self) -> bool:
        """Whether no request can slip past it."""
        bounds = (self.min_prompt_tokens, self.max_prompt_tokens, self.min_output_tokens, self.max_output_tokens)
        return self.share == 1.0 and all(bound is None for bound in bounds)


class TraceSpec(_Strict):
    """Requests replayed from a file. The load ends where the trace ends, even if the run goes on."""

    kind: Literal["trace"] = "trace"
    path: Path
    """CSV or Parquet; a relative path starts at the scenario file's folder."""
    format: Literal["azure", "plain"] | None = None
    """`azure`: TIMESTAMP, ContextTokens, GeneratedTokens; `plain`: arrival_s, input_tokens, output_tokens. Left out:
    told from the columns."""
    start_s: NonNegativeFloat = 0.0
    """Part of the trace to use, in its own time from its first row."""
    end_s: PositiveFloat | None = None
    rate_factor: PositiveFloat = 1.0
    """The trace is replayed this many times as fast."""
    assign: Annotated[tuple[AssignRule, ...], Field(min_length=1)]
    """Tried in order; the last catches all."""

    @model_validator(mode="after")
    def _complete(self) -> TraceSpec:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"wanted start_s < end_s, got {self.start_s:g} and {self.end_s:g}")
        if not self.assign[-1].catches_all:
            raise ValueError("assign: wanted a last rule with only `class`, so that every request gets a class")
        for i, rule in enumerate(self.assign[:-1]):
            if rule.catches_all:
                raise ValueError(f"assign[{i}]: catches all, so later rules never apply; wanted it last")
        return self

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Class names that appear here."""
        return tuple(dict.fromkeys(rule.class_name for rule in self.assign))


WorkloadSpec: TypeAlias = Annotated[GeneratedSpec | TraceSpec, Field(discriminator="kind")]
"""What a scenario holds under `workload:`."""
