"""All pools kept equally utilised: requests go where most is free, and the whole fleet grows and shrinks with its use.

Source: least-request balancing (Envoy documentation, "Load Balancing", weighted least request; the power of two choices)
over a fleet that tracks a target utilisation (target tracking, Amazon EC2 Auto Scaling user guide; the utilisation metric of
the Kubernetes horizontal pod autoscaler), its capacity spread over all groups of machines as balanced allocation does.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.codec import Proposal
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .parts.figures import Pools, capacity_of, elapsed_s, largest_capacity, load_seen, looked_at, over, pools_seen
from .parts.filling import filled, usd_per_request, with_overflow
from .parts.fullness import demand_per_s, work_of
from .parts.holding import faded, made_before_broken, within_limits, within_reach
from .parts.routing import by_free_capacity

WORTH_A_REPLICA = 0.5
"""A pool whose part would fill less of a replica than this is left out, as long as its classes have another."""


@dataclass(frozen=True)
class LeastLoaded:
    """The rule and its knobs."""

    cluster: Cluster
    utilisation: float = 0.7
    """Target, of what is just within targets."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    thrift: float = 3.0
    """How much less of a pool is used the dearer its work is: 0 not at all, 1 in proportion."""
    spot_aversion: float = 0.1
    """A spot machine counts as this much dearer than it is: 0.5 by a half."""
    name: str = "least-loaded"
    follows_plan: ClassVar[bool] = True
    """Of the plan it takes what a replica can carry, which changes with the length of requests."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Counts that bring the utilisation to its target, spread over all pools; weights from free capacity."""
        cluster = self.cluster
        pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
        gone_s, load = elapsed_s(snapshot, memory), load_seen(snapshot, plan, cluster)
        work = work_of(snapshot, plan, cluster, pools, load, capacity)
        busy = over(pools.running + pools.waiting, work.concurrency)
        busy = np.where(np.isnan(busy), pools.ready * self.utilisation, busy)
        rate = snapshot.plausible("arrival_rate_per_s", 0.0)
        demand = np.maximum(demand_per_s(busy, work, load, rate, pools, capacity), load)
        unit = largest_capacity(capacity)
        held = faded(over(demand, unit), gone_s, self.hold_s, memory)
        room, reach = within_reach(pools, cluster, gone_s, memory)
        need = self._spread(held * unit / max(self.utilisation, 1e-3), capacity, pools, room)
        action = Action(
            route=by_free_capacity(over(busy, pools.ready), capacity, pools, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=cluster.max_batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=within_limits(made_before_broken(need, capacity, pools), cluster),
        )
        return Proposal(action=action, need=need), {"load": held, **reach, **looked_at(snapshot)}

    def _spread(self, wanted: FloatArray, capacity: FloatArray, pools: Pools, room: FloatArray) -> FloatArray:
        """`[..., C, P]` each class over its pools by their room, less of those that are dear for it."""
        cost = usd_per_request(wanted, capacity, pools, self.cluster, self.spot_aversion)
        best = np.where(capacity > 0, cost, np.inf).min(axis=-1, keepdims=True)
        cheapness = np.where(
            capacity > 0, over(np.where(np.isfinite(best), best, 1.0), np.where(capacity > 0, cost, 1.0)), 0.0
        )
        weights = capacity * room[..., None, :] * cheapness**self.thrift

        anywhere = np.where(capacity > 0, 0.0, np.inf)
        first, _ = filled(wanted, capacity, anywhere, weights, room)
        per_pool = first.sum(axis=-2)
        largest = np.where(capacity > 0, per_pool[..., None, :], 0.0)
        main = (largest == largest.max(axis=-1, keepdims=True)) & (largest > 0)
        worth = (per_pool >= WORTH_A_REPLICA) | main.any(axis=-2)
        need, left = filled(wanted, capacity, anywhere, weights, np.where(worth, room, 0.0))
        more, left = filled(left, capacity, anywhere, weights, np.where(worth, 0.0, room))
        return with_overflow(need + more, left, capacity, cost)


def _made(cluster: Cluster, knobs: Knobs) -> LeastLoaded:
    return LeastLoaded(
        cluster,
        utilisation=knobs["utilisation"],
        hold_s=knobs["hold_s"],
        thrift=knobs["thrift"],
        spot_aversion=knobs["spot_aversion"],
    )


SPEC = RuleSpec(
    name="least-loaded",
    summary="All pools at one utilisation: requests go where most is free, the whole fleet grows and shrinks with its use",
    source="Envoy documentation, weighted least request; target tracking (Amazon EC2 Auto Scaling, Kubernetes autoscaler)",
    make=_made,
    knobs=(
        Knob("utilisation", 0.7, 0.35, 1.1, "target utilisation, of what is just within targets"),
        Knob("hold_s", 120.0, 20.0, 900.0, "a load that has passed fades over about this long", log=True),
        Knob("thrift", 3.0, 0.0, 12.0, "0: pools are used by their size, whatever they cost; more: dear ones less"),
        Knob("spot_aversion", 0.1, 0.0, 2.0, "a spot machine counts as this much dearer than it is"),
    ),
    headroom="utilisation",
    inverse=True,
)
