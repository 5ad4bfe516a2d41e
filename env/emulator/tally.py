"""What a replica counts over its life, as vLLM does. Durations are simulated seconds."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

# Bounds of vLLM 0.32's histograms.
TTFT_BOUNDS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TPOT_BOUNDS_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0),
    *(30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


def token_bounds(max_model_len: int) -> tuple[float, ...]:
    """Bounds of vLLM's histograms of tokens by request: 1, 2, 5, 10, 20, ... up to what the model takes."""
    steps = (float(first * 10**power) for power in range(len(str(max_model_len))) for first in (1, 2, 5))
    return tuple(bound for bound in steps if bound <= max_model_len)


FINISHED_REASONS: Final = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts by bucket, and the sum of what was counted."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` are the buckets' upper ends; what is longer is counted beyond them."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass
class Tally:
    """Totals since the start."""

    max_model_len: int
    """Of one request, for the bounds of the histograms of tokens."""
    prompt_tokens: int = 0
    """Of prompts whose prefill has ended."""
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINISHED_REASONS, 0))
    """Requests by why they ended."""
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS_S))
    tpot: Histogram = field(default_factory=lambda: Histogram(TPOT_BOUNDS_S))
    """Of a request: mean time of its tokens after the first."""
    e2e: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    queued: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    prompts: Histogram = field(init=False)
    """Prompt tokens of requests that ended."""
    answers: Histogram = field(init=False)
    """Output tokens of requests that ended."""

    def __post_init__(self) -> None:
        """Nothing was counted yet."""
        self.prompts, self.answers = (Histogram(token_bounds(self.max_model_len)) for _ in range(2))
