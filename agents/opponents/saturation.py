"""Grow before the engines are saturated, shrink only where the rest stays clear of it.

Source: the saturation analyser and the cost-aware optimiser of llm-d's workload variant autoscaler
(llm-d-workload-variant-autoscaler, docs/saturation-analyzer.md and saturation-scaling-config.md): an engine is full at
80 % of its KV cache or five requests waiting; the fleet grows when what is spare falls below a trigger, the cheapest
variant first; a variant whose replicas are still pending is not grown again; what would stay saturated without a
replica is not shrunk; the dearest variant shrinks first. As in its second version demand is counted in amounts, so that
several replicas may be missing or spare at once, pending ones count as supply, and what an engine computes within its targets
limits it as its memory does. Its metrics are peaks over a window.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.codec import Proposal, whole_replicas
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .parts.figures import Pools, capacity_of, largest_capacity, load_seen, looked_at, over, pools_seen
from .parts.filling import filled_cheapest_first, usd_per_request
from .parts.fullness import demand_per_s, work_of
from .parts.holding import highest_of_window, within_limits
from .parts.routing import by_free_capacity


@dataclass(frozen=True)
class Saturation:
    """The rule and its knobs."""

    cluster: Cluster
    grow_at: float = 0.75
    """Grow when demand is above this share of what is up (the analyser's default is 0.85)."""
    band: float = 0.8
    """Shrink only if demand then stays below this share of that (the analyser's defaults are 0.70 of 0.85)."""
    hold_s: float = 120.0
    """Shrink by the highest demand of this long."""
    kv_full: float = 0.8
    """An engine is full at this share of its KV cache (the analyser's default)."""
    queue_full: float = 5.0
    """And at so many requests waiting per replica (the analyser's default)."""
    spot_aversion: float = 0.1
    """A spot machine counts as this much dearer than it is: 0.5 by a half."""
    name: str = "saturation"
    follows_plan: ClassVar[bool] = True
    """Of the plan it takes what a replica can carry, which changes with the length of requests."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """The present counts, grown or shrunk; weights from free capacity."""
        cluster = self.cluster
        pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
        load = load_seen(snapshot, plan, cluster)
        work = work_of(snapshot, plan, cluster, pools, load, capacity)
        full = self._full(pools, work.concurrency)
        rate = snapshot.plausible("arrival_rate_per_s", 0.0)
        demand = np.maximum(demand_per_s(full, work, load, rate, pools, capacity), load)
        unit = largest_capacity(capacity)
        at_first = over(plan.load_per_s, unit)
        highest, memory = highest_of_window(over(demand, unit), at_first, snapshot.time_s, self.hold_s, memory)
        highest = highest * unit
        grow_at = max(self.grow_at, 1e-3)
        cost = usd_per_request(demand, capacity, pools, cluster, self.spot_aversion)
        need = self._grown(demand / grow_at, pools, capacity, cost)
        needed = whole_replicas(need.sum(axis=-2))
        asked = np.maximum(pools.target, needed)
        kept, left = filled_cheapest_first(
            highest / (grow_at * min(max(self.band, 1e-3), 1.0)), capacity, cost, self._up(pools)
        )
        short = ((left > 0)[..., None] & (capacity > 0)).any(axis=-2)
        least = np.maximum(whole_replicas(kept.sum(axis=-2)), needed)
        action = Action(
            route=by_free_capacity(over(full, pools.ready), capacity, pools, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=cluster.max_batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=within_limits(np.where(short, asked, np.minimum(asked, least)), cluster),
        )
        return Proposal(action=action, need=need), {**memory, **looked_at(snapshot)}

    def _full(self, pools: Pools, concurrency: FloatArray) -> FloatArray:
        """`[..., P]` how many replicas the pool's work would fill; where nothing is known, no reason to grow or to
        shrink."""
        busy = (pools.running + pools.waiting) / concurrency
        # What waits will take of the KV cache what those that run take of it.
        waits = 1.0 + over(pools.waiting, np.maximum(pools.running, 1.0))
        cache = pools.ready * pools.kv_used_frac / self.kv_full * np.where(np.isnan(waits), 1.0, waits)
        queue = np.minimum(over(pools.waiting, np.maximum(self.queue_full, 1e-3)), pools.ready)
        most = np.fmax(np.fmax(busy, cache), queue)
        return np.where(np.isnan(busy) & np.isnan(cache), pools.ready * self.grow_at, most)

    def _grown(self, wanted: FloatArray, pools: Pools, capacity: FloatArray, cost: FloatArray) -> FloatArray:
        """`[..., C, P]` what is wanted on replicas that are up or starting, and what finds no room there on the
        cheapest pools that have no replica pending."""
        up = self._up(pools)
        held, left = filled_cheapest_first(wanted, capacity, cost, up)
        pending = pools.target > pools.ready + 0.5
        room = np.where(pending, 0.0, np.maximum(self.cluster.max_replicas - up, 0.0))
        return held + filled_cheapest_first(left, capacity, cost, room)[0]

    def _up(self, pools: Pools) -> FloatArray:
        return np.minimum(pools.up, self.cluster.max_replicas)


def _made(cluster: Cluster, knobs: Knobs) -> Saturation:
    return Saturation(
        cluster,
        grow_at=knobs["grow_at"],
        band=knobs["band"],
        hold_s=knobs["hold_s"],
        kv_full=knobs["kv_full"],
        queue_full=knobs["queue_full"],
        spot_aversion=knobs["spot_aversion"],
    )


SPEC = RuleSpec(
    name="saturation",
    summary="Grows the cheapest pool when spare KV, queue or concurrency runs low, not while its replicas are pending; shrinks the dearest",
    source="llm-d workload variant autoscaler: saturation analyser and cost-aware optimiser",
    make=_made,
    knobs=(
        Knob("grow_at", 0.75, 0.4, 1.1, "grow when demand is above this share of what is up"),
        Knob("band", 0.8, 0.5, 1.0, "shrink only if demand then stays below this share of that"),
        Knob("hold_s", 120.0, 15.0, 600.0, "shrink by the highest demand of this long", log=True),
        Knob("kv_full", 0.8, 0.5, 0.98, "an engine is full at this share of its KV cache"),
        Knob("queue_full", 5.0, 1.0, 20.0, "and at so many requests waiting per replica", log=True),
        Knob("spot_aversion", 0.1, 0.0, 2.0, "a spot machine counts as this much dearer than it is"),
    ),
    headroom="grow_at",
    inverse=True,
)
