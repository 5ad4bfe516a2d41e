"""What is asked of a whole fleet when it is planned again: budget, spot share, floors.

Symbols: `C` classes, `P` pools, `M` models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...env.contract import BoolArray, Cluster, FloatArray, Plan
from ...env.scenario import Scenario
from .solving.formulation import Limit
from .solving.program import Program

__all__ = ["FleetWishes", "fleet_limits", "keeps", "wishes_of"]

_SPARE = 1e-6


@dataclass(frozen=True, eq=False)
class FleetWishes:
    """Limits over several pools; each pool's own counts stand in the cluster."""

    models: BoolArray
    """`[M, P]` which pools hold which model."""
    budget_usd_per_hr: float = np.inf
    max_spot_share: float = 1.0
    """Of each class's requests."""
    min_on_demand_replicas: int = 0
    """Of each model."""
    min_replicas: int = 0
    """Of each model."""


def wishes_of(scenario: Scenario) -> FleetWishes | None:
    """What a scenario asks of its fleet, and the guard's budget; None if nothing."""
    fleet, planning = scenario.asked_of_fleet, scenario.planning
    held = [scenario.pool_model(name).name for name in scenario.pools]
    models = np.array([[name == model for name in held] for model in dict.fromkeys(held)], dtype=np.bool_)
    budgets = [scenario.guard.budget_usd_per_hr, None if planning is None else planning.budget_usd_per_hr]
    budget = min((usd for usd in budgets if usd is not None), default=np.inf)
    if fleet is None:
        return None if budget == np.inf else FleetWishes(models, budget)
    return FleetWishes(models, budget, fleet.max_spot_share, fleet.min_on_demand_replicas, fleet.min_replicas)


def fleet_limits(wishes: FleetWishes, cluster: Cluster, program: Program, load_per_s: FloatArray) -> Iterator[Limit]:
    """The limits of one cluster's program, each as far as its pools can keep it.

    Args:
        load_per_s: `[C]` planned for; a class without load has no spot share.
    """
    if wishes.budget_usd_per_hr < np.inf:
        # What the least counts cost is spent in any case.
        budget = max(wishes.budget_usd_per_hr, float(program.usd_per_hr @ program.low))
        yield Limit("budget", "", "$/h", True, budget, -1, 0.0, counts=program.usd_per_hr)
    if wishes.max_spot_share < 1.0 and cluster.spot.any():
        for c in np.flatnonzero(load_per_s > 0.0).tolist():
            every = np.zeros(program.work.shape)
            every[c] = 1.0
            most, spot = wishes.max_spot_share, every * cluster.spot
            yield Limit(
                "spot share", cluster.class_names[c], "of requests", True, most, c, 0.0, shares=spot, shares_of=every
            )
    for counted, least in _floors(wishes, cluster):
        floor = min(float(least), float(program.high @ counted))
        yield Limit("replica floor", "", "replicas", False, floor, -1, 1.0, counts=counted.astype(np.float64))


def keeps(wishes: FleetWishes, cluster: Cluster, plan: Plan, usd_per_hr: FloatArray) -> bool:
    """Whether a plan made without the wishes keeps to them: then it is the cheapest with them too."""
    if plan.replicas @ usd_per_hr > wishes.budget_usd_per_hr + _SPARE:
        return False
    spot = (plan.route * cluster.spot).sum(axis=-1)
    if (spot[plan.load_per_s > 0.0] > wishes.max_spot_share + _SPARE).any():
        return False
    return all(
        plan.replicas @ counted >= min(float(least), float(cluster.max_replicas @ counted)) - _SPARE
        for counted, least in _floors(wishes, cluster)
    )


def _floors(wishes: FleetWishes, cluster: Cluster) -> Iterator[tuple[BoolArray, int]]:
    """`[P]` the pools that count, and how many replicas of them there must be."""
    for held in wishes.models:
        if wishes.min_on_demand_replicas:
            yield held & ~cluster.spot, wishes.min_on_demand_replicas
        if wishes.min_replicas:
            yield held, wishes.min_replicas
