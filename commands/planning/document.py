"""A plan as one JSON document. Its fields are described in `docs/plan-command.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np

from ...agents.planner.explaining.conflict import Conflict
from ...agents.planner.explaining.explain import PlannedPool
from ...agents.planner.explaining.sensitivity import Sensitivity
from ...agents.planner.fleet import chosen
from ...env.contract import BILL_LAYERS
from .asked import Asked
from .compared import Rival
from .found import Found, engine_of
from .frontier import Point
from .serving import Serving
from .simulated import Simulated

SCHEMA = 1
"""Of the document: counts up when a field changes its meaning or goes."""


def plan_document(
    found: Found,
    asked: Asked,
    commands: Mapping[str, Serving] | None = None,
    rivals: Sequence[Rival] | None = None,
    points: Sequence[Point] | None = None,
    simulated: Simulated | None = None,
) -> dict[str, Any]:
    """All that is told of a plan. What was not asked for is left out."""
    composition, problem = found.composition, found.problem
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "scenario": found.scenario.name,
        "asked": asked_record(asked),
        "headroom": problem.wishes.headroom,
        "objective": composition.objective,
        "usd_per_hr": composition.usd_per_hr,
        "bound": composition.bound,
        "gap_frac": composition.gap,
        "proven": composition.proven,
        "solve_s": composition.solve_s,
        "pools": [_pool(found, pool) for pool in found.pools],
        "units": _units(found),
        "classes": [{**asdict(c), "quality": _kept(found, c.name)} for c in found.classes],
        "rent": {**asdict(found.rent), "usd_per_hr": found.rent.usd_per_hr},
        "bill_usd_per_hr": {layer: float(found.bill.layer_usd(layer)) for layer in BILL_LAYERS},
        "limits": [
            {"limit": b.kind, "of": b.subject, "used": b.used, "most": b.limit, "unit": b.unit, "binds": b.tight}
            for b in composition.bounds
        ],
        "sensitivity": None if found.sensitivity is None else _sensitivity(found.sensitivity),
        "not_chosen": [asdict(entry) for entry in found.left_out],
        "warnings": list(found.warnings),
        "notes": list(dict.fromkeys(problem.notes)),
        "plan": contract_plan(found),
    }
    if commands is not None:
        document["commands"] = {name: serving.record() for name, serving in commands.items()}
    if rivals is not None:
        document["compared"] = [asdict(rival) for rival in rivals]
    if points is not None:
        document["frontier"] = [point.record() for point in points]
    if simulated is not None:
        document["simulated"] = {**asdict(simulated), "reached": simulated.reached}
    return document


def asked_record(asked: Asked) -> dict[str, Any]:
    """What was asked for."""
    record = {**asdict(asked), "price_usd_per_gpu_hr": dict(asked.price_usd_per_gpu_hr)}
    record["prices"] = None if asked.prices is None else str(asked.prices)
    return record


def infeasible_document(scenario: str, asked: Asked, conflict: Conflict | None, notes: Sequence[str]) -> dict[str, Any]:
    """Instead of a plan: which limits clash and what would have to give; null where time ran out to tell."""
    return {
        "schema": SCHEMA,
        "scenario": scenario,
        "asked": asked_record(asked),
        "infeasible": None if conflict is None else {**asdict(conflict), "lines": list(conflict.lines)},
        "notes": list(notes),
    }


def _sensitivity(sensitivity: Sensitivity) -> dict[str, Any]:
    record = asdict(sensitivity)
    record.pop("binding")  # stand under `limits`
    return record


def contract_plan(found: Found) -> dict[str, Any]:
    """The contract's plan (`env.contract.Plan`) over the pools of this plan, with their names and the classes'."""
    places, problem = chosen(found.composition), found.problem
    pools = [found.names[o] for o in places]
    return {
        "pool_names": pools,
        "class_names": [c.name for c in found.classes],
        "replicas": found.composition.replicas[places].tolist(),
        "route": [_row([c.shares.get(pool, 0.0) for pool in pools]) for c in found.classes],
        "batch_cap": [float(engine_of(found.scenario, problem.options[o]).max_num_seqs) for o in places],
        "capacity_per_s": [[c.capacity_per_s.get(pool, 0.0) for pool in pools] for c in found.classes],
        "load_per_s": [c.rate_per_s * problem.wishes.headroom for c in found.classes],
        "usd_per_hr": found.composition.usd_per_hr,
        "attainment": [c.attainment for c in found.classes],
    }


def _row(shares: Sequence[float]) -> list[float]:
    total = sum(shares)
    return [share / total if total > 0 else 0.0 for share in shares]


def _pool(found: Found, pool: PlannedPool) -> dict[str, Any]:
    state = found.running[pool.name]
    day = pool.price_as_of
    return {
        **asdict(pool),
        "price_as_of": day.isoformat() if isinstance(day, date) else None,
        "expected": {
            "requests_per_s": state.requests_per_s,
            "sequences": state.sequences,
            "busy_frac": state.busy_frac,
            "useful_frac": state.useful_frac,
            "tokens_per_s": state.tokens_per_s,
        },
    }


def _units(found: Found) -> list[dict[str, Any]]:
    """What is rented, by offer."""
    units = found.composition.units
    rows = []
    for f in np.flatnonzero(units > 0.5).tolist():
        offer = found.problem.offers[f]
        record = {**asdict(offer), "as_of": offer.as_of.isoformat() if offer.as_of else None}
        rows.append({**record, "units": round(float(units[f])), "rent_usd_per_hr": float(units[f]) * offer.usd_per_hr})
    return rows


def _kept(found: Found, name: str) -> dict[str, Any] | None:
    kept = found.quality.get(name)
    return None if kept is None else asdict(kept)
