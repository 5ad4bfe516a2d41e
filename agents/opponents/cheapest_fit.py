"""Each class on the cheapest pool that serves it within its targets and has room; what does not fit spills to the next.

Source: cheapest-first selection of instances, as cluster autoscalers that expand by price do it (Kubernetes cluster
autoscaler, price expander) and as gateways route to the cheapest backend that meets the request's objective; the unit of
cost is Melange's (arXiv:2404.14527): rent over the rate that a GPU serves within the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...env.codec import Proposal
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .parts.figures import Pools
from .parts.filling import usd_per_request
from .parts.sizing import Sizing, proposal_by_rate


@dataclass(frozen=True)
class CheapestFit:
    """The rule and its knobs."""

    cluster: Cluster
    headroom: float = 1.2
    """Need is load times this."""
    burst: float = 0.3
    """Plus this times the square root of the load in replicas."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    spot_aversion: float = 0.1
    """A spot machine counts as this much dearer than it is: 0.5 by a half."""
    name: str = "cheapest-fit"
    follows_plan: ClassVar[bool] = True
    """Of the plan it takes what a replica can carry, which changes with the length of requests."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Counts and weights from loads on their cheapest pools."""
        sizing = Sizing(self.headroom, self.burst, self.hold_s)
        return proposal_by_rate(sizing, self._costs, snapshot, plan, self.cluster, memory)

    def _costs(self, snapshot: Snapshot, load: FloatArray, capacity: FloatArray, pools: Pools) -> FloatArray:
        return usd_per_request(load, capacity, pools, self.cluster, self.spot_aversion)


def _made(cluster: Cluster, knobs: Knobs) -> CheapestFit:
    return CheapestFit(cluster, knobs["headroom"], knobs["burst"], knobs["hold_s"], knobs["spot_aversion"])


SPEC = RuleSpec(
    name="cheapest-fit",
    summary="Each class on the cheapest pool for its work that has room, spilling to the next; sized to load, forecast and queue",
    source="Kubernetes cluster autoscaler, price expander; cost per request within targets as in Melange (arXiv:2404.14527)",
    make=_made,
    knobs=(
        Knob("headroom", 1.2, 0.9, 2.0, "need is load times this", log=True),
        Knob("burst", 0.3, 0.0, 1.2, "plus this times the square root of the load in replicas"),
        Knob("hold_s", 120.0, 20.0, 900.0, "a load that has passed fades over about this long", log=True),
        Knob("spot_aversion", 0.1, 0.0, 2.0, "a spot machine counts as this much dearer than it is"),
    ),
    headroom="headroom",
)
