"""Composes environments: the world of `env` with the planner and the rule of `agents`."""

from __future__ import annotations

from collections.abc import Sequence

from ..agents.blend import rules_of
from ..agents.planner.solving.together import PlansTogether
from ..agents.portfolio import make_rule, portfolio_of
from ..env.cluster_env import ClusterEnv, VectorClusterEnv
from ..env.scenario import load_scenario
from ..env.spaces import SpaceLayout
from .worlds import TrainingWorlds, Variation

DEFAULT_SCENARIO = "mixed-chat"
RANDOM = "random"
"""Stands for clusters drawn at random, in place of a scenario's name."""

BANK = 1024
"""Different worlds that a training run meets (see `TrainingWorlds.bank`)."""


def training_worlds(
    names: Sequence[str],
    varied: bool = True,
    bank: int = 0,
    bank_seed: int = 0,
    quickly: bool = False,
    difficulty: float = 1.0,
) -> TrainingWorlds:
    """Episodes of the named scenarios (shipped names or paths); `varied` off keeps their own figures.

    The name `random`, as often as any other name, is a cluster drawn at random, of this difficulty.
    """
    still = Variation(load=0.0, price=0.0, cold_start=0.0, target=0.0, drop_pool=0.0)
    scenarios = [load_scenario(name) for name in names if name != RANDOM]
    return TrainingWorlds(
        scenarios,
        Variation() if varied else still,
        bank,
        bank_seed,
        quickly,
        random_frac=list(names).count(RANDOM) / len(names),
        difficulty=difficulty,
    )


def make_cluster_env(scenario: str = DEFAULT_SCENARIO, varied: bool = True) -> ClusterEnv:
    """The environment behind `gymnasium.make("poolpilot/Cluster-v1", scenario=...)`."""
    worlds = training_worlds([scenario], varied)
    check_room(worlds, SpaceLayout())
    return ClusterEnv(worlds, max(worlds.ticks_s), rules_of(portfolio_of(), make_rule))


def make_vector_env(
    names: Sequence[str],
    n_clusters: int,
    seed: int,
    varied: bool = True,
    bank: int = BANK,
    layout: SpaceLayout | None = None,
    threads: int | None = None,
    difficulty: float = 1.0,
) -> VectorClusterEnv:
    """Many clusters of the named scenarios (or `random` ones) in one batch, for training; all must have the same tick.

    Two things differ from evaluation, for speed: worlds come from a bank, and plans are made by compiled code.
    """
    worlds = training_worlds(names, varied, bank, seed, quickly=True, difficulty=difficulty)
    return vector_env_of(worlds, n_clusters, seed, layout, threads)


def vector_env_of(
    worlds: TrainingWorlds,
    n_clusters: int,
    seed: int,
    layout: SpaceLayout | None = None,
    threads: int | None = None,
) -> VectorClusterEnv:
    """Many clusters of worlds that are planned for quickly (`TrainingWorlds.quickly`).

    Raises:
        ValueError: the scenarios do not have one and the same tick.
        SpaceError: one has more classes or pools than the observation has room for.
    """
    check_room(worlds, layout or SpaceLayout())
    ticks = worlds.ticks_s
    if len(ticks) != 1:
        names = ", ".join(scenario.name for scenario in worlds.scenarios)
        raise ValueError(f"scenarios {names} have ticks of {sorted(ticks)} s; wanted one and the same")
    return VectorClusterEnv(
        worlds,
        n_clusters,
        max(ticks),
        rules_of(portfolio_of(), make_rule),
        layout or SpaceLayout(),
        seed,
        make_planning=PlansTogether,
        threads=threads,
    )


def check_room(worlds: TrainingWorlds, layout: SpaceLayout) -> None:
    """SpaceError if a named scenario is too large for the layout; random clusters never are."""
    for scenario in worlds.scenarios:
        layout.check(scenario.name, len(scenario.classes), len(scenario.pools))
