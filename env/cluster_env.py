"""The cluster as a Gymnasium environment, and its natively vectorised twin. No physics here.

Neither knows a planner or a rule: both are handed in by whoever composes the environment
(`training.environments` does it for `poolpilot/Cluster-v0`).

Symbols: `B` clusters, `A`/`N` sizes of action and observation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from .batch import ClusterBatch, Episode
from .bending import Bending
from .codec import Proposer
from .contract import Cluster, Memory
from .reward import reward
from .sim.clusters import TickOutcome
from .spaces import SpaceLayout

EpisodeSource = Callable[[int], Episode]
"""Draws an episode from a seed."""
RuleFactory = Callable[[Cluster], Proposer]
"""The rule that actions bend, for a batch of clusters."""


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
        self.layout = layout or SpaceLayout()
        self.n_clusters = n_clusters
        self.tick_s = tick_s
        self._draw, self._make_rule, self._restarts = draw, make_rule, restart
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the stream of episodes."""
        self._seeds = np.random.default_rng(seed)

    def reset(self) -> NDArray[np.float32]:
        """New episodes everywhere; `[B, N]` observations."""
        episodes = [self._next_episode() for _ in range(self.n_clusters)]
        self.batch = ClusterBatch(episodes, self.tick_s, self.layout.max_classes, self.layout.max_pools)
        self._memory: Memory = {}
        self._bending = Bending(self.batch.cluster, self._make_rule(self.batch.cluster))
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
        outcome, _, changes = self.batch.advance(proposed, self._snapshot)
        rewards = self._rewards(outcome)
        usd = outcome.bill.total_usd
        infos: list[dict[str, Any]] = [
            {
                "bill_usd": float(usd[b]),
                "reference_usd": float(self.batch.reference_usd[b]),
                "tally": outcome.tally[b],
                "vetoes": {change.code.value: int(change.mask[b].sum()) for change in changes},
            }
            for b in range(self.n_clusters)
        ]
        observation = self._look()
        ended: list[int] = np.flatnonzero(outcome.done).tolist() if self._restarts else []
        for b in ended:
            infos[b]["terminal_observation"] = observation[b].copy()
            infos[b]["TimeLimit.truncated"] = True
            self.batch.restart(b, self._next_episode())
            self._memory = {name: _zeroed(value, b) for name, value in self._memory.items()}
        if ended:
            self._bending = Bending(self.batch.cluster, self._make_rule(self.batch.cluster))
            observation = np.where(outcome.done[:, None], self._look(), observation)
        return observation, rewards, outcome.done, infos

    def _next_episode(self) -> Episode:
        return self._draw(int(self._seeds.integers(2**62)))

    def _look(self) -> NDArray[np.float32]:
        """Take a snapshot and lay out what the network sees; looking twice at the same moment changes nothing."""
        self._snapshot = self.batch.snapshot()
        seen, self._proposal, self._memory = self._bending.look(
            self._snapshot, self.batch.plan, self._memory, self.batch.miss_price
        )
        return self.layout.flatten(seen)

    def _rewards(self, outcome: TickOutcome) -> NDArray[np.float32]:
        batch = self.batch
        value = reward(
            outcome.bill.total_usd,
            outcome.tally,
            batch.cluster.targets.attainment,
            batch.miss_price,
            batch.reference_usd,
            batch.reference_requests,
        )
        return value.astype(np.float32)


class ClusterEnv(gymnasium.Env[NDArray[Any], NDArray[Any]]):
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

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as gymnasium declares it

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


def _zeroed(values: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """A copy in which row `b` is zero, which means that nothing was seen yet."""
    copy = np.array(values)
    copy[b] = 0.0
    return copy
