"""A rule's proposal in the form that can be blended with others and bent.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from ..contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot

ROUNDING_SLACK: Final = 0.02
"""A need this little above a whole number of replicas is met by that number."""


@dataclass(frozen=True)
class Proposal:
    """A rule's action, and the need it was rounded from."""

    action: Action
    need: FloatArray
    """`[..., C, P]` replicas that each class needs of each pool, before rounding up, head-room included."""


class Proposer(Protocol):
    """A rule whose proposals a network may blend and bend."""

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """The rule's proposal now, and what it wants to remember."""
        ...


def whole_replicas(need: FloatArray) -> FloatArray:
    """The whole number of replicas that meets a need."""
    return np.ceil(np.maximum(need - ROUNDING_SLACK, 0.0))


def on_top(proposal: Proposal, cluster: Cluster) -> FloatArray:
    """`[..., P]` replicas that a rule holds beyond its need (a cooldown, a floor), or below it."""
    met = np.minimum(whole_replicas(proposal.need.sum(axis=-2)), cluster.max_replicas)
    extra: FloatArray = proposal.action.replicas - met
    return extra
