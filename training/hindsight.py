"""What every rule at every head-room would have cost in each of many worlds: what imitation learns from.

Every world is lived through once under each constant output, with the same coin tosses. The objective is that of
`env.reward`, a tick's mean: bill over the usual bill plus miss price times allowances missed; both parts are kept, so
that one table serves every price.

Symbols: `W` worlds, `R` rules that are blended, `H` head-rooms, `M` miss prices, `S` observations kept of a world,
`N` size of an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..env.batch import Episode
from ..env.cluster_env import EpisodeSource, VectorClusterEnv
from ..env.contract import FloatArray

HEADROOMS: Final = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Head-room outputs that are tried, the same for every class."""
SEATS: Final = 160
"""Clusters side by side: beyond, a step costs in proportion."""
SEEN_EVERY: Final = 45
"""Ticks between two observations that are kept of a cluster; neighbours look at other ticks."""
SEEN_AT_LEAST: Final = 4
"""Observations kept of a cluster whose episode is short."""

EnvMaker = Callable[[EpisodeSource, int], VectorClusterEnv]
"""Makes an environment of so many clusters that does not replace them when they end."""
OutputMaker = Callable[[int, float], NDArray[np.float32]]
"""`[A]` the constant output that trusts one rule alone, at a head-room."""


@dataclass(frozen=True)
class Hindsight:
    """The table, and what was seen on the way."""

    headrooms: FloatArray
    """`[H]` outputs."""
    bill: FloatArray
    """`[W, R, H]` over the usual bill."""
    missed: FloatArray
    """`[W, R, H]` allowances charged a tick (`env.reward.charge`), over all classes."""
    seen: NDArray[np.float32]
    """`[W, S, N]`"""

    def objective(self, miss_prices: FloatArray) -> FloatArray:
        """`[W, R, H, M]` what is to be kept low."""
        return self.bill[..., None] + miss_prices * self.missed[..., None]

    def best_constant(self, miss_price: float) -> tuple[int, int]:
        """The rule and head-room that cost least on average over all worlds."""
        means = self.objective(np.array([miss_price]))[..., 0].mean(axis=0)
        rule, headroom = np.unravel_index(int(np.argmin(means)), means.shape)
        return int(rule), int(headroom)

    def by_own_bill(self) -> Hindsight:
        """The same with each world's bills over that of the first rule as it is: a tenth saved is a tenth in every world."""
        return replace(self, bill=self.bill / self.neutral_bill[:, None, None])

    @property
    def neutral_bill(self) -> FloatArray:
        """`[W]` of the first rule as it is, over the usual bill."""
        return self.bill[:, 0, int(np.argmin(np.abs(self.headrooms)))]

    def of(self, worlds: slice) -> Hindsight:
        """A part of the worlds."""
        return Hindsight(self.headrooms, self.bill[worlds], self.missed[worlds], self.seen[worlds])


def look_back(
    episodes: Sequence[Episode],
    n_rules: int,
    output_of: OutputMaker,
    make_env: EnvMaker,
    headrooms: Sequence[float] = HEADROOMS,
    on_world: Callable[[int], None] | None = None,
) -> Hindsight:
    """Live through every episode under every rule at every head-room.

    Raises:
        ValueError: the episodes are not equally long.
    """
    lengths = {episode.world.duration_s for episode in episodes}
    if len(lengths) != 1:
        raise ValueError(f"episodes last {sorted(lengths)} s; wanted one length to look back on them together")
    constants = np.stack([output_of(rule, h) for rule in range(n_rules) for h in headrooms])
    at_once = max(1, SEATS // len(constants))
    parts = []
    for first in range(0, len(episodes), at_once):
        parts.append(_lived(episodes[first : first + at_once], constants, make_env))
        if on_world:
            on_world(min(first + at_once, len(episodes)))
    shape = (len(episodes), n_rules, len(headrooms))
    bill, missed, seen = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Hindsight(np.asarray(headrooms), bill.reshape(shape), missed.reshape(shape), seen)


def _lived(
    episodes: Sequence[Episode], constants: NDArray[np.float32], make_env: EnvMaker
) -> tuple[FloatArray, FloatArray, NDArray[np.float32]]:
    """Bill `[W, R*H]`, misses `[W, R*H]` and observations `[W, S, N]` of some worlds side by side."""
    n_worlds, n_constants = len(episodes), len(constants)
    seats = [episode for episode in episodes for _ in constants]
    env = make_env(in_turn(seats), len(seats))
    actions = np.tile(constants, (n_worlds, 1))
    bill, missed = np.zeros(len(seats)), np.zeros(len(seats))
    kept: list[list[NDArray[np.float32]]] = [[] for _ in seats]
    every = min(SEEN_EVERY, max(int(episodes[0].world.duration_s / env.tick_s) // SEEN_AT_LEAST, 1))
    observation, done, tick = env.reset(), np.zeros(len(seats), dtype=np.bool_), 0
    while not done.all():
        for seat in range((-tick) % every, len(seats), every):
            kept[seat].append(observation[seat].copy())
        observation, _, done, step = env.step(actions)
        bill += step.bill_usd / step.reference_usd
        missed += step.charged.sum(axis=-1)
        tick += 1
    fewest = min(len(own) for own in kept)
    seen = np.stack([own[i] for own in kept for i in range(fewest)])
    shape = (n_worlds, n_constants)
    return (
        (bill / tick).reshape(shape),
        (missed / tick).reshape(shape),
        seen.reshape(n_worlds, n_constants * fewest, -1),
    )


def in_turn(episodes: Sequence[Episode]) -> EpisodeSource:
    """A source that hands out these episodes one after another, whatever the seed."""
    left: Iterator[Episode] = iter(episodes)
    return lambda _: next(left)
