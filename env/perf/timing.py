"""From the times at which tokens of streams came to the time of one iteration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .law import FloatArray

_LEAST_ITERATIONS = 8


class NotSteady(ValueError):
    """The answers did not decode together long enough; the message says how long."""


def steady_iteration_s(token_times_s: Sequence[FloatArray], prompt_tokens: int) -> tuple[float, float]:
    """Of answers that began together: the mean iteration while all of them decode, and the KV tokens it reads.

    Args:
        token_times_s: for each answer, when its tokens came. All are of one shape; order of arrival does not matter.

    Returns:
        Seconds (the median over the answers, each a mean over its iterations), and mean KV tokens, all answers together.

    Raises:
        NotSteady: fewer than eight iterations between the last answer's first token and the first one's last.
    """
    begin_s = max(float(times[0]) for times in token_times_s)
    end_s = min(float(times[-1]) for times in token_times_s)
    seconds, contexts, iterations = [], [], []
    for times in token_times_s:
        inside = np.flatnonzero((times >= begin_s) & (times <= end_s))
        iterations.append(len(inside) - 1)
        if len(inside) < 2:
            continue
        seconds.append((times[inside[-1]] - times[inside[0]]) / (len(inside) - 1))
        # The iteration that gives token j (from 0) reads the prompt and the j tokens before it.
        contexts.append(prompt_tokens + (inside[0] + 1 + inside[-1]) / 2.0)
    if min(iterations) < _LEAST_ITERATIONS:
        raise NotSteady(
            f"{len(token_times_s)} answers decoded together for {max(min(iterations), 0)} iterations, wanted at least"
            f" {_LEAST_ITERATIONS}"
        )
    return float(np.median(seconds)), float(np.sum(contexts))
