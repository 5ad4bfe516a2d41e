"""Follow the plan's mix, at the size that load and forecast ask for now.

Source: the forecast-and-correct loop of SLA planners (NVIDIA Dynamo's planner documentation), with the plan of a
MILP (Melange, arXiv:2404.14527) as the mix. It is also the rule whose proposals the learned policy bends.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.codec import Proposal, whole_replicas
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, RuleSpec
from .parts.figures import load_seen

QUEUE_AVERSION = 4.0
"""A queue of a quarter of a replica's batch halves the weight of its pool."""

SHORT_OF = 0.3
"""Replicas missing beyond this count as a pool that is short; the head-room bridges less."""


@dataclass(frozen=True)
class PlanTracking:
    """The rule and its knobs."""

    cluster: Cluster
    headroom: float = 1.3
    """Need is load times this."""
    burst: float = 0.5
    """Plus this times the square root of the load in replicas: the fewer there are, the less bursts even out."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    backlog_drain_s: float = 60.0
    """A queue is to be worked off within this time."""
    name: str = "plan-tracking"
    follows_plan: ClassVar[bool] = True

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Counts from need, routing from the plan as far as its replicas are ready."""
        load = self._load(snapshot, plan)
        if memory:
            elapsed_s = np.maximum(snapshot.time_s - memory["time_s"], 0.0)
            load = np.maximum(load, memory["load"] * np.exp(-elapsed_s / self.hold_s)[..., None])
        need = self._need(load, snapshot, plan)
        cluster = self.cluster
        wanted = self._made_before_broken(whole_replicas(need.sum(axis=-2)), need.sum(axis=-2), snapshot)
        replicas = np.clip(wanted, cluster.min_replicas, cluster.max_replicas)
        action = Action(
            route=self._route(snapshot, plan, need.sum(axis=-2)),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=plan.batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=replicas,
        )
        return Proposal(action=action, need=need), {"time_s": np.asarray(snapshot.time_s), "load": load}

    def _load(self, snapshot: Snapshot, plan: Plan) -> FloatArray:
        """`[..., C]` requests per second to be ready for: what is seen or expected soon."""
        return load_seen(snapshot, plan, self.cluster, ahead=2)

    def _need(self, load: FloatArray, snapshot: Snapshot, plan: Plan) -> FloatArray:
        """`[..., C, P]` replicas needed: load over capacity, head-room for bursts, and the queue's share."""
        bare = _over(load[..., None] * plan.route, plan.capacity_per_s)
        size = bare.sum(axis=-2)
        need = bare * (self.headroom + self.burst * _over(np.sqrt(size), size))[..., None, :]
        per_pool = need.sum(axis=-2)
        replica_s_per_request = _over(per_pool, (load[..., None] * plan.route).sum(axis=-2))
        waiting = snapshot.plausible("waiting", 0.0)
        backlog = waiting * replica_s_per_request / self.backlog_drain_s
        return self._overflowed(need * (1.0 + _over(backlog, per_pool))[..., None, :], plan)

    def _overflowed(self, need: FloatArray, plan: Plan) -> FloatArray:
        """What a pool's maximum cannot take goes to pools with room, the cheapest for the work first."""
        cluster = self.cluster
        per_pool = need.sum(axis=-2)
        within = need * np.minimum(_over(cluster.max_replicas, per_pool), 1.0)[..., None, :]
        left_per_s = ((need - within) * plan.capacity_per_s).sum(axis=-1, keepdims=True)
        # In a full pool there is none, whatever is left of a last digit.
        room = np.where(per_pool < cluster.max_replicas, cluster.max_replicas - per_pool, 0.0)
        worth = np.where(cluster.serves, plan.capacity_per_s * _over(room, cluster.usd_per_hr)[..., None, :], 0.0)
        share = _over(worth, worth.sum(axis=-1, keepdims=True))
        return within + _over(left_per_s * share, plan.capacity_per_s)

    def _made_before_broken(self, wanted: FloatArray, need: FloatArray, snapshot: Snapshot) -> FloatArray:
        """While a pool is short of ready replicas the others keep theirs: they carry what it cannot yet."""
        ready = snapshot.plausible("ready", 0.0)
        short = (need - ready > SHORT_OF).any(axis=-1, keepdims=True)
        return np.where(short, np.maximum(wanted, ready), wanted)

    def _route(self, snapshot: Snapshot, plan: Plan, need: FloatArray) -> FloatArray:
        """The plan's weights as far as its replicas are ready; the rest goes where ready replicas have room."""
        ready = snapshot.plausible("ready", plan.replicas)
        covered = np.clip(_over(ready, need), 0.0, 1.0)
        covered = np.where((need <= 0) & (ready > 0), 1.0, covered)
        # A pool with a queue gets less until it has worked it off.
        queue = _over(snapshot.plausible("waiting", 0.0), ready * self.cluster.max_batch_cap)
        ease = 1.0 / (1.0 + QUEUE_AVERSION * queue)
        kept = plan.route * (covered * ease)[..., None, :]
        spare = (np.maximum(ready - need, 0.0) + 0.05 * ready) * ease
        elsewhere = np.where(self.cluster.serves, plan.capacity_per_s * spare[..., None, :], 0.0)
        rest = np.maximum(1.0 - kept.sum(axis=-1, keepdims=True), 0.0)
        route = kept + rest * _over(elsewhere, elsewhere.sum(axis=-1, keepdims=True))
        total = route.sum(axis=-1, keepdims=True)
        return np.where(total > 0, _over(route, total), plan.route)


def _over(over: FloatArray, under: FloatArray) -> FloatArray:
    over, under = np.broadcast_arrays(over, under)
    return np.divide(over, under, out=np.zeros(over.shape), where=under > 0)


SPEC = RuleSpec(
    name="plan-tracking",
    summary="The plan's mix, at the size that load and forecast ask for now",
    source="NVIDIA Dynamo, SLA planner; the mix of Melange (arXiv:2404.14527)",
    make=lambda cluster, knobs: PlanTracking(
        cluster, knobs["headroom"], knobs["burst"], knobs["hold_s"], knobs["backlog_drain_s"]
    ),
    knobs=(
        Knob("headroom", 1.3, 1.0, 2.0, "need is load times this", log=True),
        Knob("burst", 0.5, 0.0, 1.5, "plus this times the square root of the load in replicas"),
        Knob("hold_s", 120.0, 20.0, 600.0, "a load that has passed fades over about this long", log=True),
        Knob("backlog_drain_s", 60.0, 10.0, 240.0, "a queue is to be worked off within this time", log=True),
    ),
    headroom="headroom",
)
