"""From snapshot to observation and from outputs to action, around the rules that are blended and bent.

The same in training and live.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .codec import BLENDED, Observation, Outputs, Proposal, Proposer, decode, encode, look_back
from .contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot

LEFT_AT_REST: Final = 0.5
"""Share of the allowance of misses that is left where the price of a miss is the policy's own."""
MOST_OVERDRAWN: Final = 3.0
"""The allowance counts as overdrawn by this many times itself at most."""
PRICE_RANGE: Final = (0.02, 3.0)
"""What a price that follows the allowance is held within: about what prices are drawn from in training."""


def followed_price(miss_price: FloatArray, slope: FloatArray | float, hour_left: FloatArray) -> FloatArray:
    """`[...]` the price of a miss that follows the allowance: times e to the power of `slope` for every allowance that is
    missing in the class worst off, lower where none was used. A slope of 0 is the price as it is.

    One policy holds a whole frontier by the price that it is told; which point of it holds the targets differs from
    cluster to cluster, and how much of the allowance is left tells (dual ascent on a Lagrangian, online).

    Args:
        miss_price: `[...]`
        slope: `[...]` or a number.
        hour_left: `[..., C]` as `codec.look_back` has it: 1 untouched, below 0 overdrawn.
    """
    left = np.clip(hour_left.min(axis=-1), -MOST_OVERDRAWN, 1.0)
    moved = np.clip(miss_price * np.exp(slope * (LEFT_AT_REST - left)), *PRICE_RANGE)
    followed: FloatArray = np.where(np.asarray(slope) > 0.0, moved, miss_price)
    return followed


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
        price_slope: FloatArray | float = 0.0,
    ) -> tuple[Look, Memory]:
        """What the network sees now, what its answer will blend and bend, and what to remember.

        `miss_price` and `price_slope` as in `followed_price`.
        """
        proposals, remembered = self._propose(snapshot, plan, memory)
        past, own = look_back(snapshot, self.cluster, memory)
        left = np.where(self.cluster.class_mask, past.hour_left, 1.0)
        price = followed_price(miss_price, price_slope, left)
        seen = encode(snapshot, plan, proposals, self.cluster, price, past)
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
