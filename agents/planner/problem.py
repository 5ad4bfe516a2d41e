"""From a scenario to the problem that the planner solves: what may be rented, or else the pools that it has.

Symbols: `C` classes, `B` buckets, `P` pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ...env.catalog.models import model
from ...env.catalog.quality import quality_frac
from ...env.contract import Targets
from ...env.market.offers import Offer
from ...env.market.rentable import rentable
from ...env.scenario import Scenario
from ...env.scenario.fleet import Fleet
from ...env.scenario.planning import Planning
from ...env.scenario.pools import Engine
from ...env.workload.fitting import cut_to, fitted, tokens_held
from ...env.workload.requests import Workload
from .carrying import carried, replica_of
from .composition import Option, Problem, Wishes
from .demand import Demand, Edges, demand_of
from .layouts.layout import Layout, LayoutStage, Survey, survey_layouts
from .layouts.partition import USUAL_LOAD, Flags, Load
from .options import Asked, options_of, why_nobody

__all__ = ["asked_of", "layout_of_pool", "problem_of"]

OWN_POOLS = "pool"
"""Provider of the offers that stand for a scenario's own pools."""
_REASONS = 4
"""How many layouts are named that cannot serve a bucket nobody serves."""


def problem_of(
    scenario: Scenario,
    workload: Workload,
    *,
    load: Literal["peak", "mean"] = "peak",
    buckets: int | Edges = 1,
    attainment: float | None = None,
    headroom: float | None = None,
    budget_usd_per_hr: float | None = None,
    offers: Sequence[Offer] | None = None,
) -> Problem:
    """The problem of a scenario: what its section `planning` lets be rented, or else its own pools.

    Without `planning` each pool is one option with an offer of its own: a unit is a replica, at the pool's price, and as
    many can be had as the pool may have. Requests are cut to what every pool of their class takes, as in the simulator.

    Args:
        workload: requests of a whole run, which tell rates and lengths.
        load: for the mean load, or for the minute that 5 % exceed.
        buckets: per class, at most so many; or where they begin.
        attainment: in place of what each class wants.
        headroom: in place of the scenario's.
        budget_usd_per_hr: in place of the scenario's.
        offers: in place of those of `planning`, such as with other prices or without a GPU.

    Raises:
        ValueError: an attainment outside (0, 1), or prices that cannot be used; one line.
    """
    asked = asked_of(scenario, attainment)
    if scenario.planning is None:
        return _own_pools(scenario, workload, asked, load, buckets, headroom, budget_usd_per_hr)
    planning = scenario.planning
    market = rentable(planning, scenario.base_dir)
    available = market.offers if offers is None else tuple(offers)
    if planning.max_spot_share == 0.0:
        available = tuple(offer for offer in available if offer.kind != "spot")
    limit = np.full(len(scenario.classes), planning.engine.max_model_len)
    demand = demand_of(cut_to(workload, limit), scenario.duration_s, load=load, buckets=buckets)
    surveys = [
        _survey(planning, name, available, load_of(demand, asked.models, name, planning.engine))
        for name in dict.fromkeys(asked.models)
    ]
    layouts = [layout for survey in surveys for layout in survey.layouts]
    options = options_of(layouts, available, demand, asked, planning.engine, quality=_quality)
    notes = [*(market.notes if offers is None else ()), *(note for survey in surveys for note in survey.notes)]
    for b, reasons in why_nobody(layouts, demand, asked, planning.engine, options, quality=_quality).items():
        told = [f"{name}: {why}" for name, why in reasons.items()][:_REASONS]
        notes.append(f"nobody can serve {demand.label(b)}: {'; '.join(told) or 'no layout fits on the GPUs offered'}")
    budget = budget_usd_per_hr or planning.budget_usd_per_hr or scenario.guard.budget_usd_per_hr
    wishes = Wishes(
        budget_usd_per_hr=budget,
        max_spot_share=planning.max_spot_share,
        min_on_demand_replicas=planning.min_on_demand_replicas,
        min_replicas=planning.min_replicas,
        headroom=planning.headroom if headroom is None else headroom,
        route_by_length=planning.route_by_length,
    )
    return Problem(available, options, demand, wishes, market.stock, tuple(notes))


def asked_of(scenario: Scenario, attainment: float | None = None) -> Asked:
    """What a scenario's classes ask for; `attainment` replaces what each wants. ValueError if it cannot be planned for."""
    targets: Targets = scenario.targets()
    if attainment is not None:
        if not 0.0 < attainment < 1.0:
            raise ValueError(f"attainment: {attainment:g}, wanted a share above 0 and below 1")
        targets = replace(targets, attainment=np.full_like(targets.attainment, attainment))
    return Asked(
        models=tuple(model(requests.model or scenario.model).name for requests in scenario.classes.values()),
        targets=targets,
        quality_floor=tuple(scenario.quality_floor(name) for name in scenario.classes),
    )


def load_of(demand: Demand, models: Sequence[str], model_name: str, engine: Engine) -> Load:
    """What pipelines of a model are split for: the mean of its classes' requests (`models` `[C]` says whose they are),
    as many at a time as the engine takes."""
    weight = demand.rate_per_s * [models[c] == model_name for c in demand.class_index]
    if not weight.sum() > 0:
        return replace(USUAL_LOAD, sequences=engine.max_num_seqs)
    means = (float(np.average(lengths, weights=weight)) for lengths in (demand.prompt_tokens, demand.output_tokens))
    return Load(engine.max_num_seqs, *means)


def _survey(planning: Planning, model_name: str, offers: Sequence[Offer], load: Load) -> Survey:
    engine = planning.engine
    machine_gpus: dict[str, int] = {}
    for offer in offers:
        machine_gpus[offer.gpu] = max(machine_gpus.get(offer.gpu, 0), offer.machine_gpus)
    return survey_layouts(
        model_name,
        list(machine_gpus),
        planning.precisions,
        max_tensor_parallel=planning.max_tensor_parallel,
        max_stages=planning.max_pipeline_stages,
        mixed=planning.mixed_pipelines,
        machine_gpus=machine_gpus,
        load=load,
        # vLLM refuses to start where its cache does not hold the longest request it may get.
        flags=Flags(engine.max_num_batched_tokens, engine.gpu_memory_utilization, engine.max_model_len),
    )


def _quality(model_name: str, precision: str) -> float:
    return quality_frac(model_name, precision).frac


def _own_pools(
    scenario: Scenario,
    workload: Workload,
    asked: Asked,
    load: Literal["peak", "mean"],
    buckets: int | Edges,
    headroom: float | None,
    budget_usd_per_hr: float | None,
) -> Problem:
    cluster = scenario.cluster()
    kv_tokens = np.array([float(scenario.pool_kv_tokens(name)) for name in scenario.pools])
    longest = np.array([float(pool.engine.max_model_len) for pool in scenario.pools.values()])
    cut = fitted(workload, cluster, tokens_held(kv_tokens, longest))
    demand = demand_of(cut, scenario.duration_s, load=load, buckets=buckets)
    offers: list[Offer] = []
    options: list[Option] = []
    for p, (name, pool) in enumerate(scenario.pools.items()):
        layout = layout_of_pool(scenario, name)
        replica = replica_of(scenario.pool_law(name), int(kv_tokens[p]), pool.engine, pool.batches_in_flight)
        serves = cluster.serves[:, p]
        own = carried(replica, demand, serves, asked.targets)
        barred = "the scenario keeps the class off this pool, or it holds another model"
        units = range(len(offers), len(offers) + len(layout.gpus))
        for card, count in layout.gpus.items():
            offers.append(
                Offer(
                    gpu=card,
                    usd_per_hr=pool.price.usd_per_hr * count / layout.gpu_count,
                    gpus=count,
                    machine_gpus=count,
                    kind=pool.price.kind,
                    provider=OWN_POOLS,
                    region=name,
                    stock=pool.replicas.max,
                    source=pool.price.source or "given: the scenario file",
                )
            )
        options.append(
            Option(
                name=name,
                layout=layout,
                offers=tuple(units),
                capacity_per_s=own.capacity_per_s,
                max_replicas=pool.replicas.max,
                min_replicas=pool.replicas.min,
                why_not=tuple(
                    barred if not serves[c] else why for c, why in zip(demand.class_index, own.why_not, strict=True)
                ),
            )
        )
    fleet = scenario.asked_of_fleet or Fleet()
    wishes = Wishes(
        budget_usd_per_hr=budget_usd_per_hr or scenario.guard.budget_usd_per_hr,
        max_spot_share=fleet.max_spot_share,
        min_on_demand_replicas=fleet.min_on_demand_replicas,
        min_replicas=fleet.min_replicas,
        headroom=fleet.headroom if headroom is None else headroom,
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
