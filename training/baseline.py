"""What the first rule costs in a run's worlds, tick by tick: rewards are measured from there.

Worlds differ in their bills, and hours in theirs, by far more than any policy can change, and no observation tells by how
much. What a rule would have paid in the same minutes takes that out: it does not depend on what the policy does, so
the best policy stays the best, and the critic is left with what the policy changes.

Symbols: `T` ticks, `C` classes a batch has room for, `K` clusters side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from ..env.batch import Episode
from ..env.contract import FloatArray
from .hindsight import EnvMaker, in_turn
from .worlds import TrainingWorlds

SEATS: Final = 128
SMOOTH_TICKS: Final = 31
"""A tick's cost is the mean of so many around it: the rule's own coin tosses are not the policy's."""


def with_baselines(worlds: TrainingWorlds, make_env: EnvMaker, on_world: Callable[[int], None] | None = None) -> None:
    """Draw all worlds of a bank, and keep with each what the neutral output costs in it, unless that is known."""
    episodes = [worlds(seed) for seed in range(worlds.bank)]
    if all(episode.rule_costs is not None for episode in episodes):
        return
    for length in sorted({episode.world.duration_s for episode in episodes}):
        own = [i for i, episode in enumerate(episodes) if episode.world.duration_s == length]
        for start in range(0, len(own), SEATS):
            part = own[start : start + SEATS]
            costs = _lived([episodes[i] for i in part], make_env)
            for i, cost in zip(part, costs, strict=True):
                worlds.drawn[i] = measured_from(worlds.drawn[i], cost)
            if on_world:
                on_world(len(part))


def measured_from(episode: Episode, cost: FloatArray) -> Episode:
    """The episode whose usual bill is what the rule paid in it, `cost` `[T, 1 + C]` being that in the usual bills so far.

    So that a tenth saved is a tenth in every world: what a plan would rent for the mean load is far from what it takes in
    some, and those would count several times.
    """
    own = max(float(cost[:, 0].mean()), 1e-6)
    costs = smoothed(np.column_stack([cost[:, 0] / own, cost[:, 1:]]))
    return replace(episode, reference_usd=episode.reference_usd * own, rule_costs=costs)


def smoothed(cost: FloatArray) -> FloatArray:
    """`[T, N]` the mean of the `SMOOTH_TICKS` around each tick, of fewer at the ends."""
    sums = np.concatenate([np.zeros((1, cost.shape[1])), np.cumsum(cost, axis=0)])
    ticks, half = np.arange(len(cost)), SMOOTH_TICKS // 2
    low, high = np.maximum(ticks - half, 0), np.minimum(ticks + half + 1, len(cost))
    means: FloatArray = (sums[high] - sums[low]) / (high - low)[:, None]
    return means


def _lived(episodes: Sequence[Episode], make_env: EnvMaker) -> FloatArray:
    """`[K, T, 1 + C]` bill over the usual bill, and allowances charged to each class (`env.reward.charge`)."""
    env = make_env(in_turn(episodes), len(episodes))
    env.reset()
    nothing = np.zeros((len(episodes), *(env.layout.action_space.shape or ())))
    costs, done = [], np.zeros(len(episodes), dtype=np.bool_)
    while not done.all():
        _, _, done, step = env.step(nothing)
        costs.append(np.column_stack([step.bill_usd / step.reference_usd, step.charged]))
    return np.stack(costs, axis=1)
