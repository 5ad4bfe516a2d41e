"""Which blocks of the KV cache two prompts could share, told by what stands in them.

The kernel wants a prefix tree whose nodes are known (`sim.caching`). A server learns its prompts as they come: here every
full block of a prompt is a node, known by a key of everything up to its end, and forgotten when neither the cache nor a
request has it any more. Symbol: `G` nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..perf.roofline import KV_BLOCK_TOKENS
from ..sim.engine_state import NODE, NONE, Engine

CHARS_PER_TOKEN: Final = 4
MESSAGE_TOKENS: Final = 4


@dataclass(frozen=True, slots=True)
class Role:
    """The beginning of a chat's message."""

    name: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be read by the model: texts, lists of token ids, beginnings of messages, one after the other.

    Text has one token for every four characters, rounded up; a message begins with four.
    """

    pieces: tuple[str | list[int] | Role, ...]

    def __len__(self) -> int:
        """Its tokens."""
        return sum(map(_length, self.pieces))

    def block_keys(self) -> tuple[int, ...]:
        """A key for each block of the KV cache that it fills, of all its tokens up to there; true in one process only."""
        tokens = [token for piece in self.pieces for token in _tokens(piece)]
        keys, key = [], 0
        for end in range(KV_BLOCK_TOKENS, len(tokens) + 1, KV_BLOCK_TOKENS):
            key = hash((key, tuple(tokens[end - KV_BLOCK_TOKENS : end])))
            keys.append(key)
        return tuple(keys)


def _length(piece: str | list[int] | Role) -> int:
    if isinstance(piece, str):
        return -(-len(piece) // CHARS_PER_TOKEN)
    return MESSAGE_TOKENS if isinstance(piece, Role) else len(piece)


def _tokens(piece: str | list[int] | Role) -> Sequence[Hashable]:
    if isinstance(piece, str):
        return [piece[start : start + CHARS_PER_TOKEN] for start in range(0, len(piece), CHARS_PER_TOKEN)]
    return [piece] * MESSAGE_TOKENS if isinstance(piece, Role) else piece


def room_for_prompts(kv_blocks: int) -> tuple[list[int], list[int]]:
    """Parents and ends of nodes to make an engine with: twice what the cache can hold, to be told later."""
    count = 2 * kv_blocks
    return [NONE] * count, [KV_BLOCK_TOKENS] * count


class PromptTree:
    """The nodes of one engine's prompts."""

    def __init__(self, engine: Engine) -> None:
        """No prompt has come yet."""
        self._node_of: dict[int, int] = {}
        self._key_of: dict[int, int] = {}
        self._free = list(range(len(engine.nodes) - 1, -1, -1))

    def __len__(self) -> int:
        """Nodes that are known."""
        return len(self._node_of)

    def node_of(self, engine: Engine, keys: Sequence[int], in_use: Callable[[], Iterable[int]]) -> tuple[Engine, int]:
        """The node of a prompt whose blocks have these keys.

        Args:
            in_use: gives the nodes of all requests that have not ended.

        Returns:
            The engine, which may have got room for more nodes (the old value must not be used any more), and the node;
            NONE if no block is full.
        """
        node = NONE
        for place, key in enumerate(keys):
            known = self._node_of.get(key)
            if known is None:
                if not self._free:
                    engine = self._make_room(engine, [*in_use(), node])
                known = self._free.pop()
                self._node_of[key], self._key_of[known] = known, key
                engine.nodes[known] = (node, place, place, place + 1)
            node = known
        return engine, node

    def _make_room(self, engine: Engine, in_use: Iterable[int]) -> Engine:
        """Forget what nobody has; where that is little, grow."""
        kept = np.zeros(len(engine.nodes), dtype=np.bool_)
        cached = engine.lookup[0][engine.lookup[0] > 0]
        kept[engine.runs["unit"][0, cached] >> 1] = True  # and all above: a block is cached only if those before it are
        parent = engine.nodes["parent"]
        for last in in_use:
            node = last
            while node != NONE and not kept[node]:
                kept[node] = True
                node = int(parent[node])
        for node in [node for node in self._key_of if not kept[node]]:
            del self._node_of[self._key_of.pop(node)]
            self._free.append(node)
        if 2 * len(self._free) < len(engine.nodes):
            nodes = np.zeros(2 * len(engine.nodes), dtype=NODE)
            nodes[: len(engine.nodes)] = engine.nodes
            self._free = [*range(len(nodes) - 1, len(engine.nodes) - 1, -1), *self._free]
            engine = engine._replace(nodes=nodes)
        return engine
