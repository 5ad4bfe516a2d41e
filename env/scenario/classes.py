"""What a scenario file says of one class of requests under `classes:`, validated."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .fields import PositiveFloat, Share, Strict
from .routing import ClassRouting, Match


class Target(Strict):
    """What the user asks for one class. Either latency targets, or a deadline for work that may wait."""

    ttft_s: PositiveFloat | None = None
    """Time to first token."""
    tpot_s: PositiveFloat | None = None
    """Mean time per output token after the first."""
    e2e_s: PositiveFloat | None = None
    """From arrival to the last token."""
    deadline_s: PositiveFloat | None = None
    """From first arrival, retries included, to the last token: the class may be put off until then."""
    attainment: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Wanted share of requests that meet all their targets."""

    @model_validator(mode="after")
    def _has_target(self) -> Target:
        latencies = (self.ttft_s, self.tpot_s, self.e2e_s)
        if self.deadline_s is None and all(v is None for v in latencies):
            raise ValueError("wanted at least one of ttft_s, tpot_s, e2e_s, deadline_s")
        if self.deadline_s is not None and any(v is not None for v in latencies):
            raise ValueError("a deferrable class has a deadline_s and no latency target")
        return self


class RequestClass(Strict):
    """Requests for one model that share a target and a shape."""

    target: Target
    model: str | None = None
    """Overrides the scenario's model."""
    pools: tuple[str, ...] | None = None
    """Only these pools may serve it; left out: all that hold its model."""
    shares: dict[str, Share] | None = None
    """A plan's share of the class for each pool, as `poolpilot plan --write` leaves it: what the policy `held-plan` routes
    by. Together at most 1; of what is missing to 1, it turns requests away."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    """Of its requests in engines that schedule by priority, as vLLM has it: the lower, the sooner."""
    quality_floor: Share | None = None
    """Least share of the 16-bit model's score on published benchmarks that the weights' precision must keep, when
    `poolpilot plan` chooses pools; left out: `planning.quality_floor`."""
    match: Match = Match()
    routing: ClassRouting = ClassRouting()
