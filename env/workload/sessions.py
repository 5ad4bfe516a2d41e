"""Conversations: turns whose prompts hold everything said before.

Symbols: `S` sessions, `T` turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import BoolArray, FloatArray, IntArray
from .arrivals import renewal_points
from .draws import lengths_at, shared_prefixes
from .prefixes import NO_PREFIXES, PrefixTree
from .requests import Workload
from .spec import SessionLoad
from .streams import (
    LENGTHS,
    OUTPUTS,
    PREFIX_CHOICES,
    PREFIX_LENGTHS,
    STARTED,
    THINKING,
    TURNS,
    Stream,
    arrival_times,
    check_count,
)

LONGER_SHARE = 1e-4
"""Of the sessions, so many are under way for longer than is looked back from the beginning of a run."""


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """Turns of all sessions, session after session, `[T]` each."""

    session: IntArray
    arrival_s: FloatArray
    prompt_tokens: IntArray
    """Without the system prompt."""
    output_tokens: IntArray


def sessions(name: str, load: SessionLoad, duration_s: float, rng: Stream) -> Workload:
    """The turns of a class's sessions over [0, duration_s), also of those that started before."""
    look_back_s = _look_back_s(load)

    def check(expected: float, at_start_per_s: float) -> None:
        turns = (expected + at_start_per_s * look_back_s) * load.turns_mean
        check_count(f"{name}.sessions_per_s", load.sessions_per_s, turns, duration_s)

    start_s, curve = arrival_times(load, load.sessions_per_s, None, duration_s, rng, check)
    before_per_s = curve.at_start_per_s()
    begun = (
        renewal_points("poisson", 1.0, before_per_s * look_back_s, rng(STARTED)) if before_per_s > 0 else start_s[:0]
    )
    begun_s = -begun / before_per_s if before_per_s > 0 else begun
    older, newer = _turns(load, begun_s, rng, 0), _turns(load, start_s, rng, 1)
    turns = _Turns(
        np.concatenate([older.session, newer.session + len(begun_s)]),
        np.concatenate([older.arrival_s, newer.arrival_s]),
        np.concatenate([older.prompt_tokens, newer.prompt_tokens]),
        np.concatenate([older.output_tokens, newer.output_tokens]),
    )
    roots, root = NO_PREFIXES, np.full(len(begun_s) + len(start_s), -1, np.int64)
    prompt_tokens = turns.prompt_tokens
    if load.shared_prefix is not None:
        drawn = [
            shared_prefixes(load.shared_prefix, len(starts), rng(PREFIX_LENGTHS), rng(PREFIX_CHOICES, i))
            for i, starts in enumerate((begun_s, start_s))
        ]
        roots, root = drawn[0][0], np.concatenate([node for _, node, _ in drawn])
        prompt_tokens = prompt_tokens + np.concatenate([tokens for _, _, tokens in drawn])[turns.session]
    # Prompts and times only grow within a session, so what is kept of one has no gap.
    kept = (prompt_tokens <= load.max_prompt_tokens) & (turns.arrival_s >= 0.0) & (turns.arrival_s < duration_s)
    session, prompt_tokens = turns.session[kept], prompt_tokens[kept]
    tree, node = _tree(roots, root, session, prompt_tokens)
    arrival_s = turns.arrival_s[kept]
    order = np.argsort(arrival_s, kind="stable")
    return Workload(
        arrival_s[order],
        prompt_tokens[order],
        turns.output_tokens[kept][order],
        np.zeros(len(order), np.int64),
        (name,),
        node[order],
        tree,
    )


def _look_back_s(load: SessionLoad) -> float:
    """How long before the run a session may have started and still matter."""
    if load.turns_mean == 1.0:
        return 0.0
    return math.log(LONGER_SHARE) / math.log1p(-1.0 / load.turns_mean) * load.think_s


def _turns(load: SessionLoad, start_s: FloatArray, rng: Stream, part: int) -> _Turns:
    """All turns of sessions that start at these times."""
    counts = rng(TURNS, part).geometric(1.0 / load.turns_mean, len(start_s))
    session = np.repeat(np.arange(len(start_s)), counts)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64) if len(counts) else counts
    n = len(session)
    sigma = math.sqrt(math.log1p(load.think_cv**2))
    think_s = load.think_s * np.exp(sigma * rng(THINKING, part).standard_normal(n) - sigma * sigma / 2.0)
    think_s[first] = 0.0
    message = lengths_at(load.message_tokens, rng(LENGTHS, part).standard_normal(n))
    output = lengths_at(load.output_tokens, rng(OUTPUTS, part).standard_normal(n))
    said = message.copy()
    said[1:] += output[:-1]
    said[first] = message[first]
    arrival_s = start_s[session] + _within(think_s, first, counts)
    return _Turns(session, arrival_s, _within(said, first, counts), output)


def _within(steps: NDArray[Any], first: IntArray, counts: IntArray) -> NDArray[Any]:
    """`[T]` running sums that begin anew with each session."""
    total: NDArray[Any] = np.cumsum(steps)
    before: NDArray[Any] = total[first] - steps[first]
    return np.asarray(total - np.repeat(before, counts))


def _tree(roots: PrefixTree, root: IntArray, session: IntArray, prompt_tokens: IntArray) -> tuple[PrefixTree, IntArray]:
    """Every turn that another follows is a node below the turn before it, the first below its system prompt.

    Returns:
        The tree, and `[T]` the node of each turn.
    """
    n = len(session)
    same: BoolArray = np.zeros(n + 1, np.bool_)  # whether turn i belongs to the session of turn i - 1
    same[1:n] = session[1:] == session[:-1]
    follows, followed = same[:n], same[1:]
    own = np.where(followed, len(roots) + np.cumsum(followed) - 1, -1)
    above = root[session]
    above[follows] = own[np.flatnonzero(follows) - 1]
    parent = np.concatenate([roots.parent, above[followed]])
    tokens = np.concatenate([roots.tokens, prompt_tokens[followed]])
    return PrefixTree(parent, tokens), np.where(followed, own, above)
