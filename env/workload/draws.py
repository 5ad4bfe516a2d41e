"""Lengths, choices and random streams that several generators share.

Symbols: `N` requests.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from ..contract import FloatArray, IntArray
from .arrivals import zipf_shares
from .prefixes import PrefixTree
from .spec import Bimodal, Fixed, LengthSpec, SharedPrefix

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def stream(seed: int, *key: int) -> np.random.Generator:
    """Random numbers that depend on seed and key only."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def uniform_of_rows(rows: IntArray, seed: int, *key: int) -> FloatArray:
    """`[N]` uniform numbers in [0, 1), each decided by its row alone, whichever other rows are asked for.

    The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014) over
    a Weyl sequence.
    """
    start = int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64((start + _GOLDEN) & _MASK)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    uniform: FloatArray = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def lengths_at(spec: LengthSpec, scores: FloatArray) -> IntArray:
    """`[N]` int64 lengths whose ranks are those of the standard normal `scores`.

    A mixture takes its long requests from the highest scores, which keeps each part's own distribution.
    """
    if isinstance(spec, Fixed):
        return np.full(len(scores), spec.tokens, dtype=np.int64)
    if isinstance(spec, Bimodal):
        rank = ndtr(scores)
        short_share = 1.0 - spec.long_share
        is_long = rank >= short_share
        within = np.where(is_long, (rank - short_share) / spec.long_share, rank / short_share)
        inner = ndtri(within)
        lengths: IntArray = np.where(is_long, lengths_at(spec.long, inner), lengths_at(spec.short, inner))
        return lengths
    mu, sigma = spec.mu_sigma
    with np.errstate(over="ignore"):
        drawn = np.clip(np.exp(mu + sigma * scores), spec.min, spec.max)
    rounded: IntArray = np.rint(drawn).astype(np.int64)
    return rounded


def correlated_lengths(
    prompt: LengthSpec, output: LengthSpec, rho: float, n: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """`[n]` prompt and `[n]` output lengths whose normal scores are correlated by `rho`."""
    scores = rng.standard_normal((n, 2))
    output_scores = rho * scores[:, 0] + math.sqrt(1.0 - rho * rho) * scores[:, 1]
    return lengths_at(prompt, scores[:, 0]), lengths_at(output, output_scores)


def shared_prefixes(
    spec: SharedPrefix, n: int, lengths_rng: np.random.Generator, choice_rng: np.random.Generator
) -> tuple[PrefixTree, IntArray, IntArray]:
    """Which system prompt each of `n` prompts begins with.

    Returns:
        A tree of roots, `[n]` the root of each prompt (-1: none), and `[n]` the root's tokens (0: none).
    """
    tokens = lengths_at(spec.tokens, lengths_rng.standard_normal(spec.count))
    uniform = choice_rng.random((n, 2))
    until = np.cumsum(zipf_shares(spec.count, spec.zipf))
    chosen = np.minimum(np.searchsorted(until, uniform[:, 1], side="right"), spec.count - 1)
    node = np.where(uniform[:, 0] < spec.share, chosen, -1)
    return PrefixTree(np.full(spec.count, -1, np.int64), tokens), node, np.where(node >= 0, tokens[node], 0)
