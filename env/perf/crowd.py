"""How many sequences run at once on a replica, how that varies, and how long its iterations are then: compiled.

Continuous batching is a queue with processor sharing whose speed depends on how many share it: while `k` decode, an
iteration lasts `s(k)` and each gets a token, so that the number running is a birth-death process that is left at
`k / (decodes * s(k))`, whatever the distribution of output lengths. Prompts are computed in between and stretch
iterations. Symbols: `M` kinds of request, `K` knots, `N` places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..compiled_cache import cached
from .law import GRID_POINTS, ROW_ATTEND_S, ROW_KV_READ_S, ROW_LINEAR_S, ROW_SEQ_S, TOKENS_GRID, FloatArray

KNOTS = 14
"""Counts of running sequences at which iterations are computed; between them lines."""
SPARE_DEVIATIONS = 1.2
"""Standard deviations of the KV tokens of all that run for which room is left: lengths vary."""
MEMORY = 2.2
"""How much longer a crowd lasts than the requests in it, over what independent stays give: prompts come in bursts."""
BUSIEST = 0.97
"""Share of the time, or of the places, beyond which nothing is claimed: queues there are as long as the run."""
_TURNS = 3
_GRID = np.array(TOKENS_GRID)
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile for many threads."""
    return cached(function, nogil=True, error_model="numpy")


class Replica(NamedTuple):
    """An engine."""

    law: FloatArray
    """`[LAW_WIDTH]`"""
    kv_tokens: float
    max_num_seqs: float
    token_budget: float
    """Of one iteration, all batches in flight together."""
    longest: float
    """Tokens of the longest request that it takes."""


class Mix(NamedTuple):
    """Requests, by kind."""

    class_index: NDArray[np.int64]
    """`[M]`"""
    prompt_tokens: FloatArray
    """`[M]`"""
    decodes: FloatArray
    """`[M]` tokens after the first."""
    weight: FloatArray
    """`[M]` share of all requests that come; 0 for those that are only asked about."""
    share: FloatArray
    """`[M]` share of the requests of its class."""


class Crowd(NamedTuple):
    """A steady state."""

    keeps_up: bool
    """Whether there is one; if not, nothing else means anything."""
    places: float
    """Sequences that run at once at most, by batch and KV cache: a part of one is a place that is there some of the time."""
    prob: FloatArray
    """`[N + 1]` of so many running when a request comes; the last one: or waiting for a place."""
    running: float
    """Mean of those."""
    at: FloatArray
    """`[K]` counts."""
    bare_s: FloatArray
    """`[K]` iteration without prompts."""
    stretched_s: FloatArray
    """`[K]` mean iteration, prompts included."""
    token_s: float
    """Mean over all tokens decoded of the iteration that gives them."""
    context: float
    """KV tokens of a running sequence, mean."""
    busy: float
    """Share of the time that prompts take."""
    prompt_s: float
    """By which a request's prompt stretches iterations."""
    prompt_s2: float
    """Mean square of that."""
    prompt_mean: float
    """Tokens."""
    memory_s: float
    """How long the number running stays what it is."""
    dispersion: float
    """Variance of the number running over that of the birth-death process."""
    excess: float
    """Sequences more than it: those who come in bursts slow each other down."""
    leave_per_s: float
    """Rate at which a queue for places shrinks."""


@compiled
def linear_s(law: FloatArray, tokens: float) -> float:
    """As `IterationLaw.linear`."""
    if tokens <= _GRID[0]:
        return float(law[ROW_LINEAR_S])
    low, high = 0, GRID_POINTS - 1
    if tokens >= _GRID[high]:
        low = high - 1
    else:
        while high - low > 1:
            middle = (low + high) // 2
            if _GRID[middle] <= tokens:
                low = middle
            else:
                high = middle
    slope = (law[ROW_LINEAR_S + low + 1] - law[ROW_LINEAR_S + low]) / (_GRID[low + 1] - _GRID[low])
    return float(law[ROW_LINEAR_S + low] + slope * (tokens - _GRID[low]))


@compiled
def iteration_s(law: FloatArray, running: float, context: float) -> float:
    """Seconds of an iteration that only decodes."""
    return float(linear_s(law, running) + running * (law[ROW_SEQ_S] + law[ROW_KV_READ_S] * context))


@compiled
def crowd_of(replica: Replica, mix: Mix, rate: float) -> Crowd:
    """The steady state at a rate of the whole mix, of whose requests some decode."""
    prompts, decodes, squares, tokens, tokens2 = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(mix.weight)):
        w, p, d = mix.weight[i], mix.prompt_tokens[i], mix.decodes[i]
        prompts += w * p
        decodes += w * d
        squares += w * d**2
        tokens += w * d * (p + d / 2.0)
        tokens2 += w * d * (p**2 + p * d + d**2 / 3.0)
    context = tokens / decodes
    deviation = math.sqrt(max(tokens2 / decodes - context**2, 0.0))
    places = _places(replica, prompts, context, deviation)
    whole = math.ceil(places)
    at, bare_s, stretched_s, prompt_s, prompt_s2 = _iterations(replica, mix, rate, places, prompts, context)
    prob = np.zeros(whole + 1)
    leave_per_s = _balance(at, stretched_s, rate * decodes, places, rate, prob)
    keeps_up = leave_per_s > 0.0
    running, token_s, stretch, stretch2 = 0.0, 0.0, 0.0, 0.0
    for k in range(whole + 1):
        running += prob[k] * k
        # Whoever runs is one of them: by the arrival theorem the others are distributed as when it came.
        among = min(k + 1.0, float(whole))
        token_s += prob[k] * between(at, stretched_s, among)
        stretch += prob[k] * between(at, prompt_s, among)
        stretch2 += prob[k] * between(at, prompt_s2, among)
    busy = min(rate * stretch, BUSIEST)
    middle = min(max(running, 1.0), places)
    elastic = 0.0
    if len(at) > 1:
        step = 0.05 * middle
        ahead, behind = min(middle + step, places), max(middle - step, 1.0)
        if ahead > behind:
            slope = (between(at, stretched_s, ahead) - between(at, stretched_s, behind)) / (ahead - behind)
            elastic = min(max(middle * slope / token_s, 0.0), 0.95)
    # In time counted in tokens, arrivals come as in the busy periods of the prompts: more dispersed than at random.
    slow = min(busy / max(1.0, rate * token_s), 0.9)
    dispersion = (1.0 - slow) ** -2
    before = 0.5 * (1.0 / (1.0 - slow) + slow / (1.0 - slow) ** 2 - 1.0)  # prompts of the same busy period
    grown = min(slow * before / max(running, 1.0), 0.5) / (1.0 - elastic)
    bent = elastic / (1.0 - elastic) * (dispersion - 1.0)
    return Crowd(
        keeps_up,
        places,
        prob,
        running,
        at,
        bare_s,
        stretched_s,
        token_s * (1.0 + grown + bent * elastic / middle),
        context,
        busy,
        stretch,
        stretch2,
        prompts,
        MEMORY * squares / (2.0 * decodes) * token_s / (1.0 - elastic),
        dispersion,
        running * grown + bent,
        leave_per_s,
    )


@compiled
def _places(replica: Replica, prompts: float, context: float, deviation: float) -> float:
    """Sequences that run at once: one more comes in while the KV tokens of the others leave room for its prompt."""
    slack = SPARE_DEVIATIONS * deviation
    room = max(replica.kv_tokens - prompts, 0.0)
    root = (math.sqrt(slack**2 + 4.0 * context * room) - slack) / (2.0 * context)
    return max(1.0, min(root**2 + 1.0, min(replica.max_num_seqs, replica.token_budget - 1.0)))


@compiled
def _iterations(
    replica: Replica, mix: Mix, rate: float, places: float, prompts: float, context: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """`[K]` counts running, iterations without and with prompts, and mean and mean square of what a prompt adds.

    A prompt is computed with those that came during the iteration before, which is a long one more likely than a short
    one; it adds its share of what all these tokens add.
    """
    law, whole = replica.law, math.ceil(places)
    knots = int(min(float(KNOTS), whole))
    at, bare_s, stretched_s = np.empty(knots), np.empty(knots), np.empty(knots)
    prompt_s, prompt_s2 = np.empty(knots), np.empty(knots)
    for j in range(knots):
        at[j] = 1.0 + (whole - 1.0) * (j / (knots - 1.0)) ** 2 if knots > 1 else 1.0
        bare_s[j] = iteration_s(law, at[j], context)
        flat_s, room = linear_s(law, at[j]), replica.token_budget - at[j]
        mean_s, last_s = bare_s[j], bare_s[j]
        for _ in range(_TURNS):
            joint = rate * prompts * last_s
            prompt_s[j], prompt_s2[j] = 0.0, 0.0
            for i in range(len(mix.weight)):
                if mix.weight[i] > 0.0:
                    p = mix.prompt_tokens[i]
                    together = min(room, p + joint)
                    own_s = p / together * (linear_s(law, at[j] + together) - flat_s) + law[ROW_ATTEND_S] * p**2 / 2.0
                    prompt_s[j] += mix.weight[i] * own_s
                    prompt_s2[j] += mix.weight[i] * own_s**2
            mean_s = bare_s[j] / max(1.0 - rate * prompt_s[j], 1e-3)
            several = 1.0 + rate * last_s
            long_s = bare_s[j] + several * prompt_s[j]
            often = min(1.0, rate * mean_s / several)
            last_s = min((bare_s[j] ** 2 * (1.0 - often) + long_s**2 * often) / mean_s, long_s)
        fits = rate * prompt_s[j] < BUSIEST and rate * prompts * mean_s < BUSIEST * room
        stretched_s[j] = mean_s if fits else np.inf
    return at, bare_s, stretched_s, prompt_s, prompt_s2


@compiled
def _balance(
    at: FloatArray, stretched_s: FloatArray, tokens_per_s: float, places: float, rate: float, prob: FloatArray
) -> float:
    """Write `prob` `[N + 1]`; returns the rate at which a queue for places shrinks, 0 if it does not."""
    whole = len(prob) - 1
    top, last = 0.0, 0.0
    for k in range(1, whole + 1):
        seconds = between(at, stretched_s, min(float(k), places))
        if not math.isfinite(seconds):
            return 0.0
        last = tokens_per_s * seconds / min(float(k), places)
        prob[k] = prob[k - 1] + math.log(last)
        top = max(top, prob[k])
    if last >= BUSIEST:
        prob[:] = 0.0
        return 0.0
    total = 0.0
    for k in range(whole + 1):
        prob[k] = math.exp(prob[k] - top)
        if k == whole:
            prob[k] /= 1.0 - last
        total += prob[k]
    for k in range(whole + 1):
        prob[k] /= total
    return rate / last - rate


@compiled
def between(at: FloatArray, values: FloatArray, count: float) -> float:
    """The value at a count, from those at the knots `[K]`."""
    last = len(at) - 1
    if last == 0 or count <= at[0]:
        return float(values[0])
    if count >= at[last]:
        return float(values[last])
    j = int(math.sqrt((count - 1.0) / (at[last] - 1.0)) * last)
    while j > 0 and at[j] > count:
        j -= 1
    while j < last - 1 and at[j + 1] <= count:
        j += 1
    return float(values[j] + (values[j + 1] - values[j]) * (count - at[j]) / (at[j + 1] - at[j]))


@compiled
def over_life_s(crowd: Crowd, decodes: float, now_s: float) -> float:
    """Mean iteration over an answer that begins when iterations last `now_s`: a long one sees the crowd change."""
    lives = decodes * crowd.token_s / crowd.memory_s
    kept = 2.0 * (lives - 1.0 + math.exp(-lives)) / lives**2 if lives > 1e-3 else 1.0
    return crowd.token_s + math.sqrt(kept) * (now_s - crowd.token_s)


@compiled
def prompt_noise_s(crowd: Crowd, rate: float, decodes: float) -> float:
    """Standard deviation of an answer's mean iteration, from how many prompts happen to come during it."""
    return math.sqrt(rate * crowd.token_s * crowd.prompt_s2 / decodes) / (1.0 - crowd.busy)
