"""Spot replicas over zones with some to spare, on-demand replicas for as long as they are missing.

Source: SkyServe (arXiv:2411.01438, section 3): over-provision spot replicas, spread them over zones, keep away from
zones that preempted or refused lately unless fewer than two are left, and fall back to on-demand replicas dynamically:
as many as ready spot replicas are short of target plus spares, at most the target. There a replica is a replica; here
counts are work, since pools differ, and the planner's program chooses machines on each side. Spot pools dearer for
their work than on-demand ones are left out, as anyone would.

In a cluster without spot it sizes the cheapest on-demand fleet for the load.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ...env.codec import Proposal
from ...env.contract import Action, BoolArray, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .sizing import (
    backlog,
    burst_factor,
    capacity_of,
    carries,
    dealt,
    in_hand,
    load_ahead,
    load_now,
    made_before_broken,
    over,
    price_now,
    routed,
    steady_fleet,
    unanswered,
)

STEPS_AHEAD: Final = 2
"""Forecast steps that it is ready for: three minutes."""
REVIEW_S: Final = 30.0
"""How often it looks for a cheaper mix than one that carries the load."""
DRAIN_S: Final = 60.0
"""A queue is to be worked off within this time."""
DEADBAND: Final = 0.1
"""A smaller fleet must carry this much more than the load."""
PAYBACK_S: Final = 150.0
"""A change of mix must earn its cold starts within about this long."""
FEWEST_ZONES: Final = 2
"""With fewer trusted zones than this the others are trusted again (SkyServe's own rule)."""
SPREAD: Final = 1.5
"""A zone carries at most this many times an even share: whole replicas seldom divide evenly."""


@dataclass(frozen=True)
class SpotFallback:
    """The rule and its knobs."""

    cluster: Cluster
    headroom: float = 1.2
    """Need is load times this."""
    burst: float = 0.3
    """Plus this times the square root of the load in replicas: the fewer there are, the less bursts even out."""
    overprovision: float = 0.2
    """Spot replicas beyond the need, as a share of it."""
    memory_s: float = 300.0
    """For so long a zone that preempted or refused is avoided."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    name: ClassVar[str] = "spot-fallback"
    follows_plan: ClassVar[bool] = True
    """For what a replica carries, as lengths of requests change."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Spot for need and spares, on-demand for what ready spot is short of; zeros in memory: nothing was seen."""
        cluster = self.cluster
        time_s = np.asarray(snapshot.time_s, dtype=np.float64)
        memory = memory or self._nothing(time_s)
        elapsed_s = np.maximum(time_s - memory["time_s"], 0.0)
        capacity = capacity_of(plan, cluster)
        ready, hand, target = in_hand(snapshot, plan, cluster)
        now = load_now(snapshot, plan)
        fade = np.exp(-elapsed_s / max(self.hold_s, 1e-9))[..., None]
        load = np.maximum(load_ahead(snapshot, plan, cluster, STEPS_AHEAD), memory["load"] * fade)
        now = np.minimum(now, load)
        lost = unanswered(snapshot)
        shy_s = np.where(lost, self.memory_s, np.maximum(memory["shy_s"] - elapsed_s[..., None], 0.0))
        until_review_s = memory["until_review_s"] - elapsed_s
        review = np.asarray(until_review_s <= 0)

        need_per_s = load * burst_factor(load, capacity, self.headroom, self.burst)
        need_per_s = need_per_s + backlog(snapshot, memory["route"], now, cluster) / DRAIN_S
        price = price_now(snapshot, cluster)
        current = np.maximum(np.where(lost, np.minimum(hand, target), target), cluster.min_replicas)

        worth = self._worth_it(need_per_s, capacity, price)
        on_spot = np.where(worth[..., None, :], capacity, 0.0)
        trusted = _trusted(worth, shy_s <= 0, capacity)
        most = self._zone_most(need_per_s, on_spot, trusted, hand, shy_s)
        spot = steady_fleet(
            need_per_s * (1.0 + self.overprovision) * _served(on_spot),
            on_spot,
            cluster,
            np.where(worth, most, cluster.min_replicas),
            price,
            hand,
            np.where(worth, current, cluster.min_replicas),
            review,
            PAYBACK_S,
            DEADBAND,
        )
        on_demand_capacity = np.where(cluster.spot[..., None, :], 0.0, capacity)
        carried = _carried(need_per_s, on_spot, np.minimum(ready, spot))
        missing = need_per_s * np.clip(1.0 + self.overprovision * _served(on_spot) - carried, 0.0, 1.0)
        stock = np.where(shy_s > 0, hand, cluster.max_replicas)
        on_demand = steady_fleet(
            missing * _served(on_demand_capacity),
            on_demand_capacity,
            cluster,
            np.where(cluster.spot, cluster.min_replicas, np.maximum(stock, cluster.min_replicas)),
            price,
            hand,
            np.where(cluster.spot, cluster.min_replicas, current),
            review,
            PAYBACK_S,
            DEADBAND,
        )
        counts = np.where(cluster.spot, spot, on_demand)
        shares, _ = dealt(need_per_s, capacity, counts)
        wanted = made_before_broken(counts, now, capacity, ready, hand, 1.0)
        action = Action(
            route=routed(now, capacity, ready, snapshot, plan, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=plan.batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=np.clip(wanted, cluster.min_replicas, cluster.max_replicas),
        )
        remembered = {
            "time_s": time_s,
            "load": load,
            "shy_s": shy_s,
            "until_review_s": np.where(review, REVIEW_S, until_review_s),
            "route": action.route,
        }
        return Proposal(action=action, need=over(need_per_s[..., None] * shares, capacity)), remembered

    def _nothing(self, time_s: FloatArray) -> Memory:
        shape = self.cluster.serves.shape
        zeros: Memory = {
            "time_s": time_s,
            "load": np.zeros(shape[:-1]),
            "shy_s": np.zeros(self.cluster.max_replicas.shape),
            "until_review_s": np.zeros(time_s.shape),
            "route": np.zeros(shape),
        }
        return zeros

    def _worth_it(self, need_per_s: FloatArray, capacity: FloatArray, price: FloatArray) -> BoolArray:
        """`[..., P]` spot pools that serve some class cheaper than any on-demand pool does.

        All of them, where the on-demand pools' maxima cannot carry the load.
        """
        cluster = self.cluster
        usd_per_work = np.where(capacity > 0, price[..., None, :] / np.maximum(capacity, 1e-12), np.inf)
        fixed = np.where(cluster.spot[..., None, :], np.inf, usd_per_work).min(axis=-1, keepdims=True)
        cheaper = ((capacity > 0) & (usd_per_work <= fixed)).any(axis=-2)
        alone = carries(need_per_s, capacity, np.where(cluster.spot, 0.0, cluster.max_replicas))[..., None]
        return np.asarray(cluster.spot & (cheaper | ~alone))

    def _zone_most(
        self, need_per_s: FloatArray, on_spot: FloatArray, trusted: BoolArray, hand: FloatArray, shy_s: FloatArray
    ) -> FloatArray:
        """`[..., P]` replicas for each zone: about an even share of the work; none more than in hand where not trusted."""
        cluster = self.cluster
        zones = ((on_spot > 0) & trusted[..., None, :]).sum(axis=-1)  # that serve each class
        share = over(np.full(need_per_s.shape, SPREAD), zones.astype(np.float64))
        share = np.minimum(share, 1.0) * (1.0 + self.overprovision)
        even = np.ceil(over((need_per_s * share)[..., None], on_spot).sum(axis=-2) - 1e-9)
        open_to = np.where(trusted, np.minimum(even, cluster.max_replicas), np.minimum(hand, even))
        least: FloatArray = np.maximum(open_to, cluster.min_replicas)
        return least


def _served(capacity: FloatArray) -> FloatArray:
    """`[..., C]` 1 for a class that some of these pools serve."""
    return np.where((capacity > 0).any(axis=-1), 1.0, 0.0)


def _trusted(worth: BoolArray, unblamed: BoolArray, capacity: FloatArray) -> BoolArray:
    """`[..., P]` zones that may grow: those not blamed; all of a class's where fewer than two of its are left."""
    usable = (capacity > 0) & worth[..., None, :]
    few = (usable & unblamed[..., None, :]).sum(axis=-1, keepdims=True) < FEWEST_ZONES
    again = (usable & few).any(axis=-2)
    return np.asarray(worth & (unblamed | again))


def _carried(need_per_s: FloatArray, capacity: FloatArray, replicas: FloatArray) -> FloatArray:
    """`[..., C]` how many times these replicas carry the need of each class, dealt out evenly."""
    shares, full = dealt(need_per_s, capacity, replicas)
    fullest = np.where(shares > 0, full[..., None, :], 0.0).max(axis=-1)
    return over(np.ones(fullest.shape), fullest)


def _make(cluster: Cluster, knobs: Knobs) -> SpotFallback:
    return SpotFallback(cluster, **knobs)


SPEC: Final = RuleSpec(
    name="spot-fallback",
    summary="spread spot replicas with some to spare, on-demand ones while they are missing",
    source="SkyServe, arXiv:2411.01438",
    make=_make,
    knobs=(
        Knob("headroom", 1.2, 0.8, 2.0, "need is load times this"),
        Knob("burst", 0.3, 0.0, 0.8, "plus this times the square root of the load in replicas"),
        Knob("overprovision", 0.2, 0.0, 1.0, "spot replicas beyond the need, as a share of it"),
        Knob("memory_s", 300.0, 30.0, 1800.0, "how long a zone that preempted or refused is avoided", log=True),
        Knob("hold_s", 120.0, 20.0, 600.0, "a load that has passed fades over about this long", log=True),
    ),
    headroom="headroom",
)
