"""What a prefix cache may spare each request, and what somebody must have computed for that.

A request may hit every whole block that it shares with any other. But each block was computed at least once on the
replica that hits it, so that its work, split evenly among all requests that begin with it, is owed by every one of them:
those that are met on one replica owe for it together at most once.

Symbols: `N` requests, `G` nodes of the prefix tree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...env.contract import FloatArray, IntArray
from ...env.perf.memory import KV_BLOCK_TOKENS
from ...env.workload.prefixes import PrefixTree


@dataclass(frozen=True, eq=False)
class Sharing:
    """All zeros where nothing is shared."""

    hit_tokens: IntArray
    """`[N]` most tokens of the prompt that a cache spares: whole blocks, never the last token."""
    owed_tokens: FloatArray
    """`[N]` its share of the blocks that it hits."""
    owed_pairs: FloatArray
    """`[N]` likewise of the pairs of tokens that prefilling them attends."""
    since_s: FloatArray
    """`[N]` arrival of the first request that shares anything with it, its own if none does: nothing that it owes was
    computed before."""


def sharing_of(tree: PrefixTree, node: IntArray, prompt_tokens: IntArray, arrival_s: FloatArray) -> Sharing:
    """Of requests `[N]` at nodes of the tree; -1 for none."""
    count = len(tree)
    zeros = np.zeros(len(node))
    if not count:
        return Sharing(np.zeros(len(node), dtype=np.int64), zeros, zeros, arrival_s)
    at = node >= 0
    users = np.bincount(node[at], minlength=count)
    since_s = np.full(count, np.inf)
    np.minimum.at(since_s, node[at], arrival_s[at])
    for g in range(count - 1, -1, -1):  # children come after parents
        if tree.parent[g] >= 0:
            users[tree.parent[g]] += users[g]
            since_s[tree.parent[g]] = min(since_s[tree.parent[g]], since_s[g])
    first, end = tree.begins_at() // KV_BLOCK_TOKENS, tree.tokens // KV_BLOCK_TOKENS
    # A prompt that ends with the node's last block computes that one itself though it may be cached: nobody owes for it.
    end = np.maximum(np.where(tree.tokens % KV_BLOCK_TOKENS == 0, end - 1, end), first)
    share = np.divide(1.0, users, out=np.zeros(count), where=users > 0)
    tokens = (end - first) * KV_BLOCK_TOKENS * share
    pairs = (end**2 - first**2) * KV_BLOCK_TOKENS**2 / 2.0 * share
    for g in range(count):
        if tree.parent[g] >= 0:
            tokens[g] += tokens[tree.parent[g]]
            pairs[g] += pairs[tree.parent[g]]
            since_s[g] = since_s[tree.parent[g]]
    safe = np.maximum(node, 0)
    shared = np.where(at, tree.tokens[safe], 0)
    hit: IntArray = np.minimum(shared, prompt_tokens - 1) // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS
    return Sharing(
        hit_tokens=hit,
        owed_tokens=np.where(at, tokens[safe], 0.0),
        owed_pairs=np.where(at, pairs[safe], 0.0),
        since_s=np.where(at, since_s[safe], arrival_s),
    )
