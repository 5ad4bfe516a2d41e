"""What requests that begin alike may hit, and owe."""

from __future__ import annotations

import numpy as np

from poolpilot.agents.bound.sharing import sharing_of
from poolpilot.env.workload.prefixes import NO_PREFIXES, PrefixTree

TREE = PrefixTree(np.array([-1, 0, -1]), np.array([40, 112, 64]))
"""A system prompt of 40 tokens, a conversation of 112 that begins with it, and another prompt of 64."""


def test_a_cache_spares_whole_blocks_and_never_the_last_token() -> None:
    node, prompt = np.array([0, 0, 2, 2, 1, -1]), np.array([100, 41, 64, 65, 112, 50])
    shared = sharing_of(TREE, node, prompt, np.arange(6.0))
    np.testing.assert_array_equal(shared.hit_tokens, [32, 32, 48, 64, 96, 0])


def test_all_who_share_a_block_owe_for_it_once_together() -> None:
    node = np.array([0, 1, 1, 1, 2, -1])
    shared = sharing_of(TREE, node, np.full(6, 500), np.array([5.0, 1.0, 2.0, 3.0, 4.0, 0.5]))
    # Two blocks of the system prompt by four, four more of the conversation by three (its last is apart: 112 = 7 x 16).
    np.testing.assert_allclose(shared.owed_tokens, [8, *[8 + 64 / 3] * 3, 48, 0])
    assert shared.owed_tokens.sum() == 32 + 64 + 48
    np.testing.assert_allclose(shared.owed_pairs[0], 32**2 / 2 / 4)
    np.testing.assert_allclose(shared.owed_pairs[:4].sum(), 96**2 / 2)
    np.testing.assert_array_equal(shared.since_s, [1.0, 1.0, 1.0, 1.0, 4.0, 0.5])


def test_who_shares_nothing_owes_nothing() -> None:
    shared = sharing_of(NO_PREFIXES, np.full(3, -1), np.array([10, 20, 30]), np.array([1.0, 2.0, 3.0]))
    assert not shared.hit_tokens.any()
    assert not shared.owed_tokens.any()
    np.testing.assert_array_equal(shared.since_s, [1.0, 2.0, 3.0])
