"""What a scenario file says of the proxy: how it tells classes apart, how long it waits, what sticks to what. Validated."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .fields import NonNegativeFloat, PositiveFloat, Strict

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
"""RFC 9110, section 5.1."""


class WholeRange(Strict):
    """A range of whole numbers; at least one end must be given."""

    at_least: Annotated[int, Field(ge=0)] | None = None
    """The least that is in it; left out: 0."""
    below: Annotated[int, Field(ge=1)] | None = None
    """The least that is above it; left out: no end."""

    @model_validator(mode="after")
    def _holds_something(self) -> WholeRange:
        if self.at_least is None and self.below is None:
            raise ValueError("wanted at_least, below or both")
        if self.below is not None and self.below <= (self.at_least or 0):
            raise ValueError(f"wanted at_least < below, got {self.at_least or 0}, {self.below}")
        return self


class Match(Strict):
    """How a request without the header `x-slo-class` is recognised as one of this class: by all that is given here. A
    request with targets of its own (`x-slo-ttft-ms`, `x-slo-tpot-ms`) goes to the class with the nearest targets first."""

    model: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    """Names by which requests ask for the class's model, such as the engine's served names. Where classes have several
    models, those of the catalogue are known without."""
    body: dict[str, str] = Field(default_factory=dict)
    """JSON fields of the body (dots descend) and the value each must have."""
    max_tokens: WholeRange | None = None
    """How many tokens the request allows at most (`max_tokens` or `max_completion_tokens`); it must say so."""
    body_bytes: WholeRange | None = None
    """How long the body is: nearly the prompt's length, about four bytes a token of English text."""
    path_prefix: str | None = None
    """How the path of the request must begin."""


class ClassRouting(Strict):
    """How the proxy treats requests of one class. Live only: simulation knows no time limits and no sessions."""

    timeout_s: PositiveFloat | None = None
    """Longest time for a whole answer, streams included; then the proxy cuts it. Left out: no limit."""
    idle_timeout_s: PositiveFloat | None = None
    """Longest silence of a request, queueing included; then the proxy cuts it. Left out: no limit."""
    affinity_header: HeaderName | None = None
    """Requests alike in this header (a session or user id) go to the same replica of a pool while it has room, for its KV
    cache holds how they begin. Left out: to the less busy of two."""


class Routing(Strict):
    """How the proxy treats all requests. Live only."""

    slow_start_s: NonNegativeFloat = 10.0
    """A fresh replica's share grows from a tenth to its full one for so long; not in pools with affinity."""
    affinity_load: Annotated[float, Field(ge=1.0, le=10.0)] = 1.25
    """Where requests stick to replicas: most requests that one may have, as a multiple of its pool's mean."""
