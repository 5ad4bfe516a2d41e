"""What a class's requests are: arrivals, lengths, shared prefixes, sessions, batches of jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from .fields import MAX_TOKENS, Cv, NonNegativeFloat, PositiveFloat, RatePerS, Share, Strict, Zipf
from .lengths import LengthSpec
from .shapes import DAY_S, RateShape

Arrivals: TypeAlias = Literal["poisson", "gamma", "weibull"]
Correlation = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class SharedPrefix(Strict):
    """System prompts: what many prompts of a class begin with."""

    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Different ones."""
    zipf: Zipf = 1.0
    """The k-th most popular is used in proportion to k to the power of minus this; 0: all alike."""
    tokens: LengthSpec
    """Length of each, drawn once a run. They come before a request's own `prompt_tokens`."""
    share: Share = 1.0
    """Of the requests (or sessions) that begin with one."""

    @model_validator(mode="after")
    def _long(self) -> SharedPrefix:
        if self.tokens.least < 1:
            raise ValueError("tokens: wanted at least 1 token in a shared prefix, got 0")
        return self


class Clients(Strict):
    """Of whom the class's requests come: few large and many small senders."""

    count: Annotated[int, Field(ge=1, le=10_000)]
    zipf: Zipf = 1.0
    """The k-th largest sends in proportion to k to the power of minus this; 0: all alike."""


def _check_arrivals(arrivals: Arrivals, cv: float) -> None:
    if arrivals == "poisson" and cv != 1.0:
        raise ValueError(f"cv: Poisson arrivals have cv 1, got {cv:g}; wanted arrivals: gamma or weibull")


class ClassLoad(Strict):
    """Single requests of one class."""

    kind: Literal["requests"] = "requests"
    rate_per_s: RatePerS
    """Mean rate. `diurnal`, `weekly` and `bursts` keep it in the long run; `ramp` and `steps` multiply it as written."""
    arrivals: Arrivals = "poisson"
    """Distribution of the time between arrivals (at a constant rate)."""
    cv: Cv = 1.0
    """Coefficient of variation of the time between arrivals (at a constant rate); 1 is Poisson, above 1 is bursty."""
    clients: Clients | None = None
    """Left out: one stream. Else each client sends a stream of its own, with `arrivals` and `cv`, and the class is
    their sum."""
    shape: tuple[RateShape, ...] = ()
    """How the rate moves; multiplied together."""
    prompt_tokens: LengthSpec
    """Without the shared prefix."""
    output_tokens: LengthSpec
    correlation: Correlation = 0.0
    """Between prompt and output length: of the normal scores (Gaussian copula), so about the rank correlation."""
    shared_prefix: SharedPrefix | None = None

    @model_validator(mode="after")
    def _possible(self) -> ClassLoad:
        _check_arrivals(self.arrivals, self.cv)
        _check_prompt("prompt_tokens", self.prompt_tokens)
        return self

    def scaled(self, factor: float) -> ClassLoad:
        """The same requests, this many times as often."""
        return self.model_copy(update={"rate_per_s": self.rate_per_s * factor})


class SessionLoad(Strict):
    """Conversations of one class: each turn's prompt holds all that was said before."""

    kind: Literal["sessions"]
    sessions_per_s: RatePerS
    """Mean rate at which sessions start. A run begins amid sessions that started before it."""
    arrivals: Arrivals = "poisson"
    """Distribution of the time between starts (at a constant rate)."""
    cv: Cv = 1.0
    shape: tuple[RateShape, ...] = ()
    """How the rate of starts moves."""
    turns_mean: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]
    """Mean number of turns; geometric, at least 1."""
    think_s: PositiveFloat
    """Mean time from the arrival of one turn to that of the next: answering, reading, thinking, typing."""
    think_cv: Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)] = 1.0
    """Of the log-normal think time; 0: always the mean."""
    message_tokens: LengthSpec
    """What the user adds in a turn."""
    output_tokens: LengthSpec
    """The answer, which the next turn's prompt repeats."""
    shared_prefix: SharedPrefix | None = None
    """System prompt of a session."""
    max_prompt_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 131_072
    """A session ends before the turn whose prompt would be longer."""

    @model_validator(mode="after")
    def _possible(self) -> SessionLoad:
        _check_arrivals(self.arrivals, self.cv)
        _check_prompt("message_tokens", self.message_tokens)
        return self

    def scaled(self, factor: float) -> SessionLoad:
        """The same sessions, this many times as often."""
        return self.model_copy(update={"sessions_per_s": self.sessions_per_s * factor})


class JobLoad(Strict):
    """Batches of jobs of one class, handed in at set times: work that may wait for the class's deadline."""

    kind: Literal["jobs"]
    every_s: PositiveFloat = DAY_S
    """The times repeat with this period."""
    at_s: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1, max_length=1000)] = (0.0,)
    """When batches come, from the start of each period; 79200 is 22:00 of a day that begins with the run."""
    requests_mean: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
    """Mean number of requests in a batch."""
    requests_cv: Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)] = 0.0
    """Spread of that number (gamma); 0: always the mean."""
    over_s: NonNegativeFloat = 0.0
    """A batch's requests arrive evenly spread at random over this time; 0: all at once."""
    prompt_tokens: LengthSpec
    output_tokens: LengthSpec
    correlation: Correlation = 0.0
    shared_prefix: SharedPrefix | None = None

    @model_validator(mode="after")
    def _possible(self) -> JobLoad:
        _check_prompt("prompt_tokens", self.prompt_tokens)
        if max(self.at_s) >= self.every_s:
            raise ValueError(f"at_s: {max(self.at_s):g}: wanted less than every_s, {self.every_s:g}")
        return self

    def scaled(self, factor: float) -> JobLoad:
        """Batches of this many times as many requests."""
        return self.model_copy(update={"requests_mean": self.requests_mean * factor})


def _check_prompt(field: str, spec: LengthSpec) -> None:
    if spec.least < 1:
        raise ValueError(f"{field}: wanted at least 1 token in every prompt, got 0")


def _kind(load: Any) -> str:
    kind = load.get("kind", "requests") if isinstance(load, dict) else getattr(load, "kind", "requests")
    return kind if isinstance(kind, str) else "unknown"


AnyLoad: TypeAlias = Annotated[
    Annotated[ClassLoad, Tag("requests")] | Annotated[SessionLoad, Tag("sessions")] | Annotated[JobLoad, Tag("jobs")],
    Discriminator(
        _kind,
        custom_error_type="load_kind",
        custom_error_message="kind: wanted requests (if left out), sessions or jobs",
    ),
]
