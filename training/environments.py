"""Composes environments: the world of `env` with the planner and the rule of `agents`."""

from __future__ import annotations

from collections.abc import Sequence

from ..agents.opponents.plan_tracking import PlanTracking
from ..env.cluster_env import ClusterEnv, VectorClusterEnv
from ..env.scenario import load_scenario
from ..env.spaces import SpaceLayout
from .worlds import TrainingWorlds, Variation

DEFAULT_SCENARIO = "mixed-chat"


def training_worlds(names: Sequence[str], varied: bool = True) -> TrainingWorlds:
    """Episodes of the named scenarios (shipped names or paths); `varied` off keeps their own figures."""
    still = Variation(load=0.0, price=0.0, cold_start=0.0, target=0.0, drop_pool=0.0)
    return TrainingWorlds([load_scenario(name) for name in names], Variation() if varied else still)


def make_cluster_env(scenario: str = DEFAULT_SCENARIO, varied: bool = True) -> ClusterEnv:
    """The environment behind `gymnasium.make("poolpilot/Cluster-v0", scenario=...)`."""
    worlds = training_worlds([scenario], varied)
    return ClusterEnv(worlds, worlds.scenarios[0].tick_s, PlanTracking)


def make_vector_env(names: Sequence[str], n_clusters: int, seed: int, varied: bool = True) -> VectorClusterEnv:
    """Many clusters of the named scenarios in one batch; all must have the same tick."""
    worlds = training_worlds(names, varied)
    ticks = {scenario.tick_s for scenario in worlds.scenarios}
    if len(ticks) != 1:
        raise ValueError(f"scenarios {', '.join(names)} have ticks of {sorted(ticks)} s; wanted one and the same")
    return VectorClusterEnv(worlds, n_clusters, ticks.pop(), PlanTracking, SpaceLayout(), seed)
