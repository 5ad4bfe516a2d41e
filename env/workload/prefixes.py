"""Prompts that begin alike: which leading tokens a request has in common with others.

Symbols: `G` nodes, `N` requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contract import IntArray
from .checks import check_array, check_rows


@dataclass(frozen=True, slots=True, eq=False)
class PrefixTree:
    """Leading tokens that prompts share, as a tree of nodes, each continuing its parent; checked on construction.

    The leading `tokens[g]` tokens of all requests at or below node `g` are the same; a node's own part begins where
    its parent ends.

    Raises:
        WorkloadError: an array has the wrong type or shape, or a node cannot be; the message names the field, the
            first bad node (from 0), the value and what would be right.
    """

    parent: IntArray
    """`[G]` int64, each above in the array; -1 for a root, which begins at the prompt's first token."""
    tokens: IntArray
    """`[G]` int64, tokens from the beginning of the prompt to the END of the node; above its parent's."""

    def __post_init__(self) -> None:
        """Check that it is a tree, in an order in which parents come first."""
        shape = (np.size(self.parent),)
        for field in ("parent", "tokens"):
            check_array(f"prefixes.{field}", getattr(self, field), np.dtype(np.int64), shape)
        misplaced = (self.parent < -1) | (self.parent >= np.arange(shape[0]))
        check_rows("prefixes.parent", self.parent, misplaced, "-1, or a node that comes before")
        begins = self.begins_at()
        check_rows("prefixes.tokens", self.tokens, self.tokens <= begins, "more than its parent's, above 0")

    def __len__(self) -> int:
        """`G`."""
        return len(self.parent)

    def begins_at(self) -> IntArray:
        """`[G]` tokens from the beginning of the prompt to the beginning of each node's own part."""
        if not len(self):
            return np.empty(0, np.int64)
        begins: IntArray = np.where(self.parent >= 0, self.tokens[self.parent], 0)
        return begins

    def ancestor_within(self, node: IntArray, tokens: IntArray) -> tuple[IntArray, IntArray]:
        """Where paths that end after so many tokens stop.

        Args:
            node: `[N]` nodes, or -1.
            tokens: `[N]` tokens kept of each path.

        Returns:
            `[N]` the last node that lies within `tokens` wholly, and `[N]` the node after it on the path, which they
            cut; each -1 if there is none.
        """
        within, beyond = node.copy(), np.full(len(node), -1, np.int64)
        active = np.flatnonzero(within >= 0)
        while len(active):
            active = active[self.tokens[within[active]] > tokens[active]]
            beyond[active] = within[active]
            within[active] = self.parent[within[active]]
            active = active[within[active] >= 0]
        return within, beyond

    def seen_before(self, node: IntArray) -> IntArray:
        """`[N]` leading tokens of each of `[N]` prompts that an earlier one of them begins with too.

        What a prefix cache without end would spare; `node` in the order of arrival, -1: none.
        """
        first = np.full(len(self), len(node), np.int64)
        rows = np.flatnonzero(node >= 0)
        np.minimum.at(first, node[rows], rows)
        for i in range(len(self) - 1, -1, -1):  # children come after parents
            parent = self.parent[i]
            if parent >= 0 and first[i] < first[parent]:
                first[parent] = first[i]
        at = node.copy()
        while len(rows):
            rows = rows[first[at[rows]] >= rows]
            at[rows] = self.parent[at[rows]]
            rows = rows[at[rows] >= 0]
        if not len(self):
            return np.zeros(len(node), np.int64)
        tokens: IntArray = np.where(at >= 0, self.tokens[at], 0)
        return tokens

    def shortened(self, node: IntArray, tokens: IntArray) -> tuple[PrefixTree, IntArray]:
        """The tree, and the place in it of each of `[N]` paths once only their first `tokens` `[N]` are kept.

        A node in which a path is cut is split there, so that prompts that were cut share what is left of them.
        """
        within, beyond = self.ancestor_within(node, tokens)
        is_cut = (beyond >= 0) & (tokens > np.where(within >= 0, self.tokens[within] if len(self) else 0, 0))
        if not is_cut.any():
            return self, within
        # Each distinct cut becomes a node just before the one that it splits.
        cuts, which = np.unique(np.stack([beyond[is_cut], tokens[is_cut]], axis=1), axis=0, return_inverse=True)
        cut_node, cut_tokens = cuts[:, 0], cuts[:, 1]
        cut_place = cut_node + np.arange(len(cuts))
        place = np.arange(len(self)) + np.searchsorted(cut_node, np.arange(len(self)), side="right")
        parent = np.empty(len(self) + len(cuts), np.int64)
        ends = np.empty_like(parent)
        parent[place] = np.where(self.parent >= 0, place[self.parent], -1)
        ends[place], ends[cut_place] = self.tokens, cut_tokens
        follows = np.concatenate([[False], cut_node[1:] == cut_node[:-1]])  # a second cut of the same node
        parent[cut_place] = np.where(follows, cut_place - 1, parent[place[cut_node]])
        last = np.concatenate([cut_node[1:] != cut_node[:-1], [True]])
        parent[place[cut_node[last]]] = cut_place[last]
        moved = np.where(within >= 0, place[within], -1)
        moved[is_cut] = cut_place[which.reshape(-1)]
        return PrefixTree(parent, ends), moved

    @staticmethod
    def joined(trees: list[PrefixTree]) -> tuple[PrefixTree, IntArray]:
        """All nodes of all trees in one tree, and the place there of each tree's node 0.

        A tree that is given twice stays one: prompts that shared tokens before still do.
        """
        distinct = list({id(tree): tree for tree in trees}.values())
        starts = np.concatenate([[0], np.cumsum([len(tree) for tree in distinct])]).astype(np.int64)
        place = {id(tree): start for tree, start in zip(distinct, starts, strict=False)}
        if len(distinct) == 1:
            return distinct[0], np.zeros(len(trees), np.int64)
        parent = np.concatenate([np.where(t.parent >= 0, t.parent + place[id(t)], -1) for t in distinct])
        tokens = np.concatenate([tree.tokens for tree in distinct])
        return PrefixTree(parent, tokens), np.array([place[id(tree)] for tree in trees], np.int64)


NO_PREFIXES = PrefixTree(np.empty(0, np.int64), np.empty(0, np.int64))
"""The tree of requests that share nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Prompts as the names of their blocks: equal prompts so far and an equal name mean the same tokens."""

    ids: IntArray
    """`[B]` int64 names of the blocks, prompt after prompt."""
    starts: IntArray
    """`[N + 1]` place in `ids` of each prompt's first block, and `B`."""
    block_tokens: int
    """Length of a block; a prompt's last may be shorter."""
    covered_tokens: IntArray
    """`[N]` leading tokens that a prompt's blocks stand for, at most; fewer than a block less than what they hold."""

    def picked(self, rows: IntArray) -> Blocks:
        """Some of the prompts, by place."""
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        place = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return Blocks(self.ids[place], starts, self.block_tokens, self.covered_tokens[rows])

    @staticmethod
    def joined(parts: list[Blocks]) -> Blocks:
        """The prompts of all parts, one after another; all have blocks of the same length."""
        ends = np.cumsum([0, *(len(part.ids) for part in parts)])
        starts = [part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)]
        return Blocks(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([*starts, ends[-1:]]).astype(np.int64),
            parts[0].block_tokens,
            np.concatenate([part.covered_tokens for part in parts]),
        )

    def tree(self) -> tuple[PrefixTree, IntArray]:
        """What prompts share.

        Only what two or more prompts share becomes a node, and a stretch of blocks that the same prompts share is one.

        Returns:
            The tree, and `[N]` the node of each prompt (-1: shares nothing).
        """
        count = np.diff(self.starts)
        names, dense = np.unique(self.ids, return_inverse=True)
        node = np.full(len(count), -1, np.int64)
        parents: list[IntArray] = []
        ends: list[IntArray] = []
        members = np.empty(0, np.int64)  # prompts at or below each node
        active = np.flatnonzero(count > 0)
        depth = 0
        while len(active):
            key = (node[active] + 1) * len(names) + dense[self.starts[active] + depth]
            _, first, group, size = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
            above = node[active[first]]
            end = np.full(len(size), np.iinfo(np.int64).max)
            np.minimum.at(end, group, np.minimum(self.block_tokens * (depth + 1), self.covered_tokens[active]))
            shared = size > 1
            # The same prompts go on together: their node grows. Others branch off: a new node.
            grows = shared & (above >= 0)
            grows[grows] = members[above[grows]] == size[grows]
            branches = shared & ~grows
            place = np.where(grows, above, -1)
            place[branches] = len(members) + np.arange(int(branches.sum()))
            parents.append(above[branches])
            members = np.concatenate([members, size[branches]])
            ends.append(np.zeros(int(branches.sum()), np.int64))
            tokens = np.concatenate(ends)
            tokens[place[shared]] = end[shared]
            ends = [tokens]
            goes_on = shared[group]
            active, group = active[goes_on], group[goes_on]
            node[active] = place[group]
            depth += 1
            active = active[count[active] > depth]
        if not parents:
            return NO_PREFIXES, node
        return PrefixTree(np.concatenate(parents), ends[0]), node


def check_prefix_index(index: IntArray, tree: PrefixTree, prompt_tokens: IntArray) -> None:
    """Raise `WorkloadError` if a request is at no node of `tree`, or its prompt ends before its node does."""
    outside = (index < -1) | (index >= len(tree))
    check_rows("prefix_index", index, outside, f"-1 (none), or a node: 0 to {len(tree) - 1}")
    if not len(tree):
        return
    ends = np.where(index >= 0, tree.tokens[index], 0)
    check_rows("prefix_index", index, ends > prompt_tokens, "a node that ends within the request's prompt_tokens")
