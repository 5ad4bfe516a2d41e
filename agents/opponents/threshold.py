"""Threshold autoscaling on several metrics at once: concurrency, rate, queue and KV use per replica; the largest wins.

Source: the Kubernetes horizontal pod autoscaler ("Horizontal Pod Autoscaling", Kubernetes documentation): wanted =
ceil(current x metric / target), the largest of the metrics' recommendations, a tolerance of 10 %, a stabilisation
window for scaling down and a policy for scaling up. The metrics are those that GKE's guide to autoscaling inference and
vLLM's and KEDA's examples scale on, and requests per second, without which a fleet that answers fast because it is half
empty looks emptier than it is. Which pool the replicas come from is the cluster autoscaler's question: as with its
price expander, the cheapest for the work that has room, then the next.

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
from .parts.filling import filled_cheapest_first, usd_per_request, with_overflow
from .parts.fullness import demand_per_s, work_of
from .parts.holding import highest_of_window, made_before_broken, within_limits, within_reach
from .parts.routing import by_free_capacity

TOLERANCE = 0.1
"""No change while metric / target is this close to 1 (the autoscaler's default)."""
SCALE_UP_PODS = 4.0
"""A scale-up adds at most this many replicas or as many as there are, whichever is more (the autoscaler's default for
15 s; here for each decision)."""


@dataclass(frozen=True)
class Threshold:
    """The rule and its knobs."""

    cluster: Cluster
    share: float = 0.7
    """Target of concurrency and rate, of what is just within targets."""
    queue: float = 8.0
    """Target requests waiting per replica."""
    kv_used: float = 0.7
    """Target share of the KV cache in use."""
    window_s: float = 120.0
    """Scale down to the highest recommendation of this long only (the autoscaler's own default is 300 s)."""
    spot_aversion: float = 0.1
    """A spot machine counts as this much dearer than it is: 0.5 by a half."""
    name: str = "threshold"
    follows_plan: ClassVar[bool] = True
    """Of the plan it takes what a replica can carry, which changes with the length of requests."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Counts from the largest recommendation, cheapest pools first; weights from free capacity."""
        cluster = self.cluster
        pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
        load = load_seen(snapshot, plan, cluster)
        work = work_of(snapshot, plan, cluster, pools, load, capacity)
        target = np.maximum(self.share * work.concurrency, 1.0)
        rate = snapshot.plausible("arrival_rate_per_s", 0.0)
        recommended = self._recommended(pools, target)
        asked = demand_per_s(recommended, work, load, rate, pools, capacity)
        asked = np.maximum(asked, load / self.share)
        unit = largest_capacity(capacity)
        at_first = over(plan.load_per_s, unit)
        stable, window = highest_of_window(over(asked, unit), at_first, snapshot.time_s, self.window_s, memory)
        stable = stable * unit
        room, reach = within_reach(pools, cluster, elapsed_s(snapshot, memory), memory)
        cost = usd_per_request(stable, capacity, pools, cluster, self.spot_aversion)
        need = with_overflow(*filled_cheapest_first(stable, capacity, cost, room), capacity, cost)
        wanted = made_before_broken(need, capacity, pools)
        at_most = pools.target + np.maximum(SCALE_UP_PODS, pools.target)
        busy = np.nan_to_num(pools.running) + pools.waiting
        action = Action(
            route=by_free_capacity(over(busy, pools.ready * target), capacity, pools, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=cluster.max_batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=within_limits(np.minimum(wanted, at_most), cluster),
        )
        return Proposal(action=action, need=need), {**window, **reach, **looked_at(snapshot)}

    def _recommended(self, pools: Pools, target: FloatArray) -> FloatArray:
        """`[..., P]` replicas by the metric that asks for most; as many as there are where no metric is known."""
        busy = (pools.running + pools.waiting) / target
        cache = pools.ready * pools.kv_used_frac / self.kv_used
        most = np.fmax(np.fmax(busy, cache), pools.waiting / self.queue)
        known = ~(np.isnan(busy) & np.isnan(cache))
        most = np.where(known, most, pools.ready)
        return np.where(np.abs(most - pools.ready) <= TOLERANCE * pools.ready, pools.ready, most)


def _made(cluster: Cluster, knobs: Knobs) -> Threshold:
    return Threshold(
        cluster,
        share=knobs["share"],
        queue=knobs["queue"],
        kv_used=knobs["kv_used"],
        window_s=knobs["window_s"],
        spot_aversion=knobs["spot_aversion"],
    )


SPEC = RuleSpec(
    name="threshold",
    summary="Scales on concurrency, rate, queue and KV use per replica, the largest recommendation wins; least-loaded routing",
    source="Kubernetes documentation, Horizontal Pod Autoscaling; GKE's guide to autoscaling LLM inference; KEDA on vLLM's metrics",
    make=_made,
    knobs=(
        Knob("share", 0.7, 0.3, 1.2, "target of concurrency and rate, of what is just within targets"),
        Knob("queue", 8.0, 1.0, 64.0, "target requests waiting per replica", log=True),
        Knob("kv_used", 0.7, 0.4, 0.95, "target share of the KV cache in use"),
        Knob("window_s", 120.0, 10.0, 600.0, "scale down to the highest recommendation of this long", log=True),
        Knob("spot_aversion", 0.1, 0.0, 2.0, "a spot machine counts as this much dearer than it is"),
    ),
    headroom="share",
    inverse=True,
)
