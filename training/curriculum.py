"""From easy worlds to hard ones: what is open to a run after so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..env.batch import Episode
from ..env.cluster_env import EpisodeSource

LEVELS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.3)
"""Difficulties that worlds are drawn at (`training.clusters`). Few, so that each level's bank is met often enough. The last
is livelier than what rules are tuned on: a policy that has met rougher days than those it is chosen on carries over better."""
EASIEST_OPEN: Final = 0.25
"""Open at the first step: quite steady worlds alone would teach that head-room is waste."""


def difficulty_after(steps: int, full_after: int) -> float:
    """The hardest difficulty that is open after `steps`, never less than it was.

    Grows evenly from `EASIEST_OPEN`, and everything is open from `full_after` steps on (at once if that is 0).
    """
    if steps >= full_after:
        return LEVELS[-1]
    return EASIEST_OPEN + (LEVELS[-1] - EASIEST_OPEN) * max(steps, 0) / full_after


@dataclass
class LevelledWorlds:
    """An `EpisodeSource` of which the harder part opens as training goes on."""

    levels: Mapping[float, EpisodeSource]
    """By difficulty, where its worlds come from."""
    tick_s: float
    """Of all of them."""
    hardest: float = LEVELS[-1]
    """Levels up to here are open; the easiest always is."""

    @property
    def open_levels(self) -> list[float]:
        """Their difficulties, easiest first."""
        known = sorted(self.levels)
        return [level for level in known if level <= self.hardest + 1e-9] or known[:1]

    def __call__(self, seed: int) -> Episode:
        """The episode of a seed: every second one from the hardest open level, the others from any.

        Easy worlds stay in: on a steady day the policy must not lose what it has learned for bad ones.
        """
        levels = self.open_levels
        rng = np.random.default_rng(seed)
        level = levels[-1] if rng.random() < 0.5 else levels[int(rng.integers(len(levels)))]
        return self.levels[level](int(rng.integers(2**62)))
