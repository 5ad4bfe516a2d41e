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
from .parts.dealing import carries, dealt, evenly_routed, needed
from .parts.figures import capacity_of, elapsed_s, load_seen, looked_at, over, pools_seen
from .parts.fleet import REVIEW_S, backlog_per_s, burst_factor, kept_until_carried, standing, steady_fleet
from .parts.holding import faded, within_limits

STEPS_AHEAD: Final = 2
"""Forecast steps that it is ready for: three minutes."""
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
    overprovision: float = 0.1
    """Spot replicas beyond the need, as a share of it."""
    memory_s: float = 300.0
    """For so long a zone that preempted or refused is avoided."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    starting_counts: float = 1.0
    """Share of a starting spot replica that counts as ready: 0 is SkyServe's own rule, under which every growth on spot
    is bridged by on-demand machines that are there no sooner. In a zone that is avoided none counts."""
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
        pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
        memory = memory or self._nothing()
        gone_s = elapsed_s(snapshot, memory)
        load = faded(load_seen(snapshot, plan, cluster, STEPS_AHEAD), gone_s, self.hold_s, memory)
        now = np.minimum(load_seen(snapshot, plan, cluster, 1), load)
        hand, current, unanswered = standing(pools, cluster, memory)
        shy_s = np.where(unanswered, self.memory_s, np.maximum(memory["shy_s"] - gone_s[..., None], 0.0))
        until_review_s = memory["until_review_s"] - gone_s
        review = np.asarray(until_review_s <= 0)
        price, least = pools.usd_per_hr, cluster.min_replicas

        need_per_s = load * burst_factor(load, capacity, self.headroom, self.burst)
        need_per_s = need_per_s + backlog_per_s(pools, memory["route"], now, cluster)
        worth = self._worth_it(need_per_s, capacity, price)
        on_spot = np.where(worth[..., None, :], capacity, 0.0)
        spares = np.where((on_spot > 0).any(axis=-1), self.overprovision, 0.0)
        most = np.where(worth, self._zone_most(need_per_s, on_spot, shy_s, hand), least)
        wanted = np.where((on_spot > 0).any(axis=-1), need_per_s * (1.0 + spares), 0.0)
        mine = np.where(worth, current, least)
        spot = steady_fleet(wanted, on_spot, cluster, most, price, hand, mine, review, PAYBACK_S)

        elsewhere = np.where(cluster.spot[..., None, :], 0.0, capacity)
        coming = np.where(shy_s > 0, 0.0, self.starting_counts * pools.starting)
        there = np.minimum(pools.ready + coming, spot)
        missing = np.clip(1.0 + spares - _carried(need_per_s, on_spot, there), 0.0, 1.0)
        missing = np.where((elsewhere > 0).any(axis=-1), need_per_s * missing, 0.0)
        stock = np.where(shy_s > 0, np.maximum(hand, least), cluster.max_replicas)
        most = np.where(cluster.spot, least, stock)
        mine = np.where(cluster.spot, least, current)
        on_demand = steady_fleet(missing, elsewhere, cluster, most, price, hand, mine, review, PAYBACK_S)

        counts = np.where(cluster.spot, spot, on_demand)
        action = Action(
            route=evenly_routed(now, capacity, pools, plan, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=plan.batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=within_limits(kept_until_carried(counts, now, capacity, pools, cluster, 1.0), cluster),
        )
        remembered = {
            "load": load,
            "counts": counts,
            "shy_s": shy_s,
            "until_review_s": np.where(review, REVIEW_S, until_review_s),
            "route": action.route,
            **looked_at(snapshot),
        }
        return Proposal(action=action, need=needed(need_per_s, capacity, counts, cluster)), remembered

    def _nothing(self) -> Memory:
        shape = self.cluster.serves.shape
        return {
            "load": np.zeros(shape[:-1]),
            "counts": np.zeros(self.cluster.max_replicas.shape),
            "shy_s": np.zeros(self.cluster.max_replicas.shape),
            "until_review_s": np.zeros(shape[:-2]),
            "route": np.zeros(shape),
            "time_s": np.zeros(shape[:-2]),
            "seen": np.zeros(shape[:-2]),
        }

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
        self, need_per_s: FloatArray, on_spot: FloatArray, shy_s: FloatArray, hand: FloatArray
    ) -> FloatArray:
        """`[..., P]` replicas for each zone: about an even share of the work of those that are trusted.

        One that is not may keep what it has. Where fewer than two zones of a class are trusted, all of them are again.
        """
        cluster, usable = self.cluster, on_spot > 0
        unblamed = shy_s <= 0
        few = (usable & unblamed[..., None, :]).sum(axis=-1, keepdims=True) < FEWEST_ZONES
        trusted = unblamed | (usable & few).any(axis=-2)
        zones = (usable & trusted[..., None, :]).sum(axis=-1).astype(np.float64)  # that serve each class
        share = np.minimum(over(np.full(zones.shape, SPREAD), zones), 1.0) * (1.0 + self.overprovision)
        even = np.ceil(over((need_per_s * share)[..., None], on_spot).sum(axis=-2) - 1e-9)
        most = np.where(trusted, np.minimum(even, cluster.max_replicas), np.minimum(hand, even))
        allowed: FloatArray = np.maximum(most, cluster.min_replicas)
        return allowed


def _carried(need_per_s: FloatArray, capacity: FloatArray, replicas: FloatArray) -> FloatArray:
    """`[..., C]` how many times these replicas carry the need of each class, dealt out evenly."""
    shares, full = dealt(need_per_s, capacity, replicas)
    fullest = np.where(shares > 0, full[..., None, :], 0.0).max(axis=-1)
    return over(np.ones(fullest.shape), fullest)


def _make(cluster: Cluster, knobs: Knobs) -> SpotFallback:
    return SpotFallback(cluster, **knobs)


SPEC: Final = RuleSpec(
    name="spot-fallback",
    summary="Spread spot replicas with some to spare, on-demand ones while they are missing",
    source="SkyServe, arXiv:2411.01438",
    make=_make,
    knobs=(
        Knob("headroom", 1.2, 0.8, 2.0, "need is load times this"),
        Knob("burst", 0.3, 0.0, 0.8, "plus this times the square root of the load in replicas"),
        Knob("overprovision", 0.1, 0.0, 1.0, "spot replicas beyond the need, as a share of it"),
        Knob("memory_s", 300.0, 30.0, 1800.0, "how long a zone that preempted or refused is avoided", log=True),
        Knob("starting_counts", 1.0, 0.0, 1.0, "share of a starting spot replica that counts as ready"),
        Knob("hold_s", 120.0, 20.0, 600.0, "a load that has passed fades over about this long", log=True),
    ),
    headroom="headroom",
)
