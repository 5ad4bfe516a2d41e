"""A plan with everything that is told of it: figures only, for tables, JSON and files alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from ...agents.planner.composition import Composition, Option, Problem
from ...agents.planner.explaining.expected_bill import Running, expected_bill
from ...agents.planner.explaining.explain import (
    NotChosen,
    PlannedClass,
    PlannedPool,
    Rent,
    not_chosen,
    planned_classes,
    planned_pools,
    rent_of,
)
from ...agents.planner.explaining.sensitivity import Sensitivity
from ...agents.planner.fleet import chosen, class_shares
from ...agents.planner.written import pool_names
from ...env.catalog.models import model
from ...env.catalog.quality import quality_frac
from ...env.contract import Bill
from ...env.market.offers import stale
from ...env.perf.coverage import Coverage, pipeline_coverage
from ...env.perf.law import IterationLaw
from ...env.scenario import Scenario
from ...env.scenario.pools import Engine


@dataclass(frozen=True)
class Kept:
    """What is left of a model's quality in the precisions that serve a class, as shares of the 16-bit score."""

    mean_frac: float
    """Weighted by the class's routing."""
    least_frac: float
    """Of the worst of its pools, benchmarks taken together."""
    worst_benchmark_frac: float
    """Of the worst of its pools on the worst benchmark."""
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A plan, explained."""

    scenario: Scenario
    """With what is asked in place."""
    problem: Problem
    composition: Composition
    names: tuple[str, ...]
    """`O` of pools, by option."""
    pools: tuple[PlannedPool, ...]
    classes: tuple[PlannedClass, ...]
    rent: Rent
    bill: Bill
    """An hour's, by the pools in the order of the options, expected at the planned load."""
    running: dict[str, Running]
    """How a replica of each pool runs at the planned load."""
    quality: dict[str, Kept]
    """By class that is served."""
    left_out: tuple[NotChosen, ...]
    warnings: tuple[str, ...]
    sensitivity: Sensitivity | None = None
    """What would change the plan; None where nobody asked."""


def found(
    scenario: Scenario,
    problem: Problem,
    composition: Composition,
    today: date,
    max_age_days: int,
    sensitivity: Sensitivity | None = None,
) -> Found:
    """Everything that is told of a plan; `scenario` with what was asked in place."""
    names = pool_names(problem)
    bill, states = expected_bill(
        problem,
        composition,
        scenario.tariff(),
        scenario.network.bytes_per_token,
        law_of=lambda option: law_of(scenario, option),
        token_budget_of=lambda option: token_budget_of(scenario, option),
    )
    places = chosen(composition).tolist()
    running = {names[o]: state for o, state in zip(places, states, strict=True)}
    rented = [problem.offers[f] for f in np.flatnonzero(composition.units > 0)]
    own_prices = scenario.planning is None
    return Found(
        scenario=scenario,
        problem=problem,
        composition=composition,
        names=names,
        pools=planned_pools(problem, composition, names),
        classes=planned_classes(problem, composition, names, scenario.targets().attainment),
        rent=rent_of(problem, composition),
        bill=bill,
        running=running,
        quality=_quality(problem, composition, places),
        left_out=not_chosen(problem, composition),
        warnings=(
            *([] if own_prices else [f"prices: {line}" for line in stale(rented, today, max_age_days)]),
            *_coverage_warnings(scenario, problem, places, names, running),
        ),
        sensitivity=sensitivity,
    )


def engine_of(scenario: Scenario, option: Option) -> Engine:
    """The start flags of an option's replicas."""
    own = own_pool(scenario, option)
    if own is not None:
        return scenario.pools[own].engine
    return Engine() if scenario.planning is None else scenario.planning.engine


def own_pool(scenario: Scenario, option: Option) -> str | None:
    """The scenario's own pool that an option stands for, where it is planned over its pools."""
    return option.name if scenario.planning is None and option.name in scenario.pools else None


def law_of(scenario: Scenario, option: Option) -> IterationLaw:
    """The iteration law of an option's replicas: the measured one where a pool names a file."""
    own = own_pool(scenario, option)
    if own is not None:
        return scenario.pool_law(own)
    return option.layout.law(engine_of(scenario, option).max_num_batched_tokens)


def token_budget_of(scenario: Scenario, option: Option) -> int:
    """Tokens of a round of all batches in flight."""
    own = own_pool(scenario, option)
    batches = option.layout.pipeline_parallel if own is None else scenario.pools[own].batches_in_flight
    return engine_of(scenario, option).max_num_batched_tokens * batches


def coverage_of(scenario: Scenario, option: Option) -> Coverage:
    """What an option's law rests on."""
    own = own_pool(scenario, option)
    if own is not None:
        return scenario.pool_coverage(own)
    layout = option.layout
    return pipeline_coverage(layout.perf_stages(), model(layout.model), layout.precision)


def _quality(problem: Problem, composition: Composition, places: Sequence[int]) -> dict[str, Kept]:
    """By class that is served: what its pools' precisions keep."""
    shares = class_shares(problem, composition)
    kept: dict[str, Kept] = {}
    for c, name in enumerate(problem.demand.class_names):
        serving = [o for o in places if shares[c, o] > 1e-9]
        layouts = [problem.options[o].layout for o in serving]
        known = [quality_frac(layout.model, layout.precision) for layout in layouts]
        if known:
            weights = shares[c, serving] / shares[c, serving].sum()
            kept[name] = Kept(
                mean_frac=float(weights @ [quality.frac for quality in known]),
                least_frac=min(quality.frac for quality in known),
                worst_benchmark_frac=min(quality.low for quality in known),
                sources=tuple(dict.fromkeys(quality.source for quality in known)),
            )
    return kept


def _coverage_warnings(
    scenario: Scenario,
    problem: Problem,
    places: Sequence[int],
    names: Sequence[str],
    running: dict[str, Running],
) -> list[str]:
    """Pools whose speed is not measured on their GPU, or not at the load that they are planned for."""
    said = []
    for o in places:
        name, state = names[o], running[names[o]]
        known = coverage_of(scenario, problem.options[o])
        if not known.calibrated:
            said.append(
                f"{name}: speed of {known.gpu} in {known.precision} is not calibrated, taken from relatives"
                f" ({'; '.join(known.borrowed)}); measure yours with poolpilot profile"
            )
        elif state.sequences > 0 and not known.inside(state.sequences, state.sequences, state.context_tokens).all():
            said.append(
                f"{name}: planned to run {state.sequences:.3g} sequences of {state.context_tokens:.0f} tokens, outside what"
                f" was measured on {known.gpu} ({_range(known.sequences)} sequences, {_range(known.context_tokens)} tokens):"
                " an extrapolation"
            )
    return said


def _range(ends: tuple[float, float]) -> str:
    low, high = ends
    return "none" if low > high else f"{low:.0f} to {high:.0f}"
