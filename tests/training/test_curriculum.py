"""Hard worlds open as training goes on, and none closes again."""

import itertools
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.batch import Episode
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.config import TrainConfig
from poolpilot.training.curriculum import EASIEST_OPEN, LEVELS, LevelledWorlds, difficulty_after
from poolpilot.training.setting import training_env, training_sources
from poolpilot.training.warm_start import constant_output
from poolpilot.training.worlds import TrainingWorlds


@dataclass(frozen=True)
class Drawn:
    """Stands for an episode: which source was asked, with which seed."""

    level: float
    seed: int


def sources() -> LevelledWorlds:
    def source(level: float):  # type: ignore[no-untyped-def]
        return lambda seed: cast(Episode, Drawn(level, seed))

    return LevelledWorlds({level: source(level) for level in LEVELS}, tick_s=10.0)


def drawn(worlds: LevelledWorlds, seeds: int = 400) -> list[Drawn]:
    return [cast(Drawn, worlds(seed)) for seed in range(seeds)]


@given(st.integers(0, 10_000_000), st.integers(0, 10_000_000), st.integers(0, 1_000_000))
def test_difficulty_never_falls_and_stays_within_the_levels(a: int, b: int, full_after: int) -> None:
    low, high = (difficulty_after(steps, full_after) for steps in sorted((a, b)))
    assert 0.0 <= low <= high <= LEVELS[-1]


def test_everything_is_open_in_the_end_and_something_from_the_start() -> None:
    assert difficulty_after(0, 1000) == EASIEST_OPEN
    assert difficulty_after(500, 1000) == pytest.approx((LEVELS[-1] + EASIEST_OPEN) / 2.0)
    assert difficulty_after(1000, 1000) == difficulty_after(0, 0) == LEVELS[-1]


def test_worlds_harder_than_what_is_open_are_not_met() -> None:
    worlds = sources()
    seen = []
    for hardest in (0.0, 0.3, 0.74, 0.75, LEVELS[-1]):
        worlds.hardest = hardest
        levels = {one.level for one in drawn(worlds)}
        assert levels == {level for level in LEVELS if level <= hardest}
        seen.append(levels)
    assert all(before <= after for before, after in itertools.pairwise(seen))


def test_half_of_the_worlds_are_of_the_hardest_level_and_easy_ones_stay() -> None:
    worlds = sources()
    levels = np.array([one.level for one in drawn(worlds, 2000)])
    assert np.mean(levels == LEVELS[-1]) == pytest.approx(0.5 + 0.5 / len(LEVELS), abs=0.05)
    assert np.mean(levels == LEVELS[0]) == pytest.approx(0.5 / len(LEVELS), abs=0.05)


def test_a_seed_is_a_world() -> None:
    worlds = sources()
    assert drawn(worlds, 20) == drawn(worlds, 20)
    assert len({one.seed for one in drawn(worlds, 20)}) == 20


def test_a_run_on_random_clusters_has_worlds_of_every_level_and_half_of_its_bank_in_the_hardest() -> None:
    config = TrainConfig(clusters=4, bank=24)
    worlds = training_sources(config)
    banks = {level: cast(TrainingWorlds, source).bank for level, source in worlds.levels.items()}
    assert set(banks) == set(LEVELS)
    assert min(banks.values()) >= 1
    assert sum(banks.values()) == config.bank
    assert banks[LEVELS[-1]] >= config.bank / 2
    env = training_env(config, worlds)
    seen = env.reset()
    assert len({own.tobytes() for own in seen}) == 4, "the same cluster twice"
    for _ in range(3):
        seen, reward, _, _ = env.step(np.tile(constant_output(SpaceLayout(), 0, 0.0), (4, 1)))
        assert np.isfinite(seen).all()
        assert np.isfinite(reward).all()
