"""The cluster as a Gymnasium environment, and its natively vectorised twin. No physics here.

Neither knows a planner or a rule: both are handed in by whoever composes the environment
(`training.environments` does it for `poolpilot/Cluster-v1`).

Symbols: `B` clusters, `A`/`N` sizes of action and observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from .batch import ClusterBatch, Episode, Planning, PlansOneByOne
from .bending import Bending, Look
from .codec import Proposer
from .contract import Cluster, FloatArray, IntArray, Memory
from .reward import allowances_missed, charge, reward
from .rows import rows_of, with_rows
from .sim.clusters import TickOutcome
from .spaces import SpaceLayout

EpisodeSource = Callable[[int], Episode]
"""Draws an episode from a seed."""
RuleFactory = Callable[[Cluster], tuple[Proposer, ...]]
"""The rules that actions blend and bend, the neutral one first, for a batch of clusters."""

BendingFactory = Callable[[Cluster, tuple[Proposer, ...]], Bending]
"""What turns actions into the clusters' own."""


@dataclass(frozen=True, eq=False)
class StepInfo:
    """What a step brought beside observations and rewards. Symbol: `K` episodes that ended in it."""

    bill_usd: FloatArray
    """`[B]`"""
    reference_usd: FloatArray
    """`[B]`"""
    tally: FloatArray
    """`[B, C, W]` (`env.window`)"""
    missed: FloatArray
    """`[B, C]` usual ticks' allowances missed (`reward.allowances_missed`)."""
    charged: FloatArray
    """`[B, C]` what of them is charged (`reward.charge`)."""
    vetoes: dict[str, IntArray]
    """By reason, `[B]` how many pools or classes the guard changed."""
    ended: IntArray
    """`[K]` clusters whose episode ended and was replaced."""
    terminal_observation: NDArray[np.float32]
    """`[K, N]` the last observation of the episodes that ended."""


class VectorClusterEnv:
    """`B` clusters stepped in one call. An episode that ends is replaced in the same step.

    One step is one tick: the rules propose, the action blends and bends what they propose, the guard limits it, the
    simulated clusters run for `tick_s`. Observation, action and reward are those of `ClusterEnv`.
    """

    def __init__(
        self,
        draw: EpisodeSource,
        n_clusters: int,
        tick_s: float,
        make_rules: RuleFactory,
        layout: SpaceLayout | None = None,
        seed: int = 0,
        restart: bool = True,
        make_planning: Callable[[], Planning] = PlansOneByOne,
        make_bending: BendingFactory = Bending,
        threads: int | None = None,
    ) -> None:
        """`draw` is asked for episode after episode with seeds derived from `seed`.

        With `restart` off an episode that ended is not replaced: call `reset`. `make_bending` is what stands between actions and rules; `make_planning` and `threads` as for
        `ClusterBatch`; the number of threads changes no bit of what comes out.
        """
        self.layout = layout or SpaceLayout()
        self.n_clusters = n_clusters
        self.tick_s = tick_s
        self._draw, self._make_rules, self._restarts = draw, make_rules, restart
        self._make_bending = make_bending
        self._make_planning, self._threads = make_planning, threads
        # Two, taken in turn: whoever learns keeps the last observation until after the next step.
        self._pages = [np.zeros((n_clusters, sum(self.layout.sizes)), dtype=np.float32) for _ in range(2)]
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the stream of episodes."""
        self._seeds = np.random.default_rng(seed)

    def reset(self) -> NDArray[np.float32]:
        """New episodes everywhere; `[B, N]` observations, see `step`."""
        episodes = [self._next_episode() for _ in range(self.n_clusters)]
        layout = self.layout
        self.batch = ClusterBatch(
            episodes, self.tick_s, layout.max_classes, layout.max_pools, self._make_planning(), self._threads
        )
        self._memory: Memory = {}
        self._used, self._elapsed_s = np.zeros(self.batch.reference_requests.shape), np.zeros(self.n_clusters)
        self._bending = self._make_bending(self.batch.cluster, self._make_rules(self.batch.cluster))
        return self._look()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], StepInfo]:
        """One tick everywhere.

        Args:
            actions: `[B, A]`.

        Returns:
            Observations `[B, N]`, rewards `[B]`, episode ends `[B]` (always by time: truncations), and what else
            came of it. Where an episode ended, the observation is the first of the next. The observations are
            overwritten by the step after the next: copy what is to be kept longer.
        """
        proposed = self._bending.act(self.layout.outputs(actions), self._looked)
        outcome, _, changes = self.batch.advance(proposed, self._looked.snapshot)
        reference_usd = self.batch.reference_usd
        missed, charged = self._missed(outcome)
        rewards = reward(outcome.bill.total_usd, reference_usd, charged, self.batch.miss_price).astype(np.float32)
        vetoes: dict[str, IntArray] = {}
        for change in changes:
            hits = change.mask.sum(axis=-1)
            vetoes[change.code.value] = vetoes.get(change.code.value, 0) + hits
        observation = self._look()
        ended = np.flatnonzero(outcome.done) if self._restarts else np.empty(0, dtype=np.int64)
        terminal = observation[ended]
        if len(ended):
            self.start_again(ended)
            observation = self._look_at_new(ended)
        info = StepInfo(outcome.bill.total_usd, reference_usd, outcome.tally, missed, charged, vetoes, ended, terminal)
        return observation, rewards, outcome.done, info

    def start_again(self, ended: IntArray) -> None:
        """Put new episodes in the places of those that ended."""
        self.batch.restart(ended, [self._next_episode() for _ in ended])
        self._used[ended], self._elapsed_s[ended] = 0.0, 0.0
        self._bending = self._make_bending(self.batch.cluster, self._make_rules(self.batch.cluster))

    def _next_episode(self) -> Episode:
        return self._draw(int(self._seeds.integers(2**62)))

    def _look(self) -> NDArray[np.float32]:
        """Take a snapshot and lay out what the network sees."""
        self._looked, self._memory = self._bending.look(
            self.batch.snapshot(), self.batch.plan, self._memory, self.batch.miss_price
        )
        self._pages.reverse()
        return self.layout.flatten(self._looked.seen, self._pages[0])

    def _look_at_new(self, rows: IntArray) -> NDArray[np.float32]:
        """Look at clusters that just began; the others stay as they were looked at in this step.

        A rule that remembers what it decided would decide otherwise at a second look at the same moment.
        """
        snapshot, plan = self.batch.snapshot(), self.batch.plan
        cluster = rows_of(self.batch.cluster, rows)
        bending = self._make_bending(cluster, self._make_rules(cluster))
        new, memory = bending.look(rows_of(snapshot, rows), rows_of(plan, rows), {}, self.batch.miss_price[rows])
        old = self._looked
        proposals = tuple(
            with_rows(was, rows, begins) for was, begins in zip(old.proposals, new.proposals, strict=True)
        )
        self._looked = Look(with_rows(old.seen, rows, new.seen), proposals, snapshot, plan)
        self._memory = {name: with_rows(value, rows, memory[name]) for name, value in self._memory.items()}
        self._pages[0][rows] = self.layout.flatten(new.seen)
        return self._pages[0]

    def _missed(self, outcome: TickOutcome) -> tuple[FloatArray, FloatArray]:
        """Allowances missed and charged in the tick, `[B, C]` each."""
        batch = self.batch
        missed = allowances_missed(outcome.tally, batch.cluster.targets.attainment, batch.reference_requests)
        charged, self._used = charge(missed, self._used, self.tick_s, self._elapsed_s)
        self._elapsed_s = self._elapsed_s + self.tick_s
        return missed, charged


class ClusterEnv(gymnasium.Env[NDArray[Any], NDArray[Any]]):
    """One cluster of mixed GPU pools. `poolpilot/Cluster-v1`.

    **Observation** `Box(-1, 1, (N,), float32)`: class features, pool features, features of the whole, class mask,
    pool mask, row by row (`env.spaces.SpaceLayout`; names in `env.codec`). Unknown values and padding are 0.

    **Action** `Box(-1, 1, (A,), float32)`: per class head-room and admission, per pool replicas, tilt of work, batch
    cap and hold, and how far each rule but the first is trusted. Zeros are the first rule's own proposal. The guard
    limits what comes out.

    **Reward**: minus the tick's bill over a reference bill, minus the price of missed targets (`env.reward`).

    **Start**: a world drawn from `seed` (requests, true speeds, cold starts, preemptions). **End**: truncated when
    the scenario's duration is over; never terminated.

    **Versions**: v1, four rules instead of one, and how far each is trusted; v0, one rule.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as gymnasium declares it

    def __init__(
        self, draw: EpisodeSource, tick_s: float, make_rules: RuleFactory, layout: SpaceLayout | None = None
    ) -> None:
        """Parameters as for `VectorClusterEnv`."""
        self._twin = VectorClusterEnv(draw, 1, tick_s, make_rules, layout, restart=False)
        self.observation_space = self._twin.layout.observation_space
        self.action_space = self._twin.layout.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new world; the same seed gives the same one."""
        super().reset(seed=seed)
        self._twin.seed(int(self.np_random.integers(2**31)))
        return self._twin.reset()[0].copy(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One tick."""
        observation, rewards, done, step = self._twin.step(np.asarray(action)[None])
        info = {
            "bill_usd": float(step.bill_usd[0]),
            "reference_usd": float(step.reference_usd[0]),
            "tally": step.tally[0],
            "vetoes": {code: int(hits[0]) for code, hits in step.vetoes.items()},
        }
        return observation[0].copy(), float(rewards[0]), False, bool(done[0]), info
