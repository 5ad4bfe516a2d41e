"""Requests cut to what the engines that may serve them take.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

import numpy as np

from ..contract import Cluster, FloatArray, IntArray
from ..perf.memory import KV_BLOCK_TOKENS
from .requests import Workload

__all__ = ["cut_to", "fitted", "longest_allowed", "tokens_held"]


def tokens_held(kv_tokens: FloatArray, max_model_len: FloatArray) -> FloatArray:
    """`[P]` tokens of the longest request that a replica takes: whole KV blocks, and no more than its context."""
    held: FloatArray = np.minimum(kv_tokens // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS, max_model_len)
    return held


def longest_allowed(cluster: Cluster, pool_tokens: FloatArray) -> FloatArray:
    """`[C]` tokens of the longest request that every pool of the class takes, where a pool takes `pool_tokens` `[P]`."""
    limits: FloatArray = np.where(cluster.serves, pool_tokens, np.inf).min(axis=1)
    return limits


def fitted(requests: Workload, cluster: Cluster, pool_tokens: FloatArray) -> Workload:
    """The requests cut to what any pool of their class takes: first the answer, then the prompt.

    An engine refuses longer ones outright. A router that knows no lengths cannot send them to a larger pool, so they
    would only be a constant loss, the same for every policy.
    """
    return cut_to(requests, longest_allowed(cluster, pool_tokens).astype(np.int64))


def cut_to(requests: Workload, limits: IntArray) -> Workload:
    """The requests cut to the tokens `[C]` of the longest request of their class: first the answer, then the prompt."""
    own = limits[requests.class_index]
    prompt_tokens = np.minimum(requests.prompt_tokens, np.maximum(own - np.minimum(requests.output_tokens, 1), 1))
    output_tokens = np.minimum(requests.output_tokens, own - prompt_tokens)
    return requests.shortened(prompt_tokens, output_tokens)
