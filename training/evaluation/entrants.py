"""Who is compared, by name: what tables call them, what kind they are, and what they are set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...agents.checkpoint import load_checkpoint
from ...agents.portfolio import HELD_PLAN, STATIC, completed
from ...agents.rules import Knobs
from ..contenders import MARKS, rule_of
from ..static_peak import STATIC_PEAK

RULE, FIXED, MARK, CHECKPOINT = "rule", "fixed", "mark", "checkpoint"
"""Kinds: rules with knobs; counts that never change; what no policy can be; what was learned."""
UNSWEPT = (HELD_PLAN, "clairvoyant-plan")
"""Those without a head-room knob of their own."""


class EntrantError(ValueError):
    """Policies that cannot be compared; the message is one line."""


@dataclass(frozen=True)
class Listed:
    """A policy as the evaluation lists it."""

    name: str
    """For tables."""
    given: str
    """What was asked for: a name, or a checkpoint's folder."""
    kind: str
    swept: bool
    """Whether it has a head-room that can be swept."""
    rule: str | None = None
    """Whose knobs it has, if it has any."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Of a checkpoint's files."""
    knobs: Knobs = field(default_factory=dict)
    """At head-room 1; of a checkpoint its miss price."""

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"kind": self.kind, "swept": self.swept, "files": self.hashes, "knobs": dict(self.knobs)}


def listed(given: str, knobs: Knobs | None = None) -> Listed:
    """A policy by name; `knobs` of a rule in place of those shipped.

    Raises:
        CheckpointError: neither a rule, a mark nor a checkpoint.
    """
    rule = rule_of(given)
    if rule is not None:
        kind = MARK if given in MARKS else RULE
        return Listed(given, given, kind, True, rule=rule, knobs=completed(rule, knobs or {}))
    if given in MARKS:
        return Listed(given, given, MARK, given not in UNSWEPT)
    if given in (STATIC, STATIC_PEAK, HELD_PLAN):
        return Listed(given, given, FIXED, given not in UNSWEPT)
    checkpoint = load_checkpoint(given)
    return Listed(
        checkpoint.name,
        given,
        CHECKPOINT,
        True,
        hashes={name: str(value) for name, value in checkpoint.card["files"].items()},
        knobs={"miss_price": checkpoint.miss_price},
    )


def listed_all(names: Sequence[str], knobs: Mapping[str, Knobs] | None = None) -> list[Listed]:
    """All of them, in order; `knobs` by rule in place of those shipped.

    Raises:
        EntrantError: two that tables could not tell apart.
    """
    entrants = [listed(name, (knobs or {}).get(rule_of(name) or name)) for name in names]
    given_by: dict[str, str] = {}
    for own in entrants:
        if own.name in given_by:
            raise EntrantError(
                f"policy {own.given}: calls itself {own.name}, as {given_by[own.name]} does; wanted names of their own"
                " (the name in card.json, or `poolpilot train --name`)"
            )
        given_by[own.name] = own.given
    return entrants
