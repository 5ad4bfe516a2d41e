"""The least engine time that a request can take of a replica, whatever runs beside it.

An iteration that decodes `n` tokens and prefills `P` takes `linear(P + n) + attend * A + kv_read * K + seq * n` seconds
(`env.perf.law`). Each decode takes a place of the batch, and so does each chunk of a prompt. Over all iterations that an
engine can run (places at most the batch cap, tokens at least the places and at most the token budget, `K` at most the KV
cache), find `token_s`, `place_s` and `context_s`, none negative, with

    token_s * tokens + place_s * places + context_s * K <= linear(tokens)

Then no iteration is shorter than what it computes weighs, so no engine is busy for less than the weights of all it
computes: a request's share of the fullest batches there can be. `linear` is piecewise linear and the iterations between
two of its points are a prism, so it is enough that this holds at the corners. Any such weights prove a bound; those are
taken under which the requests at hand cost most, which is a small linear program.

Symbols: `N` requests, `M` kinds of them, `C` classes, `P` pools, `Q` corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...env.contract import BoolArray, FloatArray, IntArray
from ...env.perf.law import TOKENS_GRID, IterationLaw
from ...env.perf.memory import KV_BLOCK_TOKENS
from ..planner.solving.highs import Mip, relaxed
from .sharing import Sharing

_ROUNDING_S = 3e-12
"""An engine counts whole picoseconds: each part of an iteration may be rounded down."""
_ATTEND_ROUNDING_S = 1e-15
_TIME_LIMIT_S = 3600.0
"""Far beyond what it takes: a limit that bites would make the bound depend on what else the machine does."""
_QUANTILES = 6
"""Of prompts and of outputs, by which requests are told apart when weights are chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """What a replica can truly do at most."""

    law: IterationLaw
    kv_tokens: float
    """Size of the KV cache."""
    max_num_seqs: float
    """Most sequences of a batch."""
    token_budget: float
    """Most tokens of an iteration, all batches in flight together."""
    prefix_caching: bool = False
    throws_out: bool = True
    """Whether the KV cache may ever run out, so that a sequence has to start over."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """Requests of like length."""

    class_index: IntArray
    """`[M]`"""
    count: FloatArray
    """`[M]`"""
    prompt_tokens: FloatArray
    """`[M]` of one request, as the following."""
    uncached_tokens: FloatArray
    """`[M]` of its prompt, what no prefix cache spares."""
    decodes: FloatArray
    """`[M]`"""
    context_tokens: FloatArray
    """`[M]` KV tokens read by decoding."""
    pairs: FloatArray
    """`[M]` pairs of tokens that prefill attends."""
    uncached_pairs: FloatArray
    """`[M]` without those that a prefix cache spares."""
    serves: BoolArray
    """`[M, P]`"""


@dataclass(frozen=True, slots=True)
class Weights:
    """Seconds that no engine can do a piece of work in less than."""

    token_s: float
    """For a token that is computed."""
    place_s: float
    """For a decode or a chunk, on top of its tokens."""
    sequence_s: float
    """For a decode, on top of that."""
    context_s: float
    """For a KV token that decoding reads."""
    pair_s: float
    """For a pair of tokens that prefill attends."""


def corners(engine: Engine) -> tuple[FloatArray, FloatArray]:
    """`[Q, 3]` tokens, places and KV tokens of the extreme iterations, and `[Q]` seconds of their linear part."""
    budget, cap = max(engine.token_budget, 1.0), max(engine.max_num_seqs, 1.0)
    ends = np.concatenate([TOKENS_GRID, [budget, min(cap, budget)]])
    tokens = np.unique(ends[ends <= budget])
    kv = 0.0 if engine.prefix_caching else engine.kv_tokens
    rows = [
        np.stack([tokens, places, np.full_like(tokens, context)], axis=1)
        for places in (np.ones_like(tokens), np.minimum(tokens, cap))
        for context in (0.0, kv)
    ]
    seconds = np.maximum(engine.law.linear(tokens) - _ROUNDING_S, 0.0)
    return np.concatenate(rows), np.tile(seconds, len(rows))


def dearest_weights(engines: Sequence[Engine], kinds: Kinds, met: IntArray, usd_per_s: FloatArray) -> list[Weights]:
    """`[P]` valid weights under which requests of these kinds, each in the pool where it then weighs least, cost most.

    The linear program that the weights are the dual of: which requests where, and which extreme iterations that takes.
    """
    n_kinds, n_pools = kinds.serves.shape
    of, pool = np.nonzero(kinds.serves)
    points, seconds = zip(*map(corners, engines), strict=True)
    at = len(of) + np.cumsum([0, *map(len, points)])
    kv = np.array([max(engine.kv_tokens, 1.0) for engine in engines])
    scale = np.stack([np.ones(n_pools), np.ones(n_pools), kv], axis=1)  # rows in like units
    cached = np.array([engine.prefix_caching for engine in engines])[pool]
    prompt = np.where(cached, kinds.uncached_tokens[of], kinds.prompt_tokens[of])
    read = np.where(cached, 0.0, kinds.context_tokens[of])
    amounts = np.stack([prompt + kinds.decodes[of], kinds.decodes[of] + 1.0, read], axis=1)
    reads = np.array([0.0 if engine.prefix_caching and engine.throws_out else 1.0 for engine in engines])
    laws = [engine.law for engine in engines]
    fixed_s = (reads * [law.kv_read_s_per_token for law in laws])[pool] * kinds.context_tokens[of]
    fixed_s += (reads * [law.seq_s for law in laws])[pool] * kinds.decodes[of]
    fixed_s += np.array([law.attend_s_per_pair for law in laws])[pool] * np.where(
        cached, kinds.uncached_pairs[of], kinds.pairs[of]
    )
    # Rows: what each pool computes of the three kinds of work, requests of each kind, requests met of each class.
    at_kind, at_class = 3 * n_pools, 3 * n_pools + n_kinds
    entries = [(3 * pool + k, np.arange(len(of)), -amounts[:, k] / scale[pool, k]) for k in range(3)]
    entries += [(at_kind + of, np.arange(len(of)), np.ones(len(of)))]
    entries += [(at_class + kinds.class_index[of], np.arange(len(of)), np.ones(len(of)))]
    for p, own in enumerate(points):
        place, k = np.nonzero(own)
        entries.append((3 * p + k, at[p] + place, own[place, k] / scale[p, k]))
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    most = np.bincount(kinds.class_index, weights=kinds.count, minlength=len(met))
    iteration_usd = np.concatenate([own * usd for own, usd in zip(seconds, usd_per_s, strict=True)])
    answer = relaxed(
        Mip(
            cost=np.concatenate([fixed_s * usd_per_s[pool], iteration_usd]),
            lower=np.zeros(at[-1]),
            upper=np.full(at[-1], np.inf),
            whole=np.zeros(at[-1], dtype=np.bool_),
            row=row,
            column=column,
            value=value,
            row_lower=np.concatenate([np.zeros(3 * n_pools), np.full(n_kinds, -np.inf), np.minimum(met, most)]),
            row_upper=np.concatenate([np.full(3 * n_pools, np.inf), kinds.count, np.full(len(met), np.inf)]),
        ),
        _TIME_LIMIT_S,
    )
    if answer.status != "solved" or answer.row_dual is None:
        raise RuntimeError(f"weights: the linear program is {answer.status}, though every request can be served")
    worth = np.maximum(answer.row_dual[:at_kind].reshape(n_pools, 3), 0.0) / scale / usd_per_s[:, None]
    return [_valid(engine, own) for engine, own in zip(engines, worth, strict=True)]


def _valid(engine: Engine, wanted: FloatArray) -> Weights:
    """Weights in the proportions of `wanted` `[3]`, lowered until no iteration is shorter than its tokens weigh."""
    points, seconds = corners(engine)
    needed = points @ wanted
    share = float(np.min(np.divide(seconds, needed, out=np.ones_like(seconds), where=needed > 0), initial=1.0))
    token_s, place_s, context_s = (wanted * share * (1.0 - 1e-9)).tolist()
    if engine.prefix_caching:
        context_s = 0.0
    law = engine.law
    return Weights(
        token_s=token_s,
        place_s=place_s,
        sequence_s=max(law.seq_s - _ROUNDING_S, 0.0),
        context_s=context_s + max(law.kv_read_s_per_token - _ROUNDING_S, 0.0),
        pair_s=max(law.attend_s_per_pair - _ATTEND_ROUNDING_S, 0.0),
    )


def least_work_s(
    weights: Weights, engine: Engine, prompt_tokens: IntArray, output_tokens: IntArray, hit_tokens: IntArray
) -> FloatArray:
    """`[N]` engine seconds that each request takes at least, from an empty start to its last token.

    The first token comes of the prefill, each further one of a decode that reads all tokens before it, or, where the KV
    cache may run out, of prefilling all of them again (of which a prefix cache may spare all but the last): whichever
    weighs less.

    Args:
        hit_tokens: of each prompt, what a prefix cache may spare (`sharing`).
    """
    prompt = prompt_tokens.astype(np.float64)
    hit = hit_tokens.astype(np.float64) if engine.prefix_caching else np.zeros_like(prompt)
    prefill_s = weights.token_s * (prompt - hit) + weights.place_s + weights.pair_s * (prompt**2 - hit**2) / 2.0
    further = np.maximum(output_tokens - 1.0, 0.0)
    base, slope = weights.token_s + weights.place_s + weights.sequence_s, weights.context_s
    held = prompt + 1.0  # when the second token is due; later, starting over weighs more
    if not engine.throws_out:
        again_s = np.full_like(prompt, np.inf)
    elif engine.prefix_caching:
        again_s = weights.token_s + weights.place_s + weights.pair_s * (held - 0.5)
    else:
        again_s = weights.token_s * held + weights.place_s + weights.pair_s * held**2 / 2.0
    # A decode reads one token more each time: from some place on, starting over may weigh less.
    with np.errstate(divide="ignore", invalid="ignore"):
        cheap = np.where(base <= again_s, further, 0.0)
        if slope > 0.0:
            cheap = np.clip(np.floor((again_s - base) / slope - prompt), 0.0, further)
    over = np.where(cheap < further, (further - cheap) * np.where(np.isinf(again_s), 0.0, again_s), 0.0)
    work_s: FloatArray = prefill_s + base * cheap + slope * (prompt * cheap + cheap * (cheap + 1.0) / 2.0) + over
    return work_s


def owed_work_s(weights: Weights, engine: Engine, sharing: Sharing) -> FloatArray:
    """`[N]` engine seconds of each request's share of what it hits in a prefix cache, beside `least_work_s`."""
    owed_s: FloatArray = weights.token_s * sharing.owed_tokens + weights.pair_s * sharing.owed_pairs
    return owed_s if engine.prefix_caching else np.zeros_like(owed_s)


def may_run_out(kv_tokens: float, max_num_seqs: float, prompt_tokens: IntArray, output_tokens: IntArray) -> bool:
    """Whether the largest of these requests that fit into a batch can need more blocks than there are."""
    held = prompt_tokens + np.maximum(output_tokens - 1, 0)
    blocks = -(-held // KV_BLOCK_TOKENS)
    count = min(int(max_num_seqs), len(blocks))
    if not count:
        return False
    largest = np.partition(blocks, len(blocks) - count)[len(blocks) - count :]
    return bool(largest.sum() > kv_tokens // KV_BLOCK_TOKENS)


def kinds_of(
    class_index: IntArray, prompt_tokens: IntArray, output_tokens: IntArray, sharing: Sharing, serves: BoolArray
) -> Kinds:
    """Requests `[N]` of classes that `serves` `[C, P]`, in kinds by class and quantiles of prompt and output."""
    prompt, output = _rank(prompt_tokens, class_index), _rank(output_tokens, class_index)
    key = (class_index * _QUANTILES + prompt) * _QUANTILES + output
    keys, kind, count = np.unique(key, return_inverse=True, return_counts=True)
    further = np.maximum(output_tokens - 1.0, 0.0)

    def mean(values: FloatArray) -> FloatArray:
        means: FloatArray = np.bincount(kind, weights=values, minlength=len(keys)) / count
        return means

    of_class = keys // _QUANTILES**2
    return Kinds(
        class_index=of_class,
        count=count.astype(np.float64),
        prompt_tokens=mean(prompt_tokens.astype(np.float64)),
        uncached_tokens=mean(prompt_tokens - sharing.hit_tokens + sharing.owed_tokens),
        decodes=mean(further),
        context_tokens=mean(further * prompt_tokens + further * (further + 1.0) / 2.0),
        pairs=mean(prompt_tokens**2 / 2.0),
        uncached_pairs=mean((prompt_tokens**2 - sharing.hit_tokens**2) / 2.0 + sharing.owed_pairs),
        serves=serves[of_class],
    )


def _rank(values: IntArray, class_index: IntArray) -> IntArray:
    """`[N]` the quantile of each value within its class."""
    out = np.zeros(len(values), dtype=np.int64)
    for c in np.unique(class_index).tolist():
        own = np.flatnonzero(class_index == c)
        order = np.argsort(values[own], kind="stable")
        out[own[order]] = np.arange(len(own)) * _QUANTILES // len(own)
    return out
