"""`capacity.capacity_per_s` for many classes, pools and clusters at once, compiled: planning in training asks for
tens of thousands a second. The plain version says what is computed and why; a test holds the two together.

Symbols: `B` clusters, `C` classes, `P` pools, `N` loads to try.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contract import Targets
from .capacity import (
    KV_FILL,
    PART_LOADS,
    PROMPT_NOISE,
    TPOT_SPREAD,
    loads,
    tpot_deviations,
    wait_quantile,
)
from .crowd import compiled, linear_s
from .law import ROW_ATTEND_S, ROW_KV_READ_S, ROW_SEQ_S, FloatArray

_BELOW = np.array(PART_LOADS)


class Engines(NamedTuple):
    """What is believed of the replicas of each pool."""

    law_rows: FloatArray
    """`[..., P, LAW_WIDTH]`"""
    kv_tokens: FloatArray
    """`[..., P]`"""
    token_budget: FloatArray
    """`[..., P]`"""
    max_num_seqs: FloatArray
    """`[..., P]`"""
    tried: FloatArray
    """`[..., P, N]` loads to try (`capacity.loads`), infinity beyond."""


class Asked(NamedTuple):
    """What is asked for each class, as `capacities_some` takes it; infinity is no target."""

    ttft_s: FloatArray
    """`[..., C]`"""
    tpot_s: FloatArray
    """`[..., C]`"""
    e2e_s: FloatArray
    """`[..., C]` deadlines too."""
    wait: FloatArray
    """`[..., C]` (`capacity.wait_quantile`)"""
    deviations: FloatArray
    """`[..., C]` (`capacity.tpot_deviations`)"""


def asked_of(targets: Targets) -> Asked:
    """The targets `[..., C]`."""
    ttft_s, tpot_s, e2e_s, deadline_s = (
        np.nan_to_num(column, nan=np.inf)
        for column in (targets.ttft_s, targets.tpot_s, targets.e2e_s, targets.deadline_s)
    )
    wanted, which = np.unique(np.nan_to_num(targets.attainment, nan=0.0), return_inverse=True)
    which = which.reshape(targets.attainment.shape)
    wait, deviations = (np.array([each(float(a)) for a in wanted])[which] for each in (wait_quantile, tpot_deviations))
    return Asked(ttft_s, tpot_s, np.minimum(e2e_s, deadline_s), wait, deviations)


def engines_of(
    law_rows: FloatArray, kv_tokens: Sequence[float], token_budget: Sequence[int], max_num_seqs: Sequence[int]
) -> Engines:
    """The engines of `P` pools."""
    each = [loads(seqs)[0] for seqs in max_num_seqs]
    tried = np.full((len(each), max(map(len, each))), np.inf)
    for row, own in zip(tried, each, strict=True):
        row[: len(own)] = own
    return Engines(
        law_rows,
        np.array(kv_tokens, dtype=np.float64),
        np.array(token_budget, dtype=np.float64),
        np.array(max_num_seqs, dtype=np.float64),
        tried,
    )


@compiled
def capacities_some(
    which: NDArray[np.int64],
    engines: Engines,
    serves: NDArray[np.bool_],
    asked: Asked,
    prompt_tokens: FloatArray,
    output_tokens: FloatArray,
    rates: FloatArray,
) -> None:
    """Write `rates` `[B, C, P]` for clusters `which`: requests per second of one replica, 0 where it does not serve.

    Args:
        engines: `[B, P, ...]`.
        serves: `[B, C, P]`.
        asked: `[B, C]`
        prompt_tokens, output_tokens: `[B, C]` means.
    """
    for b in which:
        for c in range(serves.shape[1]):
            for p in range(serves.shape[2]):
                rates[b, c, p] = 0.0
                if serves[b, c, p]:
                    rates[b, c, p] = _capacity(
                        engines.law_rows[b, p],
                        engines.kv_tokens[b, p],
                        engines.token_budget[b, p],
                        engines.max_num_seqs[b, p],
                        engines.tried[b, p],
                        prompt_tokens[b, c],
                        output_tokens[b, c],
                        asked.ttft_s[b, c],
                        asked.tpot_s[b, c],
                        asked.e2e_s[b, c],
                        asked.wait[b, c],
                        asked.deviations[b, c],
                    )


@compiled
def _capacity(
    law: FloatArray,
    kv_tokens: float,
    budget: float,
    max_num_seqs: float,
    tried: FloatArray,
    prompt: float,
    output: float,
    ttft_s: float,
    tpot_s: float,
    e2e_s: float,
    wait: float,
    deviations: float,
) -> float:
    if prompt + output > kv_tokens or prompt <= 0.0:
        return 0.0
    decodes = max(output - 1.0, 0.0)
    spare = KV_FILL * kv_tokens - decodes / 2.0
    places = max(1.0, min(max_num_seqs, spare / (prompt + decodes / 2.0)))
    if decodes == 0.0:
        return _prefill_only(law, places, budget, prompt, min(ttft_s, e2e_s), wait)
    per_decode = prompt / decodes
    most = min(min(places, budget - 1.0), min(budget / (1.0 + per_decode), (budget - 1.0) / per_decode))
    best = 0.0
    for running in tried:
        if running > most:
            break
        iterating = max(running, 1.0)
        joining, room = running / decodes, budget - iterating
        seconds = _mean_iteration_s(law, iterating, joining, room, prompt, decodes)
        rate = joining / seconds
        if rate <= best:
            continue
        noise_s = PROMPT_NOISE * math.sqrt(running) * _added_s(law, iterating, joining, room, prompt) / decodes
        slower = seconds + deviations * math.hypot(TPOT_SPREAD * seconds, noise_s)
        if slower > tpot_s:
            continue
        if math.isfinite(ttft_s) or math.isfinite(e2e_s):
            own = _own_prefill_s(law, iterating, room, prompt, decodes)
            prompts_wait = _single_server_wait(running * per_decode / room, own)
            load = running / places
            holding = (own + decodes * seconds) / (places * max(1.0 - load, 1e-12))
            place_wait = load ** (math.sqrt(2.0 * (places + 1.0)) - 1.0) * holding
            first = own + seconds / 2.0 + wait * (prompts_wait + place_wait)
            if first > ttft_s or first + decodes * slower > e2e_s:
                continue
        best = rate
    return best


@compiled
def _prefill_only(law: FloatArray, places: float, budget: float, prompt: float, ttft_s: float, tail: float) -> float:
    widest = min(budget / prompt, places)
    whole = max(1.0, math.ceil(widest))
    few = len(_BELOW) + int(min(whole, 16.0))
    steps = max(2, math.ceil(math.log(max(whole, 17.0) / 16.0) / math.log(1.04)) + 1)
    best = 0.0
    for i in range(few + steps - 1 if whole > 16.0 else few):
        if i < len(_BELOW):  # the loads of `capacity.loads(whole)`, of which there is no table
            load = _BELOW[i]
        elif i < few:
            load = i - len(_BELOW) + 1.0
        else:
            load = 16.0 * (whole / 16.0) ** ((i - few + 1.0) / (steps - 1.0))
        joining = min(load, widest)
        batch = max(joining, min(1.0, widest))
        pairs = law[ROW_ATTEND_S] * prompt**2 / 2.0
        seconds = linear_s(law, max(batch * prompt, 1.0)) + batch * (pairs + law[ROW_SEQ_S])
        rate = joining / seconds
        if rate > best:
            own = seconds * max(1.0, 1.0 / widest)
            if own + seconds / 2.0 + tail * _single_server_wait(joining / widest, own) <= ttft_s:
                best = rate
    return best


@compiled
def _mean_iteration_s(
    law: FloatArray, running: float, joining: float, room: float, prompt: float, decodes: float
) -> float:
    chunk = min(max(joining, 1.0) * prompt, room)
    share = joining * prompt / chunk
    tokens = (1.0 - share) * linear_s(law, running) + share * linear_s(law, running + chunk)
    pairs = joining * prompt**2 / 2.0
    context = running * (prompt + decodes / 2.0)
    return float(tokens + law[ROW_ATTEND_S] * pairs + law[ROW_KV_READ_S] * context + law[ROW_SEQ_S] * running)


@compiled
def _added_s(law: FloatArray, running: float, joining: float, room: float, prompt: float) -> float:
    chunk = min(max(joining, 1.0) * prompt, room)
    beside = linear_s(law, running + chunk) - linear_s(law, running)
    return float(prompt / chunk * beside + law[ROW_ATTEND_S] * prompt**2 / 2.0)


@compiled
def _own_prefill_s(law: FloatArray, running: float, room: float, prompt: float, decodes: float) -> float:
    full = math.floor(prompt / room)
    rest = prompt - full * room
    beside = law[ROW_KV_READ_S] * running * (prompt + decodes / 2.0) + law[ROW_SEQ_S] * running
    last = linear_s(law, running + rest) + beside if rest > 0.0 else 0.0
    return float(full * (linear_s(law, running + room) + beside) + last + law[ROW_ATTEND_S] * prompt**2 / 2.0)


@compiled
def _single_server_wait(load: float, service_s: float) -> float:
    return load / (2.0 * max(1.0 - load, 1e-12)) * service_s
