"""Forecast, size by the planner's own program, correct by what is measured, react at every tick.

Source: the loop of NVIDIA Dynamo's SLA planner (documentation, "SLA-based planner": predicted load, correction factors
from measured against expected latency, replicas from profiled capacity), with the mix of a MILP over GPU types
(Melange, arXiv:2404.14527) weighed against the cold starts that a change of mix costs.

The present fleet stays while it carries the load; where it does not, and twice a minute, the program is solved with
the rule's own head-room. No replica goes before those that stay carry the load.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ...env.codec import Proposal
from ...env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .parts.dealing import carries, dealt, evenly_routed, needed
from .parts.figures import Pools, capacity_of, elapsed_s, load_seen, looked_at, over, pools_seen
from .parts.fleet import REVIEW_S, backlog_per_s, burst_factor, kept_until_carried, standing, steady_fleet
from .parts.holding import faded, within_limits

STEPS_AHEAD: Final = 3
"""Forecast steps that it is ready for: up to five minutes, which a cold start seldom exceeds."""
KEPT_HEADROOM: Final = 0.5
"""Share of the head-room that replicas which stay must have left before others go."""
SLOWER_S: Final = 120.0
"""Over about how long engines are found slower than believed."""
FASTER_S: Final = 600.0
"""And faster."""
FORGET_S: Final = 900.0
"""Over about how long either is forgotten while nothing is seen of it."""
EASY: Final = 0.7
"""Latency below this share of its target, at a load that fills most of the ready replicas, says they could do more."""
BUSY: Final = 0.7
"""What is most."""
MISS_WEIGHT: Final = 2.0
"""A share of requests missed beyond what is allowed counts as latency beyond its target by exp(this x that share)."""
MOST_SURPRISE: Final = 0.5
"""A latency beyond exp(this) times its target counts as that."""


@dataclass(frozen=True)
class PlanTracking:
    """The rule and its knobs."""

    cluster: Cluster
    headroom: float = 1.2
    """Need is load times this."""
    burst: float = 0.3
    """Plus this times the square root of the load in replicas: the fewer there are, the less bursts even out."""
    hold_s: float = 120.0
    """A load that has passed fades over about this long before replicas go."""
    backlog_drain_s: float = 60.0
    """A queue is to be worked off within this time."""
    correction: float = 0.3
    """Engines are taken for slower than believed by up to exp(this), and for faster by up to half of that."""
    payback_s: float = 150.0
    """A change of mix must earn its cold starts within about this long."""
    spot_risk: float = 0.15
    """A spot replica counts as dearer by this share: it may go, and its work must start anew."""
    zone_share: float = 0.8
    """No spot pool is to carry more than this share of the work that it could take."""
    memory_s: float = 120.0
    """For so long no more is asked of a pool that did not answer or took replicas away."""
    name: ClassVar[str] = "plan-tracking"
    follows_plan: ClassVar[bool] = True
    """For what a replica carries, as lengths of requests change."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Counts from the program, shares that fill the ready replicas alike; zeros in memory mean nothing was seen."""
        cluster = self.cluster
        pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
        memory = memory or self._nothing()
        gone_s = elapsed_s(snapshot, memory)
        load = faded(load_seen(snapshot, plan, cluster, STEPS_AHEAD), gone_s, self.hold_s, memory)
        now = np.minimum(load_seen(snapshot, plan, cluster, 1), load)
        slow = self._slowness(snapshot, now, capacity, pools, memory["slow"], gone_s)
        hand, current, unanswered = standing(pools, cluster, memory)
        shy_s = np.where(unanswered, self.memory_s, np.maximum(memory["shy_s"] - gone_s[..., None], 0.0))
        until_review_s = memory["until_review_s"] - gone_s
        review = np.asarray(until_review_s <= 0)

        need_per_s = load * burst_factor(load, capacity, self.headroom, self.burst) * np.exp(slow)
        need_per_s = need_per_s + backlog_per_s(pools, memory["route"], now, cluster, self.backlog_drain_s)
        price = pools.usd_per_hr * np.where(cluster.spot, 1.0 + self.spot_risk, 1.0)
        most = self._most(need_per_s, capacity, hand, shy_s)
        counts = steady_fleet(need_per_s, capacity, cluster, most, price, hand, current, review, self.payback_s)
        kept_full = 1.0 / (1.0 + KEPT_HEADROOM * max(self.headroom - 1.0, 0.0))
        action = Action(
            route=evenly_routed(now, capacity, pools, plan, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=plan.batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=within_limits(kept_until_carried(counts, now, capacity, pools, cluster, kept_full), cluster),
        )
        remembered = {
            "load": load,
            "counts": counts,
            "slow": slow,
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
            "slow": np.zeros(shape[:-1]),
            "shy_s": np.zeros(self.cluster.max_replicas.shape),
            "until_review_s": np.zeros(shape[:-2]),
            "route": np.zeros(shape),
            "time_s": np.zeros(shape[:-2]),
            "seen": np.zeros(shape[:-2]),
        }

    def _most(self, need_per_s: FloatArray, capacity: FloatArray, hand: FloatArray, shy_s: FloatArray) -> FloatArray:
        """`[..., P]` replicas that may be wanted: within stock as far as known, no spot pool with too much of the work.

        Where that leaves too little for the load, only the stock counts.
        """
        cluster = self.cluster
        stock = np.where(shy_s > 0, np.minimum(hand, cluster.max_replicas), cluster.max_replicas)
        alone = over(need_per_s[..., None], capacity).sum(axis=-2)
        spread = np.where(cluster.spot, np.ceil(np.maximum(self.zone_share * alone, 1.0)), np.inf)
        spread = np.minimum(stock, spread)
        enough = carries(need_per_s, capacity, spread)[..., None]
        return np.maximum(np.where(enough, spread, stock), cluster.min_replicas)

    def _slowness(
        self,
        snapshot: Snapshot,
        now_per_s: FloatArray,
        capacity: FloatArray,
        pools: Pools,
        slow: FloatArray,
        elapsed_s: FloatArray,
    ) -> FloatArray:
        """`[..., C]` logarithm of how much more replicas a class needs than believed, from measured latency.

        It rises where requests miss their targets, or typical ones are about to, although the ready replicas should
        carry the load, and falls where latency is well within at a load that keeps them busy.
        """
        targets = self.cluster.targets
        with np.errstate(over="ignore"):
            measured = np.fmax(
                snapshot.plausible("tpot_p95_s", np.nan) / targets.tpot_s,
                snapshot.plausible("ttft_p50_s", np.nan) / targets.ttft_s,
            )
        measured = np.where(np.isfinite(measured), measured, 1.0)  # without a target or a figure: as expected
        shares, full = dealt(now_per_s, capacity, pools.ready)
        fullest = np.where(shares > 0, full[..., None, :], 0.0).max(axis=-1)
        by_s = np.minimum(elapsed_s, SLOWER_S)[..., None]
        missed = np.maximum(targets.attainment - snapshot.plausible("attainment", 1.0), 0.0)
        missed = np.where(np.isnan(missed) | targets.deferrable, 0.0, missed)
        surprise = np.maximum(np.log(np.maximum(measured, 1.0)), MISS_WEIGHT * missed)
        slower = slow + by_s / SLOWER_S * np.minimum(surprise, MOST_SURPRISE)
        faster = slow - by_s / FASTER_S * 0.5
        moved = np.where((measured < EASY) & (fullest > BUSY), faster, slow * np.exp(-by_s / FORGET_S))
        moved = np.where((surprise > 0.0) & (fullest < 1.0), slower, moved)
        return np.clip(moved, -0.5 * self.correction, self.correction)


def _make(cluster: Cluster, knobs: Knobs) -> PlanTracking:
    return PlanTracking(cluster, **knobs)


SPEC: Final = RuleSpec(
    name="plan-tracking",
    summary="The planner on the forecast, corrected by measured latency, reacting at every tick",
    source="NVIDIA Dynamo documentation, SLA planner; Melange, arXiv:2404.14527",
    make=_make,
    knobs=(
        Knob("headroom", 1.2, 0.8, 2.0, "need is load times this"),
        Knob("burst", 0.3, 0.0, 0.8, "plus this times the square root of the load in replicas"),
        Knob("hold_s", 120.0, 20.0, 600.0, "a load that has passed fades over about this long", log=True),
        Knob("backlog_drain_s", 60.0, 10.0, 240.0, "a queue is to be worked off within this time", log=True),
        Knob("correction", 0.3, 0.0, 0.6, "how far measured latency may correct believed capacity, in exp()"),
        Knob("payback_s", 150.0, 40.0, 1200.0, "a change of mix earns its cold starts within this", log=True),
        Knob("spot_risk", 0.15, 0.0, 1.5, "a spot replica counts as dearer by this share"),
        Knob("zone_share", 0.8, 0.3, 1.0, "most of the work that one spot pool is to carry"),
        Knob("memory_s", 120.0, 20.0, 900.0, "how long a pool that refused is left alone", log=True),
    ),
    headroom="headroom",
)
