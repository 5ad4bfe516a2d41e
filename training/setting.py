"""Sets a training run up: where its worlds come from, and the environments that it learns and looks back in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..agents.blend import Portfolio, rules_of
from ..agents.planner.solving.together import PlansTogether
from ..agents.portfolio import make_rule
from ..env.bending import Bending
from ..env.cluster_env import BendingFactory, EpisodeSource, VectorClusterEnv
from ..env.spaces import SpaceLayout
from .baseline import with_baselines
from .config import Acting, TrainConfig
from .curriculum import LEVELS, LevelledWorlds
from .environments import RANDOM, check_room, training_worlds
from .free import FreeActing
from .worlds import TrainingWorlds


def training_sources(config: TrainConfig) -> LevelledWorlds:
    """The worlds of a run, level by level; half of the bank is for the hardest.

    Raises:
        ValueError: a scenario cannot be read, has too many classes or pools, or another tick than the others.
    """
    # Only random clusters have a difficulty.
    levels = LEVELS if RANDOM in config.scenarios else (1.0,)
    easier = config.bank // (2 * max(len(levels) - 1, 1))
    banks = {level: max(easier, 1) for level in levels[:-1]}
    banks[levels[-1]] = config.bank - sum(banks.values())
    worlds = training_worlds(config.scenarios, bank_seed=config.seed, quickly=True)
    check_room(worlds, SpaceLayout())
    if len(worlds.ticks_s) != 1:
        raise ValueError(
            f"scenarios {', '.join(config.scenarios)} have ticks of {sorted(worlds.ticks_s)} s; wanted one and the same"
        )
    sources = {level: replace(worlds.at(level), bank=bank) for level, bank in banks.items()}
    return LevelledWorlds(sources, max(worlds.ticks_s))


def training_env(config: TrainConfig, worlds: LevelledWorlds) -> VectorClusterEnv:
    """The clusters that a run learns in, side by side."""
    return VectorClusterEnv(
        worlds,
        config.clusters,
        worlds.tick_s,
        rules_of(config.portfolio, make_rule),
        SpaceLayout(),
        config.seed,
        make_planning=PlansTogether,
        make_bending=bending_of(config.acting),
    )


def still_env(draw: EpisodeSource, n_clusters: int, tick_s: float, portfolio: Portfolio) -> VectorClusterEnv:
    """Clusters that are lived through once: none is replaced when it ends."""
    return VectorClusterEnv(
        draw,
        n_clusters,
        tick_s,
        rules_of(portfolio, make_rule),
        SpaceLayout(),
        restart=False,
        make_planning=PlansTogether,
    )


def measure_baselines(
    config: TrainConfig, worlds: LevelledWorlds, on_world: Callable[[int], None] | None = None
) -> None:
    """Draw the whole bank of a run, and keep with each world what the first rule costs in it (see `baseline`)."""

    def env_of(draw: EpisodeSource, n_clusters: int) -> VectorClusterEnv:
        return still_env(draw, n_clusters, worlds.tick_s, config.portfolio)

    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if on_world:
            on_world(done)

    for source in worlds.levels.values():
        if isinstance(source, TrainingWorlds):
            with_baselines(source, env_of, count)


def bending_of(acting: Acting) -> BendingFactory:
    """What outputs are turned into actions by."""
    return FreeActing if acting == "free" else Bending
