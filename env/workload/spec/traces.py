"""Traces: which file, which part of it, how it is scaled, and which class each request becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from .fields import NonNegativeFloat, PositiveFloat, Share, Strict, Tokens

TraceFormat: TypeAlias = Literal["azure", "burstgpt", "mooncake", "plain"]
Hour = Annotated[float, Field(ge=0, le=24, allow_inf_nan=False)]
LabelValue = Annotated[str, Field(max_length=200)] | int


class AssignRule(Strict):
    """Requests that become one class: those still without a class that meet every condition, or a share of them."""

    class_name: str = Field(alias="class")
    min_prompt_tokens: Tokens | None = None
    max_prompt_tokens: Tokens | None = None
    """Bounds are inclusive."""
    min_output_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    where: dict[str, LabelValue | tuple[LabelValue, ...]] = Field(default_factory=dict)
    """What the trace must say of the request, one value or any of several: `model` and `log_type` (BurstGPT), `model`
    and `class` (plain, if it has these columns), `client` (ServeGen)."""
    hours: tuple[Hour, Hour] | None = None
    """Hours of the day, from the first up to the second: [22, 6] is the night. Only where times are clock times."""
    share: Share = 1.0
    """Of those still without a class that meet the conditions, drawn at random by the run's seed."""

    @model_validator(mode="after")
    def _ordered(self) -> AssignRule:
        for what in ("prompt_tokens", "output_tokens"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"wanted min_{what} <= max_{what}, got {low} and {high}")
        if self.hours is not None and self.hours[0] == self.hours[1]:
            raise ValueError(f"hours: wanted two different hours, got {self.hours[0]:g} twice")
        return self

    @property
    def catches_all(self) -> bool:
        """Whether no request can slip past it."""
        bounds = (self.min_prompt_tokens, self.max_prompt_tokens, self.min_output_tokens, self.max_output_tokens)
        return self.share == 1.0 and all(bound is None for bound in (*bounds, self.hours)) and not self.where


Rules: TypeAlias = Annotated[tuple[AssignRule, ...], Field(min_length=1, max_length=1000)]


class Scaling(Strict):
    """How more or fewer requests are made of those that a trace has."""

    kind: Literal["compress", "thin", "superpose", "resample"]
    """`compress`: the same requests in less (or more) time: gaps keep their shape, days become shorter (or longer).
    `thin`: a share of the requests, drawn one by one: gaps become more regular than they were.
    `superpose`: several copies of the trace, each shifted in time by a random part of it: as from independent services.
    `resample`: the slow movement of the rate stays where it is, and so do the gaps' spread and clusters: stretches of
    consecutive requests, drawn at random from near by, are put one after another at the new rate."""
    factor: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
    """Requests per second after over before."""
    window_s: PositiveFloat = 600.0
    """For `resample`: what is slower than this counts as movement of the rate, what is faster as gaps."""

    @model_validator(mode="after")
    def _possible(self) -> Scaling:
        if self.kind == "thin" and self.factor > 1:
            raise ValueError(f"factor: wanted at most 1 to thin, got {self.factor:g}")
        if self.kind == "superpose" and (self.factor < 1 or self.factor != round(self.factor)):
            raise ValueError(f"factor: wanted a whole number of copies, got {self.factor:g}")
        return self


class _Span(Strict):
    start_s: NonNegativeFloat = 0.0
    """Part to use, in the trace's own time from its first row."""
    end_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _forward(self) -> _Span:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"wanted start_s < end_s, got {self.start_s:g} and {self.end_s:g}")
        return self


class TraceSpec(_Span):
    """Requests replayed from a file. The load ends where the trace ends, even if the run goes on."""

    kind: Literal["trace"] = "trace"
    path: Path
    """CSV, Parquet or JSON lines, plain or packed (gzip, zstd, bzip2, lz4); a relative path starts at the scenario
    file's folder."""
    format: TraceFormat | None = None
    """`azure`: TIMESTAMP, ContextTokens, GeneratedTokens; `burstgpt`: Timestamp, Model, Request tokens, Response
    tokens, Log Type; `mooncake`: timestamp, input_length, output_length, hash_ids; `plain`: arrival_s, input_tokens,
    output_tokens. Left out: told from the columns."""
    keep: Share = 1.0
    """Share of the rows that are used, drawn one by one while reading (as `scale: {kind: thin}`, in less memory)."""
    keep_failed: bool = False
    """BurstGPT only: whether rows without response tokens, which are requests that failed, are replayed as
    prefill-only ones."""
    block_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Tokens that one of `hash_ids` stands for."""
    rate_factor: PositiveFloat = 1.0
    """The trace is replayed this many times as fast: the same as `scale: {kind: compress}`."""
    scale: Scaling | None = None
    """On top of `rate_factor`."""
    assign: Rules | None = None
    """Tried in order; the last catches all. Left out: the trace's column `class` says it."""

    @model_validator(mode="after")
    def _complete(self) -> TraceSpec:
        check_rules(self.assign or ())
        return self

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Class names that appear here."""
        return _classes_of(self.assign or ())


class ServegenSpec(_Span):
    """Requests drawn as the clients of a ServeGen service sent them: each client's own rate, gaps and lengths."""

    kind: Literal["servegen"]
    path: Path
    """Either a table of clients (`*_clients.parquet`) or a folder of chunk-*-trace.csv and chunk-*-dataset.json."""
    lengths: Path | None = None
    """Table of quantiles of the lengths. Left out: the file beside `path` that is called *_lengths instead of
    *_clients."""
    rate_per_s: PositiveFloat | None = None
    """Mean total rate over the part that is used; all clients are scaled alike. Left out: as it was."""
    assign: Rules
    """Tried in order; the last catches all."""

    @model_validator(mode="after")
    def _complete(self) -> ServegenSpec:
        check_rules(self.assign)
        return self

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Class names that appear here."""
        return _classes_of(self.assign)


def check_rules(rules: tuple[AssignRule, ...]) -> None:
    """Raise unless the last rule, and no other, catches all."""
    if rules and not rules[-1].catches_all:
        raise ValueError("assign: wanted a last rule with only `class`, so that every request gets a class")
    for i, rule in enumerate(rules[:-1]):
        if rule.catches_all:
            raise ValueError(f"assign[{i}]: catches all, so later rules never apply; wanted it last")


def _classes_of(rules: tuple[AssignRule, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rule.class_name for rule in rules))
