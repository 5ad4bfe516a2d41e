"""Which worlds are for what: days to tune on and days that are scored never overlap, nor do those trained on."""

from __future__ import annotations

from typing import Final

from ..env.batch import Episode
from ..env.scenario import Scenario
from .worlds import episode_of

TUNING_SEED: Final = 1_000_000
"""Seeds from here on are for tuning; those scored are below."""
TUNING_DAYS: Final = 3
CHOOSING_SEED: Final = 2_000_000
"""Seeds from here on choose a run's best checkpoint and its price of a miss."""


def tuning_episodes(scenario: Scenario, days: int = TUNING_DAYS) -> list[Episode]:
    """Days of the scenario that are never scored; planned for quickly."""
    return [episode_of(scenario, TUNING_SEED + i, miss_price=1.0, quickly=True) for i in range(days)]


def scored_episodes(scenario: Scenario, seeds: int, quickly: bool = False) -> list[Episode]:
    """The days that are scored: seeds 0, 1, 2, ..."""
    return [scored_episode(scenario, seed, quickly) for seed in range(seeds)]


def scored_episode(scenario: Scenario, seed: int, quickly: bool = False) -> Episode:
    """One of them."""
    return episode_of(scenario, seed, miss_price=1.0, quickly=quickly)
