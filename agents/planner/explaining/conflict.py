"""Why a problem has no answer, as data and in words; `infeasible` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Clash", "Conflict", "Remedy", "Shortage"]

MOST_SAID = 6
"""Remedies that are put in words, of many."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A class, and how much of it can be carried while all others are, or as much of them as can be."""

    name: str
    rate_per_s: float
    """Asked for, head-room left out."""
    beside_per_s: float | None
    """At most, with the head-room that was wished for, where all others are carried whole; None: these cannot be."""
    alone_per_s: float
    """At most, if nothing else were asked for."""
    barred: tuple[tuple[str, int], ...] = ()
    """What keeps options from serving it, and how many, the most frequent first."""
    options: int = 0
    """That serve it."""


@dataclass(frozen=True, slots=True)
class Clash:
    """One of the limits that clash."""

    kind: str
    """As of a `Bound`, or `load`."""
    subject: str
    limit: float
    unit: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a limit would have to be."""

    kind: str
    """As of a `Clash` or a `Lever`, or `head-room`."""
    subject: str
    now: str
    needed: str
    value: float | None = None
    """What is needed as a number, for a limit or a load."""
    change: float = 1.0
    """How much of what it is now that changes: what changes least comes first."""


@dataclass(frozen=True)
class Conflict:
    """Why there is no composition."""

    shortages: tuple[Shortage, ...]
    """The classes whose load clashes with the limits."""
    carried_frac: float
    """Share of the load of all classes, the same of each, that could be carried."""
    clashes: tuple[Clash, ...]
    """None of them can be taken away without the others becoming possible."""
    remedies: tuple[Remedy, ...]
    """Any one alone would do."""
    together: tuple[Remedy, ...]
    """Where only asking for less would do alone: these limits, all of them, would do for the whole load."""
    minimal: bool = True
    """False: time ran out before what does not matter was taken out of `clashes`."""

    @property
    def lines(self) -> tuple[str, ...]:
        """In words."""
        return (
            *_short(self.shortages, self.carried_frac),
            *_clashing(self.clashes, self.minimal),
            *_needed(self.remedies, self.together),
        )

    def __str__(self) -> str:
        """In words, one line."""
        return "; ".join(self.lines)


def _short(shortages: Sequence[Shortage], carried_frac: float) -> list[str]:
    lines = []
    fitting = []
    for short in shortages:
        of = f"of its {short.rate_per_s:.3g} requests/s"
        if not short.options:
            said = f"{short.name} cannot be carried: no option serves it within its targets"
        elif short.alone_per_s < 0.999 * short.rate_per_s:
            said = f"{short.name} cannot be carried even alone: at most {short.alone_per_s:.3g} {of}"
        elif short.beside_per_s is not None:
            said = f"{short.name} cannot be carried beside the others: at most {short.beside_per_s:.3g} {of}"
        else:
            fitting.append(short.name)
            continue
        if short.barred:
            said += f" ({'; '.join(f'{count} options: {why}' for why, count in short.barred)})"
        lines.append(said)
    if fitting:
        lines.append(f"{_and(fitting)} would fit alone, but not beside the others")
    if len(shortages) > 1:
        lines.append(f"of all classes together {carried_frac:.0%} of the load can be carried, head-room included")
    return lines


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _name(kind: str, subject: str) -> str:
    return f"{kind} of {subject}" if subject else kind


def _clashing(clashes: Sequence[Clash], minimal: bool) -> list[str]:
    if not clashes:
        return []
    named = _and([f"{_name(c.kind, c.subject)} ({c.limit:.4g} {c.unit})" for c in clashes])
    if len(clashes) == 1:
        return [f"by itself impossible: {named}"]
    return [f"these clash: {named}" if minimal else f"among these is the clash, time ran out to tell which: {named}"]


def _needed(remedies: Sequence[Remedy], together: Sequence[Remedy]) -> list[str]:
    def all_of(some: Sequence[Remedy]) -> str:
        said = [f"{_name(r.kind, r.subject)} {r.needed} (now {r.now})" for r in some[:MOST_SAID]]
        return "; ".join(said) + (f"; or one of {len(some) - MOST_SAID} more" if len(some) > MOST_SAID else "")

    lines = []
    if len(remedies) > 1:
        lines.append(f"any ONE of these would do: {all_of(remedies)}")
    elif remedies:
        lines.append(f"this would do: {all_of(remedies)}")
    if together:
        lines.append(f"{'or' if lines else 'only'} together: {all_of(together)}")
    return lines or ["no change of a limit would do"]
