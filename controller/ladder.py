"""The ladder from advising to acting: what a mode needs to rise by one, and what makes it fall. Pure.

    advise --gate--> canary --gate--> active        a breach goes one rung down, and says why

A mode rises only as far as somebody asked (`goal`), one rung at a time. The measure of a policy is the fallback rule: what
it is expected to reach now, with what would be up by now had it decided all along.

Symbols: `C` classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..env.contract import FloatArray, Mode
from ..env.scenario.control import Gates

RUNGS: Final = (Mode.ADVISE, Mode.CANARY, Mode.ACTIVE)
_SIGMAS: Final = 2.0
"""A class misses its mark only if chance alone would hardly bring it so far below."""
_MOST_DOUBLINGS: Final = 6


@dataclass(frozen=True)
class Evidence:
    """What one tick says of the policy."""

    judged: FloatArray
    """`[C]` requests that ended in the tick, served or lost."""
    met: FloatArray
    """`[C]` of these, within their targets."""
    rule_attains: FloatArray
    """`[C]` share that the fallback rule would be expected to reach, with what would be up had it decided all along."""
    rule_promises: FloatArray
    """`[C]` share that the rule's own proposal is expected to reach, once all that it wants is up."""
    policy_promises: FloatArray
    """`[C]` the same of the policy's proposal."""
    vetoes: int
    """Changes that the guard made to the proposal."""
    failed: bool
    """The policy gave no usable answer."""


@dataclass(frozen=True)
class Move:
    """One rung up or down."""

    before: Mode
    after: Mode
    why: str

    @property
    def up(self) -> bool:
        """Whether it is a promotion."""
        return RUNGS.index(self.after) > RUNGS.index(self.before)


@dataclass(frozen=True)
class Ladder:
    """Where the sidecar stands."""

    classes: tuple[str, ...]
    """Names, for the reasons."""
    mode: Mode
    goal: Mode
    """As high as it may climb by itself."""
    was_active: bool = False
    """The world has been in the sidecar's hands."""
    recent: tuple[Evidence, ...] = ()
    """Of the ticks on this rung, the newest last."""
    ticks: int = 0
    """On this rung."""
    wait_ticks: int = 0
    """Before it may rise again after a breach."""
    breaches: int = 0
    """Since somebody last asked for a mode."""
    last_breach: str = ""


def standing_on(mode: Mode, classes: tuple[str, ...], goal: Mode | None = None) -> Ladder:
    """A ladder at its beginning. Whoever starts it on a rung vouches for the gates below."""
    return Ladder(classes=classes, mode=mode, goal=goal or mode, was_active=mode is Mode.ACTIVE)


def judged(ladder: Ladder, evidence: Evidence, gates: Gates, *, steps_back: bool = True) -> tuple[Ladder, Move | None]:
    """After one more tick: one rung down at a breach (unless told otherwise), one up where its gate passed, or the same."""
    kept = max(gates.ticks, gates.breach_ticks)
    after = replace(
        ladder,
        recent=(*ladder.recent, evidence)[-kept:],
        ticks=ladder.ticks + 1,
        wait_ticks=max(0, ladder.wait_ticks - 1),
    )
    why = breach(after, gates) if steps_back else ""
    if why:
        below = RUNGS[RUNGS.index(after.mode) - 1]
        waits = gates.wait_ticks * 2 ** min(after.breaches, _MOST_DOUBLINGS)
        fallen = replace(_onto(after, below), wait_ticks=waits, breaches=after.breaches + 1, last_breach=why)
        return fallen, Move(after.mode, below, why)
    if _may_climb(after) and not wanting(after, gates):
        above = RUNGS[RUNGS.index(after.mode) + 1]
        return _onto(after, above), Move(after.mode, above, f"its gate passed after {after.ticks} ticks")
    return after, None


def asked(ladder: Ladder, mode: Mode, gates: Gates) -> tuple[Ladder, Move | None, str | None]:
    """Somebody asks for a mode: down at once, up as the gates allow.

    Returns:
        The ladder, the move made at once, and why the mode cannot be had now; None if it is in force or under way.
    """
    if RUNGS.index(mode) < RUNGS.index(ladder.mode):
        down = replace(_onto(ladder, mode), goal=mode, breaches=0, wait_ticks=0)
        return down, Move(ladder.mode, mode, "asked for"), None
    if mode is ladder.mode:
        return replace(ladder, goal=mode), None, None
    if ladder.wait_ticks:
        return ladder, None, f"stepped back ({ladder.last_breach}); may rise again in {ladder.wait_ticks} ticks"
    return replace(ladder, goal=mode), None, None


def renewed(ladder: Ladder) -> Ladder:
    """On the same rung, when another policy decides from now on: what was seen of the one before says nothing of it."""
    return _onto(ladder, ladder.mode)


def wanting(ladder: Ladder, gates: Gates) -> str:
    """What the gate to the next rung still waits for; empty where nothing, or where there is no next rung."""
    if ladder.mode is Mode.ACTIVE:
        return ""
    if ladder.wait_ticks:
        return f"stepped back ({ladder.last_breach}); {ladder.wait_ticks} ticks to wait"
    if ladder.ticks < gates.ticks:
        return f"{ladder.ticks} of {gates.ticks} ticks"
    recent = ladder.recent[-gates.ticks :]
    failed = _failed_frac(recent)
    if failed > gates.failed_frac:
        return f"the policy failed in {failed:.1%} of {len(recent)} ticks, wanted at most {gates.failed_frac:.1%}"
    vetoes = _vetoes_per_tick(recent)
    if vetoes > gates.vetoes_per_tick:
        return f"{vetoes:.2f} vetoes a tick, wanted at most {gates.vetoes_per_tick:g}"
    behind = _behind_in_theory if ladder.mode is Mode.ADVISE else _behind_in_fact
    return behind(ladder, recent, gates)


def breach(ladder: Ladder, gates: Gates) -> str:
    """Why the mode must fall by one; empty if it need not. An adviser cannot fall."""
    recent = ladder.recent[-gates.breach_ticks :]
    if ladder.mode is Mode.ADVISE or len(recent) < gates.breach_ticks:
        return ""
    failed = _failed_frac(recent)
    if failed > gates.breach_failed_frac:
        return f"the policy failed in {failed:.0%} of {len(recent)} ticks"
    vetoes = _vetoes_per_tick(recent)
    if vetoes > gates.breach_vetoes_per_tick:
        return f"{vetoes:.2f} vetoes a tick, wanted at most {gates.breach_vetoes_per_tick:g}"
    n, met, expected = _totals(recent)
    for c in np.flatnonzero(n >= gates.breach_requests):
        chance = _SIGMAS * math.sqrt(expected[c] * (1.0 - expected[c]) / n[c])
        if met[c] / n[c] + chance < expected[c] - gates.attainment_slack:
            return _too_few(ladder, int(c), met, n, expected)
    return ""


def _may_climb(ladder: Ladder) -> bool:
    return RUNGS.index(ladder.mode) < RUNGS.index(ladder.goal)


def _onto(ladder: Ladder, mode: Mode) -> Ladder:
    """On another rung, with what was seen on this one forgotten."""
    return replace(ladder, mode=mode, was_active=ladder.was_active or mode is Mode.ACTIVE, recent=(), ticks=0)


def _behind_in_fact(ladder: Ladder, recent: Sequence[Evidence], gates: Gates) -> str:
    n, met, expected = _totals(recent)
    if n.sum() < gates.requests:
        return f"{n.sum():.0f} of {gates.requests} requests"
    for c in np.flatnonzero(n > 0):
        if met[c] / n[c] < expected[c] - gates.attainment_slack:
            return _too_few(ladder, int(c), met, n, expected)
    return ""


def _too_few(ladder: Ladder, c: int, met: FloatArray, n: FloatArray, expected: FloatArray) -> str:
    share = f"{met[c] / n[c]:.1%} of {n[c]:.0f} requests met their targets"
    return f"{ladder.classes[c]}: {share}, the fallback rule is expected to reach {expected[c]:.1%}"


def _behind_in_theory(ladder: Ladder, recent: Sequence[Evidence], gates: Gates) -> str:
    """Requests say nothing of a policy that does nothing: what it proposes is expected to reach must do."""
    policy = np.mean([e.policy_promises for e in recent], axis=0)
    rule = np.mean([e.rule_promises for e in recent], axis=0)
    for c in np.flatnonzero(policy < rule - gates.attainment_slack):
        name = ladder.classes[int(c)]
        return f"{name}: its proposals are expected to reach {policy[c]:.1%}, the fallback rule's {rule[c]:.1%}"
    return ""


def _totals(recent: Sequence[Evidence]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`[C]` requests, those that met their targets, and the share that the rule would be expected to meet of them."""
    judged_ = np.stack([e.judged for e in recent])
    n = judged_.sum(axis=0)
    met = np.sum([e.met for e in recent], axis=0)
    weighted = (judged_ * np.stack([e.rule_attains for e in recent])).sum(axis=0)
    return n, met, np.divide(weighted, n, out=np.zeros_like(n), where=n > 0)


def _failed_frac(recent: Sequence[Evidence]) -> float:
    return sum(e.failed for e in recent) / len(recent)


def _vetoes_per_tick(recent: Sequence[Evidence]) -> float:
    return sum(e.vetoes for e in recent) / len(recent)
