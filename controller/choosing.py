"""Which policy decides, told so that a log can have it decide again: its name, its knobs, and a hash of both.

A rule of tuned knobs is written down with every one of them: a later build may ship others. A checkpoint is named, and
known by the hash of its network.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final, Self

from ..agents.answering import decide_with_answer
from ..agents.portfolio import PLAN_TRACKING, PolicyFactory, completed, has_knobs, policy_factory
from ..agents.registry import Registry, name_of_version, named_registry
from ..env.contract import Action, Answer, Cluster, Memory, Plan, Policy, Snapshot
from ..telemetry.record import Chosen, Sat

_HASH_DIGITS: Final = 16


@dataclass(frozen=True)
class PolicyChoice(Chosen):
    """What somebody chose to be steered by, and how to make it."""

    @classmethod
    def of(cls, chosen: Chosen) -> Self:
        """The choice that a record tells of."""
        return cls(chosen.name, chosen.setting, chosen.knobs, chosen.miss_price)

    def sat(self, made: Decider) -> Sat:
        """What a record tells of this choice, and of what was made of it."""
        settled = self.settled()
        chosen = Chosen(settled.name, settled.setting, settled.knobs, settled.miss_price)
        return Sat(made.name, made.policy_hash, chosen)

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

    def decide_with_answer(
        self, snapshot: Snapshot, plan: Plan, memory: Memory
    ) -> tuple[Action, Memory, Answer | None]:
        """As `decide`, with its network's answer."""
        return decide_with_answer(self.policy, snapshot, plan, memory)


FALLBACK: Final = PolicyChoice(PLAN_TRACKING)
"""Who decides when the policy does not."""
