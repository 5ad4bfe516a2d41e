"""What a rule is to those who tune it, compare it, or let a network bend it.

Every rule is one small file in `opponents` that ends with its `SPEC`; `portfolio` collects them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..env.codec import Proposal
from ..env.contract import Action, Cluster, Memory, Plan, Snapshot

Knobs: TypeAlias = Mapping[str, float]
"""A rule's settings by name."""


class Rule(Protocol):
    """A rule at work on a cluster, or on a batch of clusters: a policy whose proposals can be bent."""

    @property
    def follows_plan(self) -> bool:
        """Whether it looks at the plan: nobody need make new ones for a rule that does not."""
        ...

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """What it proposes now, and what it wants to remember."""
        ...

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The proposal's action: the rule as a policy of its own."""
        ...


class KnobError(ValueError):
    """A rule was given a knob that it does not have, or a value that it cannot take; the message is one line."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One number of a rule, and where it makes sense to search for its best value."""

    name: str
    default: float
    low: float
    high: float
    doc: str
    log: bool = False
    """Searched on a logarithmic scale."""


@dataclass(frozen=True)
class RuleSpec:
    """A rule by name, with its knobs."""

    name: str
    summary: str
    """One line for tables."""
    source: str
    """Whose idea it is: document or paper."""
    make: Callable[[Cluster, Knobs], Rule]
    """Called with every knob set."""
    knobs: tuple[Knob, ...]
    headroom: str
    """The knob that trades bill against attainment when all others stay."""
    inverse: bool = False
    """More of that knob is less head-room: a target utilisation, say."""

    @property
    def defaults(self) -> dict[str, float]:
        """Every knob at its default."""
        return {knob.name: knob.default for knob in self.knobs}

    def settled(self, knobs: Knobs | None = None, headroom: float = 1.0) -> dict[str, float]:
        """Defaults, but for the knobs given, with `headroom` times the head-room.

        Raises:
            KnobError: no such knob, or a value that is not finite or below 0.
        """
        settled = {**self.defaults, **(knobs or {})}
        for name, value in settled.items():
            if name not in self.defaults:
                raise KnobError(f"{self.name}: no knob {name!r}; its knobs are {', '.join(self.defaults)}")
            if not math.isfinite(value) or value < 0:
                raise KnobError(f"{self.name}: {name} is {value}, wanted a number of 0 or more")
        settled[self.headroom] *= 1.0 / headroom if self.inverse else headroom
        return settled
