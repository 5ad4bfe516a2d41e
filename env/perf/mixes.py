"""What one replica carries of requests of many lengths and several classes, so that a wanted share of each class meets
its targets: compiled.

Where `capacity` knows the mean request of one class, this knows how lengths differ and who else is on the replica: the
longest prompts miss a time to first token first, short answers feel every prompt that is computed beside them, and the
strictest class decides how full the replica may be. `docs/capacity.md` derives it and says how far the simulator
agrees.

Symbols: `M` kinds of request (cells of alike lengths), `C` classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .crowd import (
    Crowd,
    Mix,
    Replica,
    between,
    compiled,
    crowd_of,
    iteration_s,
    linear_s,
    over_life_s,
    prompt_noise_s,
)
from .law import ROW_ATTEND_S, ROW_KV_READ_S, ROW_SEQ_S, FloatArray
from .waits import below, normal, prompt_decay, prompt_tail, within

SAFETY = 0.9
"""Share of the computed rate that is claimed: near it attainment falls off a cliff (a percent more load can cost tens of
points), and the computed rate is off by up to as much."""
MISS_SHARE = 0.8
"""Share of the misses allowed that is planned for."""
_EDGES = np.array([0.1, 0.25, 0.4, 0.55, 0.7, 0.82, 0.9, 0.95, 0.98, 0.992, 0.998, 1.0])
"""Where the distribution of running sequences is cut into slices; the fuller, the finer."""
_EXACT = 0.008
"""Share of the rate to which it is found."""
_FEW_PROMPTS = 8.0
"""Up to so many prompts during an answer are counted one by one."""
_PROMPTS_AN_ITERATION = 0.7
"""From so many prompts an iteration on, iterations are what their prompts make them."""
_BURSTS = 1.25
"""By which prompts alone swing more than their random arrivals give: calibrated against the simulator."""
_STARVED = 1e-4
"""Of the rate of a lone request: what is carried below is nothing."""


class Promises(NamedTuple):
    """What is asked for each class; infinity is no target."""

    ttft_s: FloatArray
    """`[C]`"""
    tpot_s: FloatArray
    """`[C]`"""
    e2e_s: FloatArray
    """`[C]`"""
    attainment: FloatArray
    """`[C]`"""


@compiled
def most_per_s(replica: Replica, mix: Mix, promises: Promises, guess: float) -> float:
    """Requests per second of the whole mix at which each class still attains what is wanted, times `SAFETY`.

    Classes without weight in the mix are asked too: whether a request of theirs that came by would meet its targets.

    Args:
        guess: a rate to begin with, such as that of a like mix; 0 if nothing is known.

    Returns:
        The rate; 0 if not even a trickle meets the targets.
    """
    lone = lone_per_s(replica, mix)
    step = 2.0 if guess <= 0.0 else 1.2
    rate = lone if guess <= 0.0 else guess / SAFETY
    low, high = 0.0, 0.0
    met = np.zeros(len(promises.attainment))
    while low == 0.0 or high == 0.0:
        if _kept(replica, mix, promises, rate, met):
            low = rate
            rate *= step
        else:
            high = rate
            rate /= step
        if rate < lone * _STARVED:
            return 0.0
        step *= 1.2
    while high > low * (1.0 + _EXACT):
        rate = math.sqrt(low * high)
        if _kept(replica, mix, promises, rate, met):
            low = rate
        else:
            high = rate
    return SAFETY * low


@compiled
def attained(replica: Replica, mix: Mix, promises: Promises, rate: float, met: FloatArray) -> bool:
    """Write `met` `[C]`, the share of each class that meets its targets at a rate of the whole mix (requests/s).

    Returns:
        Whether the replica keeps up at all; if not, nobody meets anything.
    """
    met[:] = 0.0
    decodes = 0.0
    for i in range(len(mix.weight)):
        decodes += mix.weight[i] * mix.decodes[i]
    if decodes <= 0.0:
        return _prompts_met(replica, mix, promises, rate, 0.0, 0.0, met)
    crowd = crowd_of(replica, mix, rate)
    if not crowd.keeps_up:
        return False
    node, mass = _slices(crowd)
    chunk_s = _chunk_s(replica, crowd, max(crowd.running - 1.0, 0.0))
    decay = prompt_decay(mix, rate, chunk_s, replica.law[ROW_ATTEND_S])
    tail = prompt_tail(mix, rate, chunk_s, replica.law[ROW_ATTEND_S], decay)
    for q in range(len(node)):
        if mass[q] > 0.0:
            # What comes faster than the law of rare events spreads the count, about a mean that it also moves.
            running = crowd.running + math.sqrt(crowd.dispersion) * (node[q] - crowd.running) + crowd.excess
            running = min(max(running, 0.0), float(len(crowd.prob) - 1))
            _met_among(replica, mix, promises, rate, crowd, running, mass[q], decay, tail, met)
    if rate * crowd.token_s < _PROMPTS_AN_ITERATION:
        return True
    # Hardly an iteration without prompts: each takes up those that came during the one before.
    first = np.zeros(len(met))
    if not _prompts_met(replica, mix, promises, rate, crowd.running, crowd.context, first):
        return False
    for c in range(len(met)):
        met[c] = min(met[c], first[c])
    return True


@compiled
def work_s(replica: Replica, mix: Mix, rate: float, works: FloatArray) -> None:
    """Write `works` `[M]`: seconds of the replica that a request of each kind takes at a rate of the mix, such that the
    rate times their weighted mean is 1: a replica's time is shared by those on it."""
    decodes, total = 0.0, 0.0
    for i in range(len(mix.weight)):
        decodes += mix.weight[i] * mix.decodes[i]
    running, per_token_s = 0.0, 0.0
    if decodes > 0.0:
        crowd = crowd_of(replica, mix, rate)
        running = max(1.0, min(crowd.running, len(crowd.prob) - 1.0))
        per_token_s = iteration_s(replica.law, running, crowd.context) / running
    room = replica.token_budget - running
    before = linear_s(replica.law, running) if decodes > 0.0 else 0.0
    token_s = (linear_s(replica.law, replica.token_budget) - before) / room
    for i in range(len(mix.weight)):
        prompt = mix.prompt_tokens[i]
        works[i] = prompt * token_s + replica.law[ROW_ATTEND_S] * prompt**2 / 2.0 + mix.decodes[i] * per_token_s
        total += mix.weight[i] * works[i]
    for i in range(len(works)):
        works[i] /= rate * total


@compiled
def _kept(replica: Replica, mix: Mix, promises: Promises, rate: float, met: FloatArray) -> bool:
    keeps_up = attained(replica, mix, promises, rate, met)
    return keeps_up and bool((met >= 1.0 - MISS_SHARE * (1.0 - promises.attainment)).all())


@compiled
def lone_per_s(replica: Replica, mix: Mix) -> float:
    """Requests per second served one after the other."""
    seconds = 0.0
    for i in range(len(mix.weight)):
        prompt = mix.prompt_tokens[i]
        own = prompt / replica.token_budget * linear_s(replica.law, replica.token_budget)
        alone = iteration_s(replica.law, 1.0, prompt)
        seconds += mix.weight[i] * (max(own, alone) + mix.decodes[i] * alone)
    return 1.0 / seconds


@compiled
def _slices(crowd: Crowd) -> tuple[FloatArray, FloatArray]:
    """Mean running sequences and mass of each slice of their distribution."""
    node, mass = np.zeros(len(_EDGES)), np.zeros(len(_EDGES))
    at, passed = 0, 0.0
    for k in range(len(crowd.prob)):
        left = crowd.prob[k]
        while left > 0.0:
            taken = min(left, _EDGES[at] - passed)
            node[at] += taken * k
            mass[at] += taken
            passed += taken
            left -= taken
            if passed >= _EDGES[at] - 1e-12:
                if at == len(_EDGES) - 1:
                    break
                at += 1
    for at in range(len(_EDGES)):
        if mass[at] > 0.0:
            node[at] /= mass[at]
    return node, mass


@compiled
def _chunk_s(replica: Replica, crowd: Crowd, others: float) -> float:
    """Seconds of each token of a prompt in full iterations beside so many sequences."""
    beside_s = others * (replica.law[ROW_SEQ_S] + replica.law[ROW_KV_READ_S] * crowd.context)
    return float((linear_s(replica.law, replica.token_budget) + beside_s) / (replica.token_budget - others))


@compiled
def _met_among(
    replica: Replica,
    mix: Mix,
    promises: Promises,
    rate: float,
    crowd: Crowd,
    running: float,
    mass: float,
    decay: float,
    tail: float,
    met: FloatArray,
) -> None:
    """Add what requests meet that find so many running when they come, which happens to a share `mass`."""
    law = replica.law
    among = min(running + 1.0, float(len(crowd.prob) - 1))
    seconds, base_s = between(crowd.at, crowd.stretched_s, among), between(crowd.at, crowd.bare_s, among)
    others = among - 1.0
    room = replica.token_budget - others
    beside_s = others * (law[ROW_SEQ_S] + law[ROW_KV_READ_S] * crowd.context)
    full_s = _chunk_s(replica, crowd, others) * room
    busy = rate * crowd.prompt_mean * full_s / room
    if busy >= 0.99:
        return
    joint = rate * crowd.prompt_mean * seconds  # tokens of others' prompts that join an iteration
    no_place = min(1.0, max(0.0, running + 1.0 - crowd.places))
    residual_s = base_s if others > 0.5 else 0.0
    for i in range(len(mix.share)):
        if mix.share[i] <= 0.0 or mix.prompt_tokens[i] + mix.decodes[i] + 1.0 > replica.longest:
            continue
        c, prompt, decodes = mix.class_index[i], mix.prompt_tokens[i], mix.decodes[i]
        chunks = math.floor(prompt / room)
        rest = prompt - chunks * room
        own_s = chunks * full_s + law[ROW_ATTEND_S] * prompt**2 / 2.0
        if rest > 0.0:
            last = min(others + rest + min(joint, room - rest), replica.token_budget)
            own_s += linear_s(law, last) + beside_s + law[ROW_SEQ_S]
        per_token_s, spread_s, ok = 0.0, 0.0, 1.0
        if decodes > 0.0:
            per_token_s = over_life_s(crowd, decodes, seconds)
            spread_s = prompt_noise_s(crowd, rate, decodes)
            if math.isfinite(promises.tpot_s[c]):
                ok = _tpot_met(crowd, rate, decodes, per_token_s, own_s, promises.tpot_s[c])
        in_time = 0.0
        for late in (0.2113, 0.7887):  # of an iteration until the next one starts: Gauss's two points
            spare_s = promises.ttft_s[c] - own_s - late * residual_s
            if math.isfinite(promises.e2e_s[c]):
                left_s = promises.e2e_s[c] - own_s - late * residual_s - decodes * per_token_s
                wide_s = math.sqrt(3.0) * spread_s * decodes
                for g in range(3):  # and three of a normal
                    share = 2.0 / 3.0 if g == 1 else 1.0 / 6.0
                    spare = min(spare_s, left_s + (g - 1.0) * wide_s)
                    in_time += 0.5 * share * within(spare, busy, tail, decay, no_place, crowd.leave_per_s)
            else:
                in_time += 0.5 * within(spare_s, busy, tail, decay, no_place, crowd.leave_per_s)
        met[c] += mix.share[i] * mass * ok * in_time


@compiled
def _tpot_met(crowd: Crowd, rate: float, decodes: float, per_token_s: float, own_s: float, tpot_s: float) -> float:
    """Share whose mean time per token is in the target. Prompts come in between: those that came while the request's own
    was computed, and then as in a busy period (Borel-Tanner), each of which makes room for more to come."""
    busy = min(crowd.busy, 0.97)
    bare_s = per_token_s * (1.0 - busy) * decodes
    first = rate * (bare_s + own_s)
    left_s = tpot_s * decodes - bare_s
    if first / (1.0 - busy) > _FEW_PROMPTS:
        mean_s = (bare_s + busy * own_s) / (1.0 - busy)
        return below(tpot_s * decodes, mean_s, prompt_noise_s(crowd, rate, decodes) * decodes)
    if left_s <= 0.0:
        return 0.0
    spread_s = math.sqrt(max(crowd.prompt_s2 - crowd.prompt_s**2, 0.0))
    ok, log_factorial, passed = math.exp(-first), 0.0, math.exp(-first)
    for n in range(1, 30):
        if passed > 1.0 - 1e-4 or n * crowd.prompt_s > 3.0 * left_s:
            break
        log_factorial += math.log(float(n))
        mean = first + n * busy
        share = math.exp(math.log(first) + (n - 1.0) * math.log(mean) - mean - log_factorial)
        passed += share
        ok += share * below(left_s, n * crowd.prompt_s, math.sqrt(float(n)) * spread_s)
    return ok


@compiled
def _prompts_met(
    replica: Replica, mix: Mix, promises: Promises, rate: float, running: float, context: float, met: FloatArray
) -> bool:
    """As `attained` where each iteration takes up the prompts that came during the one before, beside so many that
    decode; of those who want an answer, whether it begins in time."""
    law, budget = replica.law, replica.token_budget - running
    beside_s = running * (law[ROW_SEQ_S] + law[ROW_KV_READ_S] * context)
    mean, square = 0.0, 0.0
    for i in range(len(mix.weight)):
        mean += mix.weight[i] * mix.prompt_tokens[i]
        square += mix.weight[i] * mix.prompt_tokens[i] ** 2
    pairs_s = law[ROW_ATTEND_S] / 2.0
    per_prompt_s = pairs_s * square + law[ROW_SEQ_S]
    widest = min(budget, replica.max_num_seqs * mean)
    fewest = min(mean, budget)  # of an iteration that has any
    tokens, seconds = fewest, linear_s(law, running + fewest) + beside_s + per_prompt_s * fewest / mean
    for _ in range(30):
        tokens = max(fewest, rate * mean * seconds)
        if tokens > widest:
            return False
        seconds = linear_s(law, running + tokens) + beside_s + per_prompt_s * tokens / mean
    token_s = linear_s(law, replica.token_budget) / budget
    if tokens < budget:
        ahead = min(1.3 * tokens + 64.0, budget)
        token_s = max(
            (linear_s(law, running + ahead) - linear_s(law, running + tokens)) / (ahead - tokens),
            (linear_s(law, running + budget) - linear_s(law, running + tokens)) / (budget - tokens),
        )
    token_s += per_prompt_s / mean
    load = rate * mean * token_s
    if load >= 0.97:
        return False
    # An iteration's length is that of the last one, times the load, and a sum of a random number of prompts.
    spread_s = _BURSTS * math.sqrt(token_s**2 * rate * seconds * square / (1.0 - load**2))
    seen_s = seconds + spread_s**2 / seconds
    under_way = seconds / (seconds + math.exp(-rate * seconds) / rate) if running < 0.5 else 1.0
    decay = prompt_decay(mix, rate, token_s - pairs_s * square / mean, law[ROW_ATTEND_S])
    for i in range(len(mix.share)):
        c, prompt = mix.class_index[i], mix.prompt_tokens[i]
        if mix.share[i] <= 0.0 or prompt + mix.decodes[i] > replica.longest:
            continue
        target_s = min(promises.ttft_s[c], promises.e2e_s[c])
        if not math.isfinite(target_s):
            met[c] += mix.share[i]
            continue
        chunks = math.ceil(prompt / budget) - 1.0
        alone_s = chunks * (linear_s(law, running + budget) + beside_s)
        alone_s += linear_s(law, running + prompt - chunks * budget) + beside_s
        alone_s += pairs_s * prompt**2 + law[ROW_SEQ_S]
        ok = 1.0 - under_way if alone_s <= target_s else 0.0
        for z in (-1.2816, -0.5244, 0.0, 0.5244, 1.2816):
            last_s = max(seen_s + z * spread_s, 0.2 * seconds)
            came = rate * mean * last_s
            noise_s = max(token_s * math.sqrt(rate * last_s * square), 1e-9)
            for u in (0.125, 0.375, 0.625, 0.875):
                before = came if prompt + came <= budget else came * (1.0 - u)
                own_s = (
                    _stretch_s(law, prompt + before, budget, running, beside_s)
                    + pairs_s * prompt**2
                    + per_prompt_s * came / mean
                )
                ok += under_way * 0.05 * normal((target_s - u * last_s - own_s) / noise_s)
        spare_s = target_s - alone_s - 0.5 * seconds * under_way
        met[c] += mix.share[i] * min(ok, 1.0 - load * math.exp(-decay * max(spare_s, 0.0) / _BURSTS))
    return True


@compiled
def _stretch_s(law: FloatArray, tokens: float, budget: float, running: float, beside_s: float) -> float:
    """Seconds of as many full iterations as the tokens fill, and the rest."""
    full = math.ceil(tokens / budget) - 1.0
    rest_s = linear_s(law, running + tokens - full * budget)
    return full * linear_s(law, running + budget) + rest_s + (full + 1.0) * beside_s
