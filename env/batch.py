"""A batch of simulated clusters with their plans and the guard: everything around a decision but the decision.

Training (`cluster_env`) and evaluation (`training.rollout`) step the same batch. Planner and policy are handed in:
deciding is not the world's business.

Symbols: `B` clusters, `C`/`P` the batch's maxima of classes and pools, `K` seats (places in the batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from .contract import Action, BoolArray, Cluster, FloatArray, IntArray, Plan, Snapshot
from .foresight import TrueRates
from .guard import Change, GuardState, Limits, first_state, guard
from .sim.clusters import SimulatedClusters, TickOutcome
from .sim.loading import padded
from .sim.world import WorldSpec
from .veil import VeilState
from .workload.requests import Workload

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


class Planning(Protocol):
    """Plans for a batch of clusters. Symbol: `K` of its seats."""

    def first(self, seats: IntArray, episodes: Sequence[Episode], cluster: Cluster, plan: Plan | None) -> Plan:
        """Take in the episodes that now sit at `seats` `[K]`: the batch's plan with their first plans in these rows.

        `plan` is None when every seat is new.
        """
        ...

    def again(
        self, plan: Plan, planned_at_s: FloatArray, snapshot: Snapshot, cluster: Cluster
    ) -> tuple[Plan, BoolArray]:
        """The batch's plan, made again where that is due, and `[B]` where it was."""
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
    rule_costs: FloatArray | None = None
    """`[T, 1 + C]` where it is known (`training.baseline`): what a rule's bill was of `reference_usd`, and what each class
    missed of its allowance, in each tick."""


class PlansOneByOne:
    """A `Planning` that asks each episode's own planner."""

    def __init__(self) -> None:
        """Nothing is known before `first`."""
        self._episodes: dict[int, Episode] = {}
        self._plans: dict[int, Plan] = {}

    def first(self, seats: IntArray, episodes: Sequence[Episode], cluster: Cluster, plan: Plan | None) -> Plan:
        """See `Planning`."""
        for b, episode in zip(seats.tolist(), episodes, strict=True):
            self._episodes[b] = episode
            self._plans[b] = episode.planner.first(episode.first_load_per_s)
        return self._stacked(cluster)

    def again(
        self, plan: Plan, planned_at_s: FloatArray, snapshot: Snapshot, cluster: Cluster
    ) -> tuple[Plan, BoolArray]:
        """See `Planning`."""
        planned = np.zeros(len(planned_at_s), dtype=np.bool_)
        for b in np.flatnonzero(snapshot.time_s - planned_at_s >= PLAN_EVERY_S).tolist():
            episode = self._episodes[b]
            own = one_cluster(snapshot, b, episode.world.cluster)
            if episode.planner.due(self._plans[b], float(planned_at_s[b]), own):
                self._plans[b] = episode.planner.again(self._plans[b], own)
                planned[b] = True
        return (self._stacked(cluster) if planned.any() else plan), planned

    def _stacked(self, cluster: Cluster) -> Plan:
        n, c, p = cluster.serves.shape
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
                name: np.stack([padded(np.asarray(getattr(self._plans[b], name)), shape) for b in range(n)])
                for name, shape in shapes.items()
            }
        )


class ClusterBatch:
    """`B` clusters, their plans and guards, advanced together tick by tick."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        tick_s: float,
        max_classes: int | None = None,
        max_pools: int | None = None,
        planning: Planning | None = None,
        threads: int | None = None,
        foresight: bool = False,
    ) -> None:
        """The maxima make room for larger clusters that may come later (`restart`).

        Without `planning`, each episode's own planner is asked. `threads` as for `SimulatedClusters`. With `foresight`
        policy and planner are told the true arrival rates of the next minutes where they would see a forecast: a mark
        for what forecasting and timing could gain, not causal.
        """
        self.replans = True
        """Off, the first plans stay: planning is most of the time of a run, and a rule that never looks at the plan
        does not need new ones."""
        self.episodes = list(episodes)
        self.clusters = SimulatedClusters(
            [episode.world for episode in episodes],
            tick_s,
            max_classes=max_classes,
            max_pools=max_pools,
            threads=threads,
        )
        n_classes, n_pools = self.clusters.cluster.serves.shape[1:]
        self._veils = VeilState([episode.world.veil for episode in episodes], n_classes, n_pools, tick_s)
        self._foreseen = TrueRates(*_arrivals(episodes), n_classes) if foresight else None
        self.truth: Snapshot
        """What there was to see at the last `snapshot`, veiled or not: for those who keep accounts, not for policies."""
        self.planning = planning or PlansOneByOne()
        self._planned_at_s = np.zeros(len(self.episodes))
        self._refresh()
        self.plan = self.planning.first(np.arange(len(self.episodes)), self.episodes, self.cluster, None)
        self._guard_state = first_state(self.plan, self.cluster)

    def snapshot(self) -> Snapshot:
        """What is seen now, through the clusters' veils; plans that are due are made again from it."""
        self.truth = self.clusters.snapshot()
        snapshot = self._veils.through(self.truth)
        if self._foreseen is not None:
            snapshot = replace(snapshot, forecast_per_s=self._foreseen.ahead(snapshot.time_s))
        if self.replans:
            self.plan, planned = self.planning.again(self.plan, self._planned_at_s, snapshot, self.cluster)
            self._planned_at_s = np.where(planned, snapshot.time_s, self._planned_at_s)
        return snapshot

    def advance(self, proposed: Action, snapshot: Snapshot) -> tuple[TickOutcome, Action, tuple[Change, ...]]:
        """Guard the proposal, let it act for a tick; what came of it, what was applied, and what the guard changed."""
        guarded = guard(proposed, snapshot, self.plan, self.cluster, self._limits, self._guard_state)
        self._guard_state = guarded.state
        return self.clusters.advance(guarded.action), guarded.action, guarded.changes

    def restart(self, seats: IntArray, episodes: Sequence[Episode]) -> None:
        """Put new episodes at `seats` `[K]`; the others go on undisturbed."""
        for b, episode in zip(seats.tolist(), episodes, strict=True):
            self.episodes[b] = episode
        self.clusters.replace(seats, [episode.world for episode in episodes])
        self._veils.replace(seats, [episode.world.veil for episode in episodes])
        if self._foreseen is not None:
            self._foreseen.replace(seats, *_arrivals(episodes))
        self._refresh()
        self.plan = self.planning.first(seats, episodes, self.cluster, self.plan)
        self._planned_at_s[seats] = 0.0
        fresh, old = first_state(self.plan, self.cluster), self._guard_state
        self._guard_state = GuardState(
            changed_at_s=_with_rows(old.changed_at_s, seats, fresh.changed_at_s),
            applied=Action(
                **{
                    f.name: _with_rows(getattr(old.applied, f.name), seats, getattr(fresh.applied, f.name))
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
        self.reference_requests = np.stack([padded(e.reference_requests, (width,)) for e in self.episodes])


def _arrivals(episodes: Sequence[Episode]) -> tuple[list[Workload], list[float]]:
    """What `TrueRates` is made of."""
    return [episode.world.workload for episode in episodes], [episode.world.duration_s for episode in episodes]


def one_cluster(snapshot: Snapshot, b: int, cluster: Cluster) -> Snapshot:
    """Row `b` of a batch of snapshots, without the padding."""
    c, p = len(cluster.class_names), len(cluster.pool_names)
    return Snapshot(
        time_s=snapshot.time_s[b],
        classes=snapshot.classes[b, :c],
        pools=snapshot.pools[b, :p],
        forecast_per_s=snapshot.forecast_per_s[b, :c],
    )


def _with_rows(batch: FloatArray, seats: IntArray, other: FloatArray) -> FloatArray:
    """A copy of `batch` whose rows `seats` are those of `other`."""
    copy = np.array(np.broadcast_to(batch, other.shape))
    copy[seats] = other[seats]
    return copy
