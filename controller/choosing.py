"""Which policy decides, told so that a log can have it decide again: its name, its knobs, and a hash of both.

A rule of tuned knobs is written down with every one of them: a later build may ship others. A checkpoint is named, and
known by the hash of its network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ..agents.portfolio import PLAN_TRACKING, PolicyFactory, completed, has_knobs, policy_factory
from ..agents.registry import Registry, name_of_version, named_registry
from ..env.contract import Action, Cluster, Memory, Plan, Policy, Snapshot

_HASH_DIGITS: Final = 16


@dataclass(frozen=True)
class PolicyChoice:
    """What somebody chose to be steered by."""

    name: str
    """As `agents.portfolio.policy_factory` is asked for it."""
    setting: tuple[float, ...] = ()
    """Of static-round-robin and held-plan."""
    knobs: Mapping[str, float] = field(default_factory=dict)
    """Of any other rule; those left out are as shipped."""
    miss_price: float | None = None
    """What a checkpoint should act by instead of its card's."""

    def settled(self) -> PolicyChoice:
        """The same, with every knob written out (KnobError if there is one that the rule does not have)."""
        if not has_knobs(self.name):
            return self
        return PolicyChoice(self.name, self.setting, completed(self.name, self.knobs), self.miss_price)

    def factory(self) -> PolicyFactory:
        """Makes the policy itself. Raises what `policy_factory` does."""
        return policy_factory(self.name, self.knobs or self.setting, self.miss_price)

    def make(self, cluster: Cluster) -> Decider:
        """The policy for a cluster, with its hash. Raises what `policy_factory` does."""
        made = self.factory()(cluster)
        own = str(getattr(made, "policy_hash", ""))
        return Decider(made, str(getattr(made, "name", self.name)), own or self._hash())

    def _hash(self) -> str:
        """Short hash of a rule as it is set."""
        settled = self.settled()
        told = json.dumps([settled.name, list(settled.setting), dict(settled.knobs)], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:_HASH_DIGITS]


def pinned(chosen: PolicyChoice) -> PolicyChoice:
    """Of a registry whoever decides there now, by its version: a log that names only the registry could not tell who it was.

    Any other choice as it is.

    Raises:
        CheckpointError: there is no such registry.
    """
    asked = named_registry(chosen.name)
    if asked is None or asked[1]:
        return chosen
    registry = Registry(asked[0])
    return replace(chosen, name=name_of_version(registry, registry.incumbent()))


@dataclass(frozen=True)
class Decider:
    """A policy with what every decision tells of it."""

    policy: Policy
    name: str
    policy_hash: str
    """Of a network its file's, of a rule that of its name and knobs."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """What the policy decides."""
        return self.policy.decide(snapshot, plan, memory)


FALLBACK: Final = PolicyChoice(PLAN_TRACKING)
"""Who decides when the policy does not."""
