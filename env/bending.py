"""From snapshot to observation and from outputs to action, around the rule that is bent.

The same in training and live.
"""

from __future__ import annotations

from dataclasses import dataclass

from .codec import Observation, Proposal, Proposer, decode, encode, track_budget
from .contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot

RULE_PREFIX = "rule."
"""The bent rule's own memory is kept under names that start so."""


@dataclass(frozen=True)
class Bending:
    """A rule and the cluster it proposes for."""

    cluster: Cluster
    rule: Proposer

    def look(
        self, snapshot: Snapshot, plan: Plan, memory: Memory, miss_price: FloatArray
    ) -> tuple[Observation, Proposal, Memory]:
        """What the network sees now, the proposal it may bend, and what to remember."""
        own: Memory = {k.removeprefix(RULE_PREFIX): v for k, v in memory.items() if k.startswith(RULE_PREFIX)}
        proposal, own = self.rule.propose(snapshot, plan, own)
        left, budget = track_budget(snapshot, self.cluster, memory)
        seen = encode(snapshot, plan, proposal, self.cluster, miss_price, left)
        return seen, proposal, {**{RULE_PREFIX + k: v for k, v in own.items()}, **budget}

    def act(self, class_output: FloatArray, pool_output: FloatArray, proposal: Proposal) -> Action:
        """The action that the outputs mean (see `codec.decode`)."""
        return decode(class_output, pool_output, proposal, self.cluster)
