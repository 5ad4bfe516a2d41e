"""Waits and sums of random durations: compiled.

Symbol: `M` kinds of request.
"""

from __future__ import annotations

import math

from .crowd import Mix, compiled


@compiled
def normal(z: float) -> float:
    """The normal distribution."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


@compiled
def below(limit: float, mean: float, deviation: float) -> float:
    """Share of a log-normal with this mean and standard deviation up to `limit`: durations are skewed to the right."""
    if limit <= 0.0:
        return 0.0
    variation = max(deviation / mean, 1e-3)
    variance = math.log(1.0 + variation**2)
    return normal((math.log(limit / mean) + variance / 2.0) / math.sqrt(variance))


@compiled
def prompt_decay(mix: Mix, rate: float, token_s: float, pair_s: float) -> float:
    """Per second: how fast the tail of the wait for earlier prompts decays (Cramer and Lundberg).

    Args:
        rate: requests per second of the mix.
        token_s, pair_s: seconds of each prompt's own for a token and for a pair of tokens that it attends.
    """
    longest_s = 0.0
    for i in range(len(mix.weight)):
        if mix.weight[i] > 0.0:
            longest_s = max(longest_s, _prompt_s(mix, i, token_s, pair_s))
    low, high = 0.0, 30.0 / longest_s
    for _ in range(14):
        decay, moment = 0.5 * (low + high), 0.0
        for i in range(len(mix.weight)):
            if mix.weight[i] > 0.0:
                moment += mix.weight[i] * math.exp(decay * _prompt_s(mix, i, token_s, pair_s))
        if rate * (moment - 1.0) < decay:
            low = decay
        else:
            high = decay
    return low


@compiled
def prompt_tail(mix: Mix, rate: float, token_s: float, pair_s: float, decay: float) -> float:
    """The factor before the exponential of that tail."""
    busy, slope = 0.0, 0.0
    for i in range(len(mix.weight)):
        if mix.weight[i] > 0.0:
            own_s = _prompt_s(mix, i, token_s, pair_s)
            busy += rate * mix.weight[i] * own_s
            slope += rate * mix.weight[i] * own_s * math.exp(decay * own_s)
    return (1.0 - busy) / max(slope - 1.0, 1e-6)


@compiled
def within(spare_s: float, busy: float, tail: float, decay: float, no_place: float, leave_per_s: float) -> float:
    """Share that waits no longer than `spare_s`: for the prompts before, which take a share `busy` of the time, and for a
    place in the batch, of which a share `no_place` finds none."""
    if spare_s < 0.0:
        return 0.0
    if not math.isfinite(spare_s):
        return 1.0
    late = min(busy, tail * math.exp(-spare_s * decay)) + no_place * math.exp(-spare_s * leave_per_s)
    return max(0.0, 1.0 - late)


@compiled
def _prompt_s(mix: Mix, i: int, token_s: float, pair_s: float) -> float:
    prompt = mix.prompt_tokens[i]
    return float(prompt * token_s + pair_s * prompt**2 / 2.0)
