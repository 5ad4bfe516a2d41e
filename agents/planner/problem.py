"""From a scenario to the problem that the planner solves.

Symbols: `C` classes, `B` buckets, `P` pools.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from ...env.contract import Targets
from ...env.market.offers import Offer
from ...env.scenario import Scenario
from ...env.workload.fitting import fitted, tokens_held
from ...env.workload.requests import Workload
from .carrying import carried, replica_of
from .composition import Option, Problem, Wishes
from .demand import Edges, demand_of
from .layouts import Layout, LayoutStage

__all__ = ["asked_targets", "layout_of_pool", "problem_of"]

HEADROOM = 1.1
"""Where a scenario names none: bursts within a minute, and the error of the performance model."""


def asked_targets(scenario: Scenario, attainment: float | None) -> Targets:
    """The classes' targets; `attainment` replaces what each class wants."""
    targets = scenario.targets()
    if attainment is None:
        return targets
    if not 0.0 < attainment < 1.0:
        raise ValueError(f"attainment: {attainment:g}, wanted a share above 0 and below 1")
    return replace(targets, attainment=np.full_like(targets.attainment, attainment))


def problem_of(
    scenario: Scenario,
    workload: Workload,
    *,
    load: Literal["peak", "mean"] = "peak",
    buckets: int | Edges = 1,
    attainment: float | None = None,
    headroom: float | None = None,
    budget_usd_per_hr: float | None = None,
) -> Problem:
    """The problem whose options are the scenario's pools: how many replicas of each, and who is served where.

    Each pool is one option with an offer of its own: a unit is a replica, at the pool's price, and as many can be had as
    the pool may have. Requests are cut to what every pool of their class takes, as in the simulator.
    """
    cluster, targets = scenario.cluster(), asked_targets(scenario, attainment)
    kv_tokens = np.array([float(scenario.pool_kv_tokens(name)) for name in scenario.pools])
    longest = np.array([float(pool.engine.max_model_len) for pool in scenario.pools.values()])
    cut = fitted(workload, cluster, tokens_held(kv_tokens, longest))
    demand = demand_of(cut, scenario.duration_s, load=load, buckets=buckets)
    offers: list[Offer] = []
    options: list[Option] = []
    for p, (name, pool) in enumerate(scenario.pools.items()):
        layout = layout_of_pool(scenario, name)
        replica = replica_of(scenario.pool_law(name), int(kv_tokens[p]), pool.engine, pool.batches_in_flight)
        rates, why_not = carried(replica, demand, cluster.serves[:, p], targets)
        own = range(len(offers), len(offers) + len(layout.gpus))
        for card, count in layout.gpus.items():
            offers.append(
                Offer(
                    gpu=card,
                    usd_per_hr=pool.price.usd_per_hr * count / sum(layout.gpus.values()),
                    gpus=count,
                    machine_gpus=count,
                    kind=pool.price.kind,
                    provider="pool",
                    region=name,
                    stock=pool.replicas.max,
                    source=pool.price.source or "given: the scenario file",
                )
            )
        options.append(
            Option(
                name=name,
                layout=layout,
                offers=tuple(own),
                capacity_per_s=rates,
                max_replicas=pool.replicas.max,
                min_replicas=pool.replicas.min,
                why_not=tuple(
                    reason
                    or (
                        ""
                        if cluster.serves[c, p]
                        else "the scenario keeps the class off this pool, or it holds another model"
                    )
                    for c, reason in zip(demand.class_index, why_not, strict=True)
                ),
            )
        )
    wishes = Wishes(
        budget_usd_per_hr=budget_usd_per_hr or scenario.guard.budget_usd_per_hr,
        headroom=HEADROOM if headroom is None else headroom,
    )
    return Problem(tuple(offers), tuple(options), demand, wishes)


def layout_of_pool(scenario: Scenario, name: str) -> Layout:
    """How a replica of a pool lies over its GPUs."""
    stages = tuple(
        LayoutStage(
            stage.gpu.name,
            stage.layers,
            stage.tensor_parallel,
            None if stage.link_to_next is None else stage.link_to_next.name,
        )
        for stage in scenario.pool_stages(name)
    )
    return Layout(scenario.pool_model(name).name, scenario.pools[name].precision, stages)
