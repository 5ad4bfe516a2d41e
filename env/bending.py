"""From snapshot to observation and from outputs to action, around the rules that are blended and bent.

The same in training and live.
"""

from __future__ import annotations

from dataclasses import dataclass

from .codec import BLENDED, Observation, Outputs, Proposal, Proposer, decode, encode, look_back
from .contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot


@dataclass(frozen=True)
class Look:
    """A tick as it is looked at: what the network sees, and what its answer will be about."""

    seen: Observation
    proposals: tuple[Proposal, ...]
    snapshot: Snapshot
    plan: Plan


@dataclass(frozen=True)
class Bending:
    """A portfolio of rules and the cluster they propose for."""

    cluster: Cluster
    rules: tuple[Proposer, ...]
    """`BLENDED` of them, the neutral one first."""
    headroom: float = 1.0
    """Times what every class needs, whatever the network answers: a user's knob between bill and attainment."""

    def __post_init__(self) -> None:
        """ValueError for another number of rules than the codec blends."""
        if len(self.rules) != BLENDED:
            raise ValueError(f"{len(self.rules)} rules to blend, wanted {BLENDED}")

    def look(
        self,
        snapshot: Snapshot,
        plan: Plan,
        memory: Memory,
        miss_price: FloatArray,
    ) -> tuple[Look, Memory]:
        """What the network sees now, what its answer will blend and bend, and what to remember.

        `miss_price` is `[...]`, the price of a miss that the policy should act by.
        """
        proposals, remembered = self._propose(snapshot, plan, memory)
        past, own = look_back(snapshot, self.cluster, memory)
        seen = encode(snapshot, plan, proposals, self.cluster, miss_price, past)
        return Look(seen, proposals, snapshot, plan), {**remembered, **own}

    def act(self, outputs: Outputs, look: Look) -> Action:
        """The action that the outputs mean (see `codec.decode`)."""
        return decode(outputs, look.proposals, look.snapshot, look.plan, self.cluster, self.headroom)

    def _propose(
        self, snapshot: Snapshot, plan: Plan, memory: Memory
    ) -> tuple[tuple[Proposal, ...], dict[str, FloatArray]]:
        proposals, remembered = [], {}
        for k, rule in enumerate(self.rules):
            prefix = rule_prefix(k)
            own: Memory = {n.removeprefix(prefix): v for n, v in memory.items() if n.startswith(prefix)}
            proposal, own = rule.propose(snapshot, plan, own)
            proposals.append(proposal)
            remembered.update({prefix + n: v for n, v in own.items()})
        return tuple(proposals), remembered


def rule_prefix(k: int) -> str:
    """What the names of rule `k`'s own memory begin with."""
    return f"rule_{k}."
