"""What one replica can carry: the rate of requests it serves within the targets, from its law alone.

Symbols: n sequences running on average, x requests joining an iteration, N candidate loads.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from .law import FloatArray, IterationLaw

ATTAINMENT = 0.99
"""Wanted where nothing is said."""
TPOT_SPREAD = 0.1213
"""Standard deviation over mean of a request's time per token, from swings of the load and of lengths."""
PROMPT_NOISE = 2.5
"""Standard deviation of what others' prompts add to an answer, over that of as many prompts as come during it at random:
they come in bursts."""
KV_FILL = 0.95
"""Share of the KV cache planned for: lengths vary about their means."""
PART_LOADS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Loads below one sequence that are tried."""
SURE = 1.0 - 1e-6
"""Nobody can be surer than this: a share of 1 would leave no load at all."""


def capacity_per_s(
    law: IterationLaw,
    kv_tokens: float,
    max_num_seqs: int,
    token_budget: int,
    prompt_tokens: float,
    output_tokens: float,
    ttft_s: float,
    tpot_s: float,
    e2e_s: float = math.inf,
    attainment: float = ATTAINMENT,
) -> float:
    """Requests per second that one replica serves within the targets, at steady state with mean lengths.

    It tries rising loads and returns the best rate among those that keep the targets, so that a looser target, a lower
    attainment or a faster law never lowers it. A load is kept if the sequences fit into KV cache and batch, and the
    wanted quantiles of three times are within their targets. Time per token: the mean iteration (prompts joining in
    chunks of the token budget), taken as normal, with the spread of the load and of how many prompts happen to come
    during the answer. Time to first token: own chunks, half an iteration until
    the next one starts, and two waits taken as exponential, for earlier prompts (M/D/1 on the token budget) and for a
    place in the batch (M/M/c, Sakasegawa's approximation). End to end: both.

    This is what planning in training and on a running fleet can afford: it knows the mean request of one class.
    `mixes.most_per_s` knows how lengths differ and who else is on the replica; a fleet that is yet to be rented is
    planned with that.

    Args:
        kv_tokens: size of the KV cache.
        output_tokens: 0 or 1 for requests that end with their prompt (embeddings, classification).
        ttft_s: target for the time to first token; NaN or infinity is no target.
        tpot_s: target for the time per further token; NaN or infinity is no target.
        e2e_s: target for the time to the last token; a deadline is one too. NaN or infinity is no target.
        attainment: share of requests that meet all targets.

    Returns:
        The rate; 0 if not even a lone request meets the targets or fits.
    """
    if prompt_tokens + output_tokens > kv_tokens or prompt_tokens <= 0:
        return 0.0
    decodes = max(output_tokens - 1.0, 0.0)
    places = _places(kv_tokens, max_num_seqs, prompt_tokens, decodes)
    if decodes == 0.0:
        first_s = min(value for value in (ttft_s, e2e_s, math.inf) if not math.isnan(value))
        return _prefill_only_per_s(law, places, token_budget, prompt_tokens, first_s, wait_quantile(attainment))
    per_decode = prompt_tokens / decodes  # prompt tokens that must run beside each decoded one
    most = min(places, token_budget - 1.0, token_budget / (1.0 + per_decode), (token_budget - 1.0) / per_decode)
    running, iterating = loads(max_num_seqs)
    tried = int(np.searchsorted(running, most, side="right"))
    if not tried:
        return 0.0
    running, iterating = running[:tried], iterating[:tried]
    joining, room = running / decodes, token_budget - iterating
    seconds = mean_iteration_s(law, iterating, joining, room, prompt_tokens, decodes)
    rates = joining / seconds
    prompt_s = added_s(law, iterating, joining, room, prompt_tokens)
    noise_s = PROMPT_NOISE * np.sqrt(running) * prompt_s / decodes
    slower = seconds + tpot_deviations(attainment) * np.hypot(TPOT_SPREAD * seconds, noise_s)
    if math.isfinite(tpot_s):
        rates = np.where(slower <= tpot_s, rates, 0.0)
    if math.isfinite(ttft_s) or math.isfinite(e2e_s):
        own = _own_prefill_s(law, iterating, room, prompt_tokens, decodes)
        prompts_wait = _single_server_wait(running * per_decode / room, own)
        place_wait = _many_server_wait(running / places, places, own + decodes * seconds)
        first = own + seconds / 2.0 + wait_quantile(attainment) * (prompts_wait + place_wait)
        if math.isfinite(ttft_s):
            rates = np.where(first <= ttft_s, rates, 0.0)
        if math.isfinite(e2e_s):
            rates = np.where(first + decodes * slower <= e2e_s, rates, 0.0)
    return float(rates.max())


def wait_quantile(attainment: float) -> float:
    """By which factor an exponential wait exceeds its mean in no more than the share of misses allowed."""
    return -math.log(1.0 - min(attainment, SURE))


@lru_cache(maxsize=256)
def tpot_deviations(attainment: float) -> float:
    """By how many standard deviations a request's time per token exceeds the mean in no more than the share of misses
    allowed; at least 0, for a mean above the target is met by chance only."""
    return max(0.0, NormalDist().inv_cdf(min(max(attainment, 1e-6), SURE)))


def added_s(
    law: IterationLaw, running: FloatArray, joining: FloatArray, room: FloatArray, prompt_tokens: float
) -> FloatArray:
    """`[N]` seconds by which one prompt stretches iterations; arguments as of `mean_iteration_s`."""
    chunk = np.minimum(np.maximum(joining, 1.0) * prompt_tokens, room)
    beside = law.linear(running + chunk) - law.linear(running)
    return np.asarray(prompt_tokens / chunk * beside + law.attend_s_per_pair * prompt_tokens**2 / 2.0)


def mean_iteration_s(
    law: IterationLaw,
    running: FloatArray,
    joining: FloatArray,
    room: FloatArray,
    prompt_tokens: float,
    decodes: float,
) -> FloatArray:
    """`[N]` mean seconds of an iteration with `running` sequences and `joining` prompts entering in chunks.

    Most iterations only decode; a share of them carries a chunk. Smearing the prompts evenly over all iterations would
    hide their cost in the flat part of the law.

    Args:
        running: `[N]` decoding sequences.
        joining: `[N]` prompts per iteration.
        room: `[N]` tokens of the budget left for prompts.
        decodes: tokens each request decodes after its first.
    """
    chunk = np.minimum(np.maximum(joining, 1.0) * prompt_tokens, room)
    share = joining * prompt_tokens / chunk
    tokens = (1.0 - share) * law.linear(running) + share * law.linear(running + chunk)
    pairs = joining * prompt_tokens**2 / 2.0
    context = running * (prompt_tokens + decodes / 2.0)
    return tokens + law.attend_s_per_pair * pairs + law.kv_read_s_per_token * context + law.seq_s * running


def _prefill_only_per_s(
    law: IterationLaw, places: float, token_budget: int, prompt_tokens: float, ttft_s: float, tail: float
) -> float:
    """The rate for requests that end with their prompt."""
    room = float(token_budget)
    widest = min(room / prompt_tokens, places)
    joining = np.minimum(loads(max(1, math.ceil(widest)))[0], widest)
    batch = np.maximum(joining, min(1.0, widest))
    pairs = law.attend_s_per_pair * prompt_tokens**2 / 2.0
    seconds = law.linear(np.maximum(batch * prompt_tokens, 1.0)) + batch * (pairs + law.seq_s)
    rates = joining / seconds
    if math.isfinite(ttft_s):
        own = seconds * max(1.0, 1.0 / widest)
        rates = np.where(own + seconds / 2.0 + tail * _single_server_wait(joining / widest, own) <= ttft_s, rates, 0.0)
    return float(rates.max())


def _own_prefill_s(
    law: IterationLaw, running: FloatArray, room: FloatArray, prompt_tokens: float, decodes: float
) -> FloatArray:
    """`[N]` seconds of a prompt's own iterations, the others decoding along."""
    full = np.floor(prompt_tokens / room)
    rest = prompt_tokens - full * room
    beside = law.kv_read_s_per_token * running * (prompt_tokens + decodes / 2.0) + law.seq_s * running
    last = np.where(rest > 0, law.linear(running + rest) + beside, 0.0)
    return full * (law.linear(running + room) + beside) + last + law.attend_s_per_pair * prompt_tokens**2 / 2.0


def _single_server_wait(load: FloatArray, service_s: FloatArray) -> FloatArray:
    """`[N]` mean wait before one server with fixed service time (Pollaczek-Khinchine)."""
    spare = np.maximum(1.0 - load, 1e-12)
    return load / (2.0 * spare) * service_s


def _many_server_wait(load: FloatArray, servers: float, holding_s: FloatArray) -> FloatArray:
    """`[N]` mean wait for one of `servers` places (Sakasegawa 1977, M/M/c)."""
    spare = np.maximum(1.0 - load, 1e-12)
    return load ** (math.sqrt(2.0 * (servers + 1.0)) - 1.0) / (servers * spare) * holding_s


def _places(kv_tokens: float, max_num_seqs: int, prompt_tokens: float, decodes: float) -> float:
    """Sequences that run at once: half grown on average, and one of them fully."""
    spare = KV_FILL * kv_tokens - decodes / 2.0
    return max(1.0, min(float(max_num_seqs), spare / (prompt_tokens + decodes / 2.0)))


@lru_cache(maxsize=64)
def loads(max_num_seqs: int) -> tuple[FloatArray, FloatArray]:
    """`[N]` loads to try: fractions of a sequence, every count to 16, then steps of 4 % up to the cap; and `[N]`
    sequences of an iteration at that load, at least one."""
    below = np.array(PART_LOADS)
    few = np.arange(1.0, min(max_num_seqs, 16) + 1.0)
    steps = max(2, math.ceil(math.log(max(max_num_seqs, 17) / 16.0) / math.log(1.04)) + 1)
    many = np.geomspace(16.0, max_num_seqs, steps)[1:] if max_num_seqs > 16 else np.empty(0)
    loads = np.concatenate([below, few, many])
    iterating = np.maximum(loads, 1.0)
    loads.setflags(write=False)
    iterating.setflags(write=False)
    return loads, iterating
