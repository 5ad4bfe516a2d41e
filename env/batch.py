"""A batch of simulated clusters with their plans and the guard: everything around a decision but the decision.

Training (`cluster_env`) and evaluation (`training.rollout`) step the same batch. Planner and policy are handed in:
deciding is not the world's business.

Symbols: `B` clusters, `C`/`P` the batch's maxima of classes and pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from .contract import Action, Cluster, FloatArray, Plan, Snapshot
from .guard import Change, GuardState, Limits, first_state, guard
from .sim.clusters import SimulatedClusters, TickOutcome
from .sim.world import WorldSpec

PLAN_EVERY_S = 60.0
"""A planner is asked whether a new plan is due at most this often."""


class Planner(Protocol):
    """Plans for one cluster; asked when it may be due."""

    def first(self, load_per_s: FloatArray) -> Plan:
        """The plan before anything is seen."""
        ...

    def due(self, plan: Plan, planned_at_s: float, snapshot: Snapshot) -> bool:
        """Whether a new plan is worth it."""
        ...

    def again(self, plan: Plan, snapshot: Snapshot) -> Plan:
        """A new plan from what is seen now."""
        ...


@dataclass(frozen=True)
class Episode:
    """One cluster's world and what it is judged by."""

    world: WorldSpec
    planner: Planner
    limits: Limits
    """Numbers, not arrays of a batch."""
    first_load_per_s: FloatArray
    """`[C]` load that the first plan expects."""
    reference_usd: float
    """Bill of a usual tick (see `reward`)."""
    reference_requests: FloatArray
    """`[C]` requests of a usual tick."""
    miss_price: float


class ClusterBatch:
    """`B` clusters, their plans and guards, advanced together tick by tick."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        tick_s: float,
        max_classes: int | None = None,
        max_pools: int | None = None,
    ) -> None:
        """The maxima make room for larger clusters that may come later (`restart`)."""
        self.replans = True
        """Off, the first plans stay: planning is most of the time of a run, and a rule that never looks at the plan
        does not need new ones."""
        self.episodes = list(episodes)
        self.clusters = SimulatedClusters(
            [episode.world for episode in episodes], tick_s, max_classes=max_classes, max_pools=max_pools
        )
        self._plans = [episode.planner.first(episode.first_load_per_s) for episode in episodes]
        self._planned_at_s = np.zeros(len(self.episodes))
        self._refresh()
        self._guard_state = first_state(self.plan, self.cluster)

    def snapshot(self) -> Snapshot:
        """What is seen now; plans that are due are made again from it."""
        snapshot = self.clusters.snapshot()
        if not self.replans:
            return snapshot
        due = np.flatnonzero(snapshot.time_s - self._planned_at_s >= PLAN_EVERY_S)
        changed = False
        for b in due:
            episode = self.episodes[b]
            own = one_cluster(snapshot, int(b), episode.world.cluster)
            if episode.planner.due(self._plans[b], float(self._planned_at_s[b]), own):
                self._plans[b] = episode.planner.again(self._plans[b], own)
                self._planned_at_s[b] = snapshot.time_s[b]
                changed = True
        if changed:
            self.plan = self._stacked_plans()
        return snapshot

    def advance(self, proposed: Action, snapshot: Snapshot) -> tuple[TickOutcome, Action, tuple[Change, ...]]:
        """Guard the proposal, let it act for a tick; what came of it, what was applied, and what the guard changed."""
        guarded = guard(proposed, snapshot, self.plan, self.cluster, self._limits, self._guard_state)
        self._guard_state = guarded.state
        return self.clusters.advance(guarded.action), guarded.action, guarded.changes

    def restart(self, b: int, episode: Episode) -> None:
        """Put a new episode in place `b`."""
        self.episodes[b] = episode
        self.clusters.replace(b, episode.world)
        self._plans[b] = episode.planner.first(episode.first_load_per_s)
        self._planned_at_s[b] = 0.0
        self._refresh()
        fresh, old = first_state(self.plan, self.cluster), self._guard_state
        self._guard_state = GuardState(
            changed_at_s=_with_row(old.changed_at_s, b, fresh.changed_at_s),
            applied=Action(
                **{
                    f.name: _with_row(getattr(old.applied, f.name), b, getattr(fresh.applied, f.name))
                    for f in fields(Action)
                }
            ),
        )

    def _refresh(self) -> None:
        """Rebuild what depends on which episodes are in the batch."""
        self.cluster: Cluster = self.clusters.cluster
        self._limits = Limits(
            **{
                f.name: np.array([float(getattr(episode.limits, f.name)) for episode in self.episodes])
                for f in fields(Limits)
            }
        )
        self.miss_price = np.array([episode.miss_price for episode in self.episodes])
        self.reference_usd = np.array([episode.reference_usd for episode in self.episodes])
        width = self.cluster.class_mask.shape[1]
        self.reference_requests = np.stack([_padded(e.reference_requests, width) for e in self.episodes])
        self.plan = self._stacked_plans()

    def _stacked_plans(self) -> Plan:
        c, p = self.cluster.serves.shape[1:]
        shapes: dict[str, tuple[int, ...]] = {
            "replicas": (p,),
            "route": (c, p),
            "batch_cap": (p,),
            "capacity_per_s": (c, p),
            "load_per_s": (c,),
            "usd_per_hr": (),
            "attainment": (c,),
        }
        return Plan(
            **{
                name: np.stack([_padded(np.asarray(getattr(plan, name)), *shape) for plan in self._plans])
                for name, shape in shapes.items()
            }
        )


def one_cluster(snapshot: Snapshot, b: int, cluster: Cluster) -> Snapshot:
    """Row `b` of a batch of snapshots, without the padding."""
    c, p = len(cluster.class_names), len(cluster.pool_names)
    return Snapshot(
        time_s=snapshot.time_s[b],
        classes=snapshot.classes[b, :c],
        pools=snapshot.pools[b, :p],
        forecast_per_s=snapshot.forecast_per_s[b, :c],
    )


def _padded(values: FloatArray, *shape: int) -> FloatArray:
    """`values` in the corner of zeros of `shape`."""
    out = np.zeros(shape)
    out[tuple(slice(0, n) for n in values.shape)] = values
    return out


def _with_row(batch: FloatArray, b: int, other: FloatArray) -> FloatArray:
    """A copy of `batch` whose row `b` is that of `other`."""
    copy = np.array(np.broadcast_to(batch, other.shape))
    copy[b] = other[b]
    return copy
