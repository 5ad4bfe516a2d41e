"""The planner solved anew every few minutes on the load that is seen, and held in between.

Source: Melange (arXiv:2404.14527, section 5: the cheapest mix of GPU types for a load, solved again as the load
changes; its head-room is the paper's over-provisioning). Nothing is forecast and nothing reacts in between but the
routing, which spills to pools with ready replicas.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ...env.codec import Proposal
from ...env.contract import Action, Cluster, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec
from .parts.dealing import needed
from .parts.figures import capacity_of, elapsed_s, load_seen, looked_at, pools_seen
from .parts.fleet import chosen_where, kept_until_carried, standing
from .parts.holding import within_limits
from .parts.routing import as_far_as_ready


@dataclass(frozen=True)
class PlanPeriodic:
    """The rule and its knobs."""

    cluster: Cluster
    headroom: float = 1.4
    """The load seen is planned for times this."""
    period_s: float = 180.0
    """So long a plan is held; the cold starts of a new one must pay within that time."""
    spot_risk: float = 0.2
    """A spot replica counts as dearer by this share: it may go, and nobody plans anew before the period is over."""
    name: ClassVar[str] = "plan-periodic"
    follows_plan: ClassVar[bool] = True
    """For what a replica carries, as lengths of requests change."""

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The rule as a policy of its own."""
        proposal, memory = self.propose(snapshot, plan, memory)
        return proposal.action, memory

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """The counts of the last solution, and the load that it was for; zeros in memory mean that none was found."""
        cluster = self.cluster
        pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
        memory = memory or self._nothing()
        until_due_s = memory["until_due_s"] - elapsed_s(snapshot, memory)
        due = np.asarray(until_due_s <= 0)
        now = load_seen(snapshot, plan, cluster)
        planned_per_s = np.where(due[..., None], now * self.headroom, memory["planned_per_s"])
        hand, _, unanswered = standing(pools, cluster, memory)
        most = np.maximum(np.where(unanswered, hand, cluster.max_replicas), cluster.min_replicas)
        price = pools.usd_per_hr * np.where(cluster.spot, 1.0 + self.spot_risk, 1.0)
        counts = chosen_where(
            due, memory["counts"], planned_per_s, capacity, cluster, most, price, hand, max(self.period_s, 1.0)
        )
        need = needed(planned_per_s, capacity, counts, cluster)
        action = Action(
            route=as_far_as_ready(need, capacity, pools, cluster),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=plan.batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=within_limits(kept_until_carried(counts, now, capacity, pools, cluster, 1.0), cluster),
        )
        return Proposal(action=action, need=need), {
            "planned_per_s": planned_per_s,
            "counts": counts,
            "until_due_s": np.where(due, self.period_s, until_due_s),
            **looked_at(snapshot),
        }

    def _nothing(self) -> Memory:
        shape = self.cluster.serves.shape
        return {
            "planned_per_s": np.zeros(shape[:-1]),
            "counts": np.zeros(self.cluster.max_replicas.shape),
            "until_due_s": np.zeros(shape[:-2]),
            "time_s": np.zeros(shape[:-2]),
            "seen": np.zeros(shape[:-2]),
        }


def _make(cluster: Cluster, knobs: Knobs) -> PlanPeriodic:
    return PlanPeriodic(cluster, **knobs)


SPEC: Final = RuleSpec(
    name="plan-periodic",
    summary="The planner solved anew every few minutes on the load that is seen, held in between",
    source="Melange, arXiv:2404.14527",
    make=_make,
    knobs=(
        Knob("headroom", 1.4, 0.9, 2.5, "the load seen is planned for times this"),
        Knob("period_s", 180.0, 60.0, 900.0, "how long a plan is held", log=True),
        Knob("spot_risk", 0.2, 0.0, 1.5, "a spot replica counts as dearer by this share"),
    ),
    headroom="headroom",
)
