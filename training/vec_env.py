"""The vectorised cluster as stable-baselines3 wants it: same-step reset, terminal observation, truncation flag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ..env.batch import Episode
from ..env.cluster_env import StepInfo, VectorClusterEnv
from ..env.contract import BoolArray, FloatArray
from ..env.reward import reward
from ..env.spaces import MAX_CLASSES
from .multipliers import Multipliers

REWARD_SCALE = 0.05
"""Rewards are handed to the learner times this: with a discount of 0.994 values then stay within a few units around 0,
where the critic begins, and its gradients do not drown the actor's."""
PRICE_WEIGHT = 2.0
"""Rewards are handed on over 1 plus this times the price of a miss. The price is seen and the same for a whole episode, so
that the best policy stays the best; without, episodes of a high price drown all others."""


def _look_away(_: ClusterVecEnv) -> None:
    """Nobody counts along."""


_NOTHING: dict[str, Any] = {}
"""The info of a cluster of which there is nothing to tell; one for all, nobody writes into it."""


class ClusterVecEnv(VecEnv):
    """`VecEnv` over a `VectorClusterEnv`; one Python call a step, whatever the number of clusters."""

    def __init__(self, clusters: VectorClusterEnv, multipliers: Multipliers | None = None, hold: int = 1) -> None:
        """`clusters` does the work; with `multipliers`, they price misses, whatever price the episodes have.

        A step is `hold` ticks under the same outputs, over which the rules go on proposing tick by tick. Exploration that
        lasts a minute can be told from its consequences; at every tick anew it is shaking, against which a policy carries
        head-room that it does not need at work. An episode that ends within a step ends with it: its successor is
        steered by the old outputs until the step is over, and those ticks count for neither.
        """
        self.last: StepInfo
        """Of the last tick."""
        self.rewards: FloatArray
        """`[B]` of the last tick, before what a rule costs is taken off and they are scaled."""
        self.deferrable: BoolArray
        """`[B, C]` and `asked` `[B, C]`: which classes the last tick's clusters had, and which of them may wait."""
        self.asked: BoolArray
        self.on_tick: Callable[[ClusterVecEnv], None] = _look_away
        """Called after every tick, when the figures above are those of it."""
        self.hold = hold
        self.clusters = clusters
        self.multipliers = multipliers
        layout = clusters.layout
        super().__init__(clusters.n_clusters, layout.observation_space, layout.action_space)
        self._actions: NDArray[Any] = np.zeros((clusters.n_clusters, *layout.action_space.shape))
        self._returns = np.zeros(clusters.n_clusters)
        self._lengths = np.zeros(clusters.n_clusters, dtype=np.int64)
        self._rule_costs: list[FloatArray] = []

    def reset(self) -> NDArray[np.float32]:
        """New episodes everywhere."""
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        observation = self.clusters.reset()
        self._rule_costs = [_rule_costs(episode) for episode in self.clusters.batch.episodes]
        return observation.copy() if self.hold > 1 else observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Remember the actions; the work is done in `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """`hold` ticks everywhere, with the episode statistics that stable-baselines3 logs.

        Only where an episode ended is there an info of its own; the figures of all are in `last`.
        """
        infos = [_NOTHING] * self.num_envs
        worth, over = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
        for _ in range(self.hold):
            observation, learned, done = self._tick(infos)
            worth += np.where(over, 0.0, learned)
            over |= done
        if self.hold > 1:
            # Whoever learns keeps an observation until after the next step, longer than the clusters do.
            observation = observation.copy()
        return observation, worth.astype(np.float32), over, infos

    def _tick(self, infos: list[dict[str, Any]]) -> tuple[NDArray[np.float32], FloatArray, BoolArray]:
        """One tick; observation, what is learned from, ends, and into `infos` what there is to tell of those."""
        batch = self.clusters.batch
        # The step may put other clusters in their places.
        cluster, usual, miss_price = batch.cluster, batch.reference_requests, batch.miss_price
        observation, rewards, done, self.last = self.clusters.step(self._actions)
        self.deferrable, self.asked = cluster.targets.deferrable, usual > 0
        charged = self.last.charged
        if self.multipliers:
            prices = self.multipliers.prices(self.deferrable)
            free = reward(self.last.bill_usd, self.last.reference_usd, charged, np.zeros(len(done)))
            rewards = (free - (prices * charged).sum(axis=-1)).astype(np.float32)
        else:
            prices = np.broadcast_to(miss_price[:, None], charged.shape)
        self.rewards = np.asarray(rewards, dtype=np.float64)
        weights = REWARD_SCALE / (1.0 if self.multipliers else 1.0 + PRICE_WEIGHT * miss_price)
        learned = (self.rewards + self._usual(prices)) * weights
        self._returns += rewards
        self._lengths += 1
        for k, b in enumerate(self.last.ended.tolist()):
            infos[b] = {
                "terminal_observation": self.last.terminal_observation[k],
                "TimeLimit.truncated": True,
                "episode": {"r": float(self._returns[b]), "l": int(self._lengths[b]), "t": 0.0},
            }
            self._rule_costs[b] = _rule_costs(batch.episodes[b])
        self._returns[done] = 0.0
        self._lengths[done] = 0
        self.on_tick(self)
        return observation, learned, done

    def _usual(self, prices: FloatArray) -> FloatArray:
        """`[B]` what the rule cost in this tick of each cluster, at prices `[B, C]` of a miss."""
        at = self._lengths.tolist()
        ticks = [costs[min(t, len(costs) - 1)] for costs, t in zip(self._rule_costs, at, strict=True)]
        now = np.stack(ticks)
        total: FloatArray = now[:, 0] + (prices * now[:, 1 : 1 + prices.shape[1]]).sum(axis=1)
        return total

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Restart the stream of episodes at the next reset."""
        if seed is not None:
            self.clusters.seed(seed)
        return [seed] * self.num_envs

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every cluster: there is one object behind all."""
        return [getattr(self.clusters, attr_name, None) for _ in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: clusters share one object."""
        raise AttributeError(f"cannot set {attr_name!r} on single clusters of a batch; make a new environment")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refused: clusters share one object."""
        raise AttributeError(f"cannot call {method_name!r} on single clusters of a batch")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Never: there are no single environments to wrap."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: Any) -> Iterable[int]:
        chosen: Iterable[int] = self._get_indices(indices)
        return chosen


def _rule_costs(episode: Episode) -> FloatArray:
    """`[T, 1 + MAX_CLASSES]` what a rule costs, tick by tick; where that is not known, a usual bill and no misses."""
    known = episode.rule_costs if episode.rule_costs is not None else np.ones((1, 1))
    return np.pad(known, ((0, 0), (0, 1 + MAX_CLASSES - known.shape[1])))
