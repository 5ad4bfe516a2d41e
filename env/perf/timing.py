"""From the times at which tokens of streams came to the time of one iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .law import FloatArray

_LEAST_ITERATIONS = 8


class NotSteady(ValueError):
    """The answers did not decode together long enough; the message says how long."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The events of one answer. Symbol: `E` events."""

    times_s: FloatArray
    """`[E]` when they came."""
    tokens: FloatArray
    """`[E]` tokens of the answer so far: a server that is late puts two into one event."""


def steady_iteration_s(streams: Sequence[Stream], prompt_tokens: int) -> tuple[float, float]:
    """Of answers that began together: the mean iteration while all of them decode, and the KV tokens it reads.

    Args:
        streams: of requests of one shape, in any order.

    Returns:
        Seconds (the median over the answers, each a mean over its iterations), and mean KV tokens, all answers together.

    Raises:
        NotSteady: fewer than eight iterations between the last answer's first token and the first one's last.
    """
    begin_s = max(float(stream.times_s[0]) for stream in streams)
    end_s = min(float(stream.times_s[-1]) for stream in streams)
    seconds, contexts, fewest = [], [], float("inf")
    for stream in streams:
        inside = np.flatnonzero((stream.times_s >= begin_s) & (stream.times_s <= end_s))
        if len(inside) < 2:
            fewest = 0.0
            break
        first, last = inside[0], inside[-1]
        iterations = float(stream.tokens[last] - stream.tokens[first])
        fewest = min(fewest, iterations)
        seconds.append(float(stream.times_s[last] - stream.times_s[first]) / max(iterations, 1.0))
        # The iteration that gives token j (from 1) reads the prompt and the j - 1 tokens before it.
        contexts.append(prompt_tokens + float(stream.tokens[first] + stream.tokens[last] - 1.0) / 2.0)
    if fewest < _LEAST_ITERATIONS:
        raise NotSteady(
            f"{len(streams)} answers decoded together for {fewest:.0f} iterations, wanted at least {_LEAST_ITERATIONS}"
        )
    return float(np.median(seconds)), float(np.sum(contexts))
