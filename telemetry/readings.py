"""What the replicas' pages tell over time: the newest page of each, its age, and what was used since the page before.

Pure. Seconds are the decider's clock (`EngineCollector` says what that is under a speed-up).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .engine_page import EnginePage


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What one replica did between two of its pages; NaN where a page lacks the counter."""

    span_s: float
    """Time between the two pages."""
    prompt_tokens: float
    generation_tokens: float
    preemptions: float
    busy_s: float
    useful_s: float
    token_gap_s: float
    token_gaps: float

    @property
    def tokens_per_s(self) -> float:
        """Prompt and output tokens processed per second."""
        return (self.prompt_tokens + self.generation_tokens) / self.span_s

    @property
    def busy_frac(self) -> float:
        """0..1 share of the span with an iteration under way."""
        return min(self.busy_s / self.span_s, 1.0)

    @property
    def mean_token_gap_s(self) -> float:
        """Mean time between two output tokens; NaN without any."""
        return self.token_gap_s / self.token_gaps if self.token_gaps > 0 else math.nan


@dataclass(frozen=True, slots=True)
class ReplicaReading:
    """What is known of one replica at a tick."""

    pool: str
    name: str
    draining: bool
    page: EnginePage | None
    """The newest good page, however old; None if there never was one."""
    age_s: float
    """Seconds since that page, or since the replica was first asked."""
    use: EngineUse | None
    """Between the newest two good pages, where the newest came at this tick."""
    error: str = ""
    """Why this tick's page is missing; empty if it came."""


_COUNTERS = tuple(f.name for f in fields(EnginePage) if f.name.endswith("_total"))


def use_between(old: EnginePage, new: EnginePage, span_s: float) -> EngineUse:
    """What happened in the `span_s` seconds from `old` to `new`, a restart between them included.

    One counter that fell, or a new start time of the process, tells that all of them began anew: then only what was
    counted since the restart is known to have happened.
    """
    if not span_s > 0.0:
        raise ValueError(f"span_s: {span_s}, wanted above 0: two pages of one moment tell no rate")
    fell = any(getattr(new, name) < getattr(old, name) for name in _COUNTERS)
    restarted = fell or new.process_started_s > old.process_started_s

    def since(name: str) -> float:
        now: float = getattr(new, name)
        return now if restarted else now - float(getattr(old, name))

    return EngineUse(
        span_s=span_s,
        prompt_tokens=since("prompt_tokens_total"),
        generation_tokens=since("generation_tokens_total"),
        preemptions=since("preemptions_total"),
        busy_s=since("busy_s_total"),
        useful_s=since("useful_s_total"),
        token_gap_s=since("token_gap_s_total"),
        token_gaps=since("token_gaps_total"),
    )
