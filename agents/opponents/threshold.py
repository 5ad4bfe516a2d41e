"""A threshold autoscaler on concurrency with least-loaded routing.

Source: the Kubernetes horizontal pod autoscaler's formula, wanted = ceil(current x metric / target) with a tolerance
of 10 % and a scale-down stabilisation window (Kubernetes documentation, "Horizontal Pod Autoscaling"), on the metric
that vLLM's production guides scale on: requests running and waiting per replica.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...env.codec import Proposal
from ...env.contract import Action, BoolArray, Cluster, FloatArray, Memory, Plan, Snapshot
from ..rules import Knob, Knobs, RuleSpec

TOLERANCE = 0.1
"""No change while metric / target is this close to 1 (the autoscaler's default)."""
WINDOW_SLOTS = 30
"""Recommendations remembered for stabilisation."""


@dataclass(frozen=True)
class Threshold:
    """The rule and its knobs."""

    cluster: Cluster
    target_per_replica: FloatArray
    """`[..., P]` requests running and waiting that one replica should have."""
    used: BoolArray
    """`[..., P]` pools that it scales at all; the others stay empty."""
    stabilisation_s: float = 120.0
    """Scale down to the highest recommendation of this long only (the autoscaler's own default is 300 s)."""
    name: str = "threshold"
    follows_plan: ClassVar[bool] = False
    """It never looks at the plan: nobody need make new ones for it."""

    def propose(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Proposal, Memory]:
        """Its counts are its need, shared between classes as they are routed."""
        action, memory = self.decide(snapshot, plan, memory)
        total = action.route.sum(axis=-2, keepdims=True)
        share = np.divide(action.route, total, out=np.zeros(action.route.shape), where=total > 0)
        return Proposal(action=action, need=share * action.replicas[..., None, :]), memory

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """Counts from load over target, weights from free places."""
        cluster = self.cluster
        ready = np.nan_to_num(snapshot.ready)
        target = np.where(snapshot.known("target"), snapshot.target, plan.replicas)
        busy = np.nan_to_num(snapshot.running) + np.nan_to_num(snapshot.waiting)
        ratio = busy / (np.maximum(ready, 1.0) * self.target_per_replica)
        wanted = np.where(np.abs(ratio - 1.0) <= TOLERANCE, ready, np.ceil(ready * ratio))
        wanted = np.where(ready > 0, wanted, target)
        wanted, memory = self._stabilised(wanted, snapshot, memory)
        # This autoscaler cannot start from nothing: no replica, no metric.
        least = np.where(self.used, np.maximum(cluster.min_replicas, 1.0), cluster.min_replicas)
        action = Action(
            route=self._least_loaded(ready, busy),
            admit=np.ones(cluster.class_mask.shape),
            batch_cap=cluster.max_batch_cap,
            token_budget=cluster.max_token_budget,
            replicas=np.where(self.used, np.clip(wanted, least, np.maximum(cluster.max_replicas, least)), least),
        )
        return action, memory

    def _stabilised(self, wanted: FloatArray, snapshot: Snapshot, memory: Memory) -> tuple[FloatArray, Memory]:
        """The highest recommendation within the window."""
        shape = (*wanted.shape[:-1], WINDOW_SLOTS)
        if memory:
            values, at_s = memory["recommended"], memory["at_s"]
        else:
            values, at_s = np.zeros((*shape, wanted.shape[-1])), np.full(shape, -np.inf)
        values = np.concatenate([values[..., 1:, :], wanted[..., None, :]], axis=-2)
        now = np.broadcast_to(np.asarray(snapshot.time_s), wanted.shape[:-1])
        at_s = np.concatenate([at_s[..., 1:], now[..., None]], axis=-1)
        recent = now[..., None] - at_s <= self.stabilisation_s
        held = np.where(recent[..., None], values, 0.0).max(axis=-2)
        return held, {"recommended": values, "at_s": at_s}

    def _least_loaded(self, ready: FloatArray, busy: FloatArray) -> FloatArray:
        """Weights in proportion to the free places of a pool's ready replicas."""
        free = np.maximum(ready * self.target_per_replica * 2.0 - busy, 0.02 * ready * self.target_per_replica)
        weights = np.where(self.cluster.serves, free[..., None, :], 0.0)
        weights = np.where(weights.sum(axis=-1, keepdims=True) > 0, weights, self.cluster.serves.astype(float))
        total = weights.sum(axis=-1, keepdims=True)
        routed: FloatArray = np.divide(weights, total, out=np.zeros(weights.shape), where=total > 0)  # padding: zero
        return routed


def _made(cluster: Cluster, knobs: Knobs) -> Threshold:
    places = np.maximum(knobs["share"] * cluster.max_batch_cap, 1.0)
    return Threshold(cluster, places, cluster.pool_mask, knobs["window_s"])


SPEC = RuleSpec(
    name="threshold",
    summary="Scales each pool on requests per replica, with a stabilisation window",
    source="Kubernetes documentation, Horizontal Pod Autoscaling",
    make=_made,
    knobs=(
        Knob("share", 0.5, 0.05, 0.95, "of the batch cap that a replica should have running and waiting", log=True),
        Knob("window_s", 120.0, 10.0, 600.0, "scale down to the highest wish of this long", log=True),
    ),
    headroom="share",
    inverse=True,
)
