"""The cluster as a Gymnasium environment, and its natively vectorised twin. No physics here.

Neither knows a planner or a rule: both are handed in by whoever composes the environment, since deciding is not
the world's business. `training.environments` does it for `poolpilot/Cluster-v0`.

Symbols: `B` clusters, `C`/`P` the maxima of classes and pools, `A`/`N` sizes of action and observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from . import contract
from .bending import Bending
from .codec import Proposal, Proposer
from .contract import Cluster, FloatArray, Memory, Plan, Snapshot
from .guard import GuardState, Limits, first_state, guard
from .reward import reward
from .sim.clusters import SimulatedClusters, TickOutcome
from .sim.world import WorldSpec
from .spaces import SpaceLayout


class Planner(Protocol):
    """Plans for one cluster; the environment asks when it is due."""

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


EpisodeSource = Callable[[int], Episode]
"""Draws an episode from a seed."""
RuleFactory = Callable[[Cluster], Proposer]
"""The rule that actions bend, for a (batch of) cluster(s)."""


class VectorClusterEnv:
    """`B` clusters stepped in one call. An episode that ends is replaced in the same step.

    One step is one tick: the rule proposes, the action bends the proposal, the guard limits it, the simulated
    clusters run for `tick_s`. Observation, action and reward are those of `ClusterEnv`.
    """

    def __init__(
        self,
        draw: EpisodeSource,
        n_clusters: int,
        tick_s: float,
        make_rule: RuleFactory,
        layout: SpaceLayout | None = None,
        seed: int = 0,
        restart: bool = True,
    ) -> None:
        """`draw` is asked for episode after episode with seeds derived from `seed`.

        With `restart` off an episode that ended is not replaced: call `reset`.
        """
        self._restarts = restart
        self.layout = layout or SpaceLayout()
        self.n_clusters = n_clusters
        self.tick_s = tick_s
        self._draw, self._make_rule = draw, make_rule
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the stream of episodes."""
        self._seeds = np.random.default_rng(seed)

    def reset(self) -> NDArray[np.float32]:
        """New episodes everywhere; `[B, N]` observations."""
        self.episodes = [self._next_episode() for _ in range(self.n_clusters)]
        self.clusters = SimulatedClusters(
            [episode.world for episode in self.episodes],
            self.tick_s,
            max_classes=self.layout.max_classes,
            max_pools=self.layout.max_pools,
        )
        self._plans = [episode.planner.first(episode.first_load_per_s) for episode in self.episodes]
        self._planned_at_s = np.zeros(self.n_clusters)
        self._memory: Memory = {}
        self._refresh_static()
        self._guard_state = first_state(self._plan, self._cluster)
        return self._look()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """One tick everywhere.

        Args:
            actions: `[B, A]`.

        Returns:
            Observations `[B, N]`, rewards `[B]`, episode ends `[B]` (always by time: truncations), and one info a
            cluster; where an episode ended, `terminal_observation` is the last of it and the returned observation
            is the first of the next.
        """
        class_output, pool_output = self.layout.outputs(actions)
        proposed = self._bending.act(class_output, pool_output, self._proposal)
        guarded = guard(proposed, self._snapshot, self._plan, self._cluster, self._limits, self._guard_state)
        self._guard_state = guarded.state
        outcome = self.clusters.advance(guarded.action)
        rewards = self._rewards(outcome)
        infos = self._infos(outcome, guarded.changes)
        observation = self._look()
        ended = np.flatnonzero(outcome.done) if self._restarts else []
        for b in ended:
            infos[b]["terminal_observation"] = observation[b].copy()
            infos[b]["TimeLimit.truncated"] = True
            self._restart(int(b))
        if len(ended):
            self._refresh_static()
            observation = np.where(outcome.done[:, None], self._look(replan=False), observation)
        return observation, rewards, outcome.done, infos

    def _next_episode(self) -> Episode:
        return self._draw(int(self._seeds.integers(2**62)))

    def _restart(self, b: int) -> None:
        self.episodes[b] = self._next_episode()
        self.clusters.replace(b, self.episodes[b].world)
        self._plans[b] = self.episodes[b].planner.first(self.episodes[b].first_load_per_s)
        self._planned_at_s[b] = 0.0
        for value in self._memory.values():
            value[b] = 0.0  # zeros mean that nothing was seen yet
        self._refresh_static()
        fresh = first_state(self._plan, self._cluster)
        self._guard_state.changed_at_s[b] = fresh.changed_at_s[b]
        applied = {
            name: _with_row(getattr(self._guard_state.applied, name), b, getattr(fresh.applied, name))
            for name in ("route", "admit", "batch_cap", "token_budget", "replicas")
        }
        self._guard_state = GuardState(self._guard_state.changed_at_s, contract.Action(**applied))

    def _refresh_static(self) -> None:
        """Rebuild what depends on which clusters are in the batch."""
        self._cluster = self.clusters.cluster
        self._bending = Bending(self._cluster, self._make_rule(self._cluster))
        names = vars(self.episodes[0].limits)
        self._limits = Limits(
            **{name: np.array([float(getattr(e.limits, name)) for e in self.episodes]) for name in names}
        )
        self._miss_price = np.array([e.miss_price for e in self.episodes])
        self._reference_usd = np.array([e.reference_usd for e in self.episodes])
        self._reference_requests = np.stack(
            [_padded(e.reference_requests, self.layout.max_classes) for e in self.episodes]
        )
        self._stack_plans()

    def _stack_plans(self) -> None:
        c, p = self.layout.max_classes, self.layout.max_pools
        shapes = {"replicas": (p,), "route": (c, p), "batch_cap": (p,), "capacity_per_s": (c, p), "load_per_s": (c,)}
        shapes |= {"usd_per_hr": (), "attainment": (c,)}
        self._plan = Plan(
            **{
                name: np.stack([_padded(np.asarray(getattr(plan, name)), *shape) for plan in self._plans])
                for name, shape in shapes.items()
            }
        )

    def _look(self, replan: bool = True) -> NDArray[np.float32]:
        """Take a snapshot, plan again where it is due, and lay out what the network sees."""
        self._snapshot = self.clusters.snapshot()
        if replan:
            self._replan()
        memory = self._memory
        seen, proposal, memory = self._bending.look(self._snapshot, self._plan, memory, self._miss_price)
        self._proposal: Proposal = proposal
        self._memory = {name: np.array(value) for name, value in memory.items()}
        return self.layout.flatten(seen)

    def _replan(self) -> None:
        changed = False
        for b, episode in enumerate(self.episodes):
            if self._snapshot.time_s[b] - self._planned_at_s[b] < PLAN_EVERY_S:
                continue
            own = one_cluster(self._snapshot, b, episode.world.cluster)
            if episode.planner.due(self._plans[b], float(self._planned_at_s[b]), own):
                self._plans[b] = episode.planner.again(self._plans[b], own)
                self._planned_at_s[b] = self._snapshot.time_s[b]
                changed = True
        if changed:
            self._stack_plans()

    def _rewards(self, outcome: TickOutcome) -> NDArray[np.float32]:
        value = reward(
            outcome.bill.total_usd,
            outcome.tally,
            self._cluster.targets.attainment,
            self._miss_price,
            self._reference_usd,
            self._reference_requests,
        )
        return value.astype(np.float32)

    def _infos(self, outcome: TickOutcome, changes: tuple[Any, ...]) -> list[dict[str, Any]]:
        usd = outcome.bill.total_usd
        infos: list[dict[str, Any]] = [
            {"bill_usd": float(usd[b]), "reference_usd": float(self._reference_usd[b]), "tally": outcome.tally[b]}
            for b in range(self.n_clusters)
        ]
        for b in range(self.n_clusters):
            infos[b]["vetoes"] = {change.code.value: int(change.mask[b].sum()) for change in changes}
        return infos


PLAN_EVERY_S = 60.0
"""The plan is looked at again at most this often."""


class ClusterEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One cluster of mixed GPU pools. `poolpilot/Cluster-v0`.

    **Observation** `Box(-1, 1, (N,), float32)`: class features, pool features, features of the whole, class mask,
    pool mask, row by row (`env.spaces.SpaceLayout`; names in `env.codec`). Unknown values and padding are 0.

    **Action** `Box(-1, 1, (A,), float32)`: per class head-room and admission, per pool replicas, routing tilt and
    batch cap. Zeros are the rule's own proposal. The guard limits what comes out.

    **Reward**: minus the tick's bill over a reference bill, minus the price of missed targets (`env.reward`).

    **Start**: a world drawn from `seed` (requests, true speeds, cold starts, preemptions). **End**: truncated when
    the scenario's duration is over; never terminated.

    **Versions**: v0, first.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self, draw: EpisodeSource, tick_s: float, make_rule: RuleFactory, layout: SpaceLayout | None = None
    ) -> None:
        """Parameters as for `VectorClusterEnv`."""
        self._twin = VectorClusterEnv(draw, 1, tick_s, make_rule, layout, restart=False)
        self.observation_space = self._twin.layout.observation_space
        self.action_space = self._twin.layout.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new world; the same seed gives the same one."""
        super().reset(seed=seed)
        self._twin.seed(int(self.np_random.integers(2**31)))
        return self._twin.reset()[0], {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One tick."""
        observation, rewards, done, infos = self._twin.step(np.asarray(action)[None])
        return observation[0], float(rewards[0]), False, bool(done[0]), infos[0]


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
