"""A plan as a scenario: its pools are the plan's, ready to simulate, evaluate and control.

Symbols: `O` options, `F` offers, `C` classes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError

from ...env.catalog.models import model
from ...env.contract import FloatArray
from ...env.market.offers import Offer
from ...env.one_line import first_problem, one_line
from ...env.scenario import Scenario
from ...env.scenario.fleet import Fleet
from ...env.scenario.market import Price, Spot
from ...env.scenario.pools import ColdStart, Engine, Pool, PoolStage, Replicas
from .composition import Composition, Option, Problem
from .fleet import class_shares, gpus_of_offers, pool_usd_per_hr, spot_options, usable

__all__ = ["PlanNotWritable", "planned_scenario", "pool_names", "scenario_yaml"]

SHARE_DIGITS = 6
"""Of a share in a file."""
USD_DIGITS = 6
"""Of a price in a file: a millionth of a dollar an hour."""
GROWTH = 2
"""A pool may grow to this many times the plan's count, as far as stock allows: room for a policy that scales."""
LONGEST_NAME = 63
"""Of a pool (`env.scenario.fields.Name`)."""


class PlanNotWritable(ValueError):
    """No scenario can hold this plan; the message is one line."""


def planned_scenario(scenario: Scenario, problem: Problem, composition: Composition, *, held: bool = False) -> Scenario:
    """The scenario with the plan's pools in place of what it had (or of its `planning` section).

    Counts to start with are the plan's, `classes.NAME.shares` its routing: the policy `held-plan` follows both to the
    letter. A pool's price holds its share of GPUs that are rented along and not used, so that the bill is the plan's.

    Args:
        scenario: what was planned for.
        problem: of that scenario.
        composition: the answer to the problem.
        held: counts that no policy can change, as the plan is judged by.

    Raises:
        PlanNotWritable: a class that is asked for is served by no pool, or there are too many pools.
    """
    names = pool_names(problem)
    places = [o for o in range(len(names)) if composition.replicas[o] > 0.5 or _own(scenario, problem.options[o])]
    rent = pool_usd_per_hr(problem, composition)
    floors = _floors(problem, composition)
    pools: dict[str, Pool] = {}
    for o in places:
        count = round(float(composition.replicas[o]))
        replicas = Replicas(min=count, max=max(count, 1), start=count) if held else None
        pools[names[o]] = _pool(scenario, problem, composition, o, rent[o], int(floors[o]), replicas)
    shares, fits = class_shares(problem, composition), usable(problem)
    classes = {}
    for c, (name, requests) in enumerate(scenario.classes.items()):
        may = [names[o] for o in places if (fits[c, o] or shares[c, o] > 0) and _allowed(requests.pools, names[o])]
        if not may:
            raise PlanNotWritable(
                f"classes.{name}: the plan has no pool for it, so that no scenario can hold the plan; raise the budget,"
                " or plan without --goodput"
            )
        own = _rounded({names[o]: float(shares[c, o]) for o in places if names[o] in may})
        # Where every pool with its model may serve a class, the file need not say so.
        everywhere = {n for n, pool in pools.items() if _same_model(pool, requests.model, scenario)} == set(may)
        limited = requests.pools if everywhere else tuple(may)
        classes[name] = requests.model_copy(update={"shares": own, "pools": limited})
    update: dict[str, Any] = {
        "name": scenario.name if scenario.name.endswith("-planned") else f"{scenario.name}-planned",
        "summary": f"{scenario.summary.rstrip('.')}. Pools by poolpilot plan.",
        "pools": pools,
        "classes": classes,
        "planning": None,
        "fleet": _fleet(scenario, problem),
        "guard": _guard(scenario, problem, {n: sum((r.shares or {}).values()) for n, r in classes.items()}),
    }
    return _checked(scenario.model_copy(update=update))


def _checked(scenario: Scenario) -> Scenario:
    """The same, once it passes the checks that a file's would."""
    try:
        type(scenario).model_validate({**_document(scenario, scenario.base_dir), "base_dir": scenario.base_dir})
    except ValidationError as error:
        raise PlanNotWritable(one_line(f"the plan makes no scenario: {first_problem(error)}")) from None
    return scenario


def pool_names(problem: Problem) -> tuple[str, ...]:
    """`O` names of pools: those of the options, in what a pool's name may hold, each once."""
    names: list[str] = []
    for option in problem.options:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", option.name).strip("-._") or "pool"
        name, again = plain[:LONGEST_NAME], 2
        while name in names:
            name, again = f"{plain[: LONGEST_NAME - 4]}-{again}", again + 1
        names.append(name)
    return tuple(names)


def _own(scenario: Scenario, option: Option) -> Pool | None:
    """The scenario's own pool that an option stands for, where the scenario offers its pools."""
    return None if scenario.planning is not None else scenario.pools.get(option.name)


def _pool(
    scenario: Scenario,
    problem: Problem,
    composition: Composition,
    o: int,
    rent_usd_per_hr: float,
    floor: int,
    held: Replicas | None,
) -> Pool:
    """The pool of an option."""
    option, count = problem.options[o], round(float(composition.replicas[o]))
    own = _own(scenario, option)
    offers = [problem.offers[f] for f in option.offers]
    if own is not None:
        least, most = own.replicas.min, own.replicas.max
        replicas = held or Replicas(min=min(least, count), max=max(most, count), start=count)
        usd = own.price.usd_per_hr if not count else round(rent_usd_per_hr / count, USD_DIGITS)
        price = own.price if math.isclose(usd, own.price.usd_per_hr, rel_tol=1e-6) else _repriced(own.price, usd)
        return own.model_copy(update={"replicas": replicas, "price": price})
    kind = "spot" if any(offer.kind == "spot" for offer in offers) else "on_demand"
    planning, layout = scenario.planning, option.layout
    fields: dict[str, Any] = {
        "model": None if model(layout.model).name == model(scenario.model).name else layout.model,
        "precision": layout.precision,
        **_stages(option),
        "price": Price(usd_per_hr=round(rent_usd_per_hr / count, USD_DIGITS), kind=kind, source=_source(offers)),
        "replicas": held or Replicas(min=floor, max=_most(problem, composition, o, count), start=count),
        "engine": Engine() if planning is None else planning.engine,
        "cold_start": ColdStart() if planning is None else planning.cold_start,
    }
    if kind == "spot":
        fields["spot"] = Spot(preemptions_per_hr=sum(offer.preemptions_per_hr for offer in offers))
    usual = {name: field.default for name, field in Pool.model_fields.items()}
    return Pool(**{name: value for name, value in fields.items() if value != usual[name]})


def _repriced(price: Price, usd_per_hr: float) -> Price:
    """A pool's own price at another level, its moves along with it."""
    return price.scaled(usd_per_hr / price.usd_per_hr)


def _stages(option: Option) -> dict[str, Any]:
    """GPUs of a replica, as a pool says them: stage by stage where they differ, or are joined by links of their own."""
    stages = option.layout.stages
    first = stages[0]
    alike = all((s.gpu, s.tensor_parallel, s.link_to_next) == (first.gpu, first.tensor_parallel, None) for s in stages)
    if not alike:
        return {"stages": tuple(PoolStage(**_given(asdict(stage))) for stage in stages)}
    return {
        "gpu": first.gpu,
        "tensor_parallel": first.tensor_parallel,
        "pipeline_parallel": len(stages),
        "stage_layers": option.layout.layers if len(stages) > 1 else None,
    }


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _source(offers: Sequence[Offer]) -> str:
    """Where the prices were read, and when."""
    said = []
    for offer in offers:
        where = " ".join(part for part in (offer.provider, offer.region, offer.instance) if part)
        day = f"{offer.as_of:%Y-%m-%d}" if offer.as_of else ""
        said.append(", ".join(part for part in (where, offer.kind.replace("_", " "), day, offer.source) if part))
    return one_line("; ".join(dict.fromkeys(said)))


def _most(problem: Problem, composition: Composition, o: int, count: int) -> int:
    """Replicas that a pool may grow to: `GROWTH` times the plan's, within the option's limit and the stock left."""
    most = max(GROWTH * count, count + 1)
    option = problem.options[o]
    if option.max_replicas is not None:
        most = min(most, option.max_replicas)
    taken = gpus_of_offers(problem)
    used = composition.replicas @ taken
    for f in option.offers:
        stock = problem.offers[f].stock
        if stock is not None:
            left = stock * problem.offers[f].gpus - used[f]
            most = min(most, count + max(0, math.floor(left / taken[o, f] + 1e-9)))
    for limit in problem.stock:
        covered = np.array([limit.covers(offer) for offer in problem.offers], dtype=np.float64)
        each = float(taken[o] @ covered)
        if each > 0:
            most = min(most, count + max(0, math.floor((limit.gpus - float(used @ covered)) / each + 1e-9)))
    return max(most, count, 1)


def _floors(problem: Problem, composition: Composition) -> FloatArray:
    """`[O]` counts that no policy may go below, so that each model keeps the replicas that the wishes name."""
    counts, spot = np.round(composition.replicas), spot_options(problem)
    floors = np.minimum(np.array([option.min_replicas for option in problem.options], dtype=np.float64), counts)
    models = np.array([option.layout.model for option in problem.options])
    wishes = problem.wishes
    for name in dict.fromkeys(models):
        for wanted, among in ((wishes.min_on_demand_replicas, ~spot), (wishes.min_replicas, np.ones_like(spot))):
            own = among & (models == name)
            for o in sorted(np.flatnonzero(own), key=lambda o: (spot[o], -counts[o])):
                missing = wanted - floors[own].sum()
                floors[o] += np.clip(missing, 0.0, counts[o] - floors[o])
    return floors


def _fleet(scenario: Scenario, problem: Problem) -> Fleet | None:
    """What is asked of all pools together, with the head-room that was planned with."""
    # Planning for less than comes is an experiment; whoever plans again plans for all of it.
    asked, headroom = scenario.asked_of_fleet, max(problem.wishes.headroom, 1.0)
    if headroom == (asked or Fleet()).headroom:
        return asked
    return (asked or Fleet()).model_copy(update={"headroom": headroom})


def _guard(scenario: Scenario, problem: Problem, carried: Mapping[str, float]) -> Any:
    """The guard with the plan's budget, and room to turn away what a plan within a budget does not carry."""
    own, budget = scenario.guard, problem.wishes.budget_usd_per_hr
    update: dict[str, Any] = {}
    if budget is not None and budget < (own.budget_usd_per_hr or math.inf):
        update["budget_usd_per_hr"] = budget
    interactive = [share for name, share in carried.items() if scenario.classes[name].target.deadline_s is None]
    least = min(interactive, default=1.0)
    if least < own.min_admit_frac - 1e-9:
        update["min_admit_frac"] = math.floor(least * 1e6) / 1e6
    return own.model_copy(update=update) if update else own


def _allowed(pools: tuple[str, ...] | None, name: str) -> bool:
    return pools is None or name in pools


def _same_model(pool: Pool, wanted: str | None, scenario: Scenario) -> bool:
    return model(pool.model or scenario.model).name == model(wanted or scenario.model).name


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares with few digits; what sums to 1 still does, exactly enough for a file."""
    whole = sum(shares.values())
    kept = {name: round(share, SHARE_DIGITS) for name, share in shares.items() if share > 0.5 * 10**-SHARE_DIGITS}
    if kept and whole > 1.0 - 1e-4:
        largest = max(kept, key=lambda name: kept[name])
        kept[largest] = round(kept[largest] + 1.0 - sum(kept.values()), SHARE_DIGITS)
    return kept


def scenario_yaml(
    scenario: Scenario,
    folder: Path,
    header: Sequence[str] = (),
    pool_comments: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The scenario as the text of a file in `folder`, which `load_scenario` reads back as it is.

    Args:
        scenario: what to write.
        folder: where the file will lie: paths in the scenario that start elsewhere are written absolute.
        header: lines of comment at the top.
        pool_comments: lines of comment above each pool, by its name.
    """
    document = _document(scenario, folder)
    lines = [f"# {one_line(line)}" for line in header]
    for key, value in document.items():
        if key != "pools":
            lines.append(_dumped({key: value}))
            continue
        lines.append("pools:")
        for name, pool in value.items():
            lines += [f"  # {one_line(line)}" for line in (pool_comments or {}).get(name, ())]
            lines += ["  " + line for line in _dumped({name: pool}).splitlines()]
    return "\n".join(lines) + "\n"


def _dumped(part: dict[str, Any]) -> str:
    """YAML of a mapping with one key: leaves on one line, everything else in blocks."""
    leaf = not any(isinstance(value, dict | list) for value in part.values())
    style = False if leaf else None
    return yaml.safe_dump(part, sort_keys=False, width=120, allow_unicode=True, default_flow_style=style).rstrip("\n")


def _document(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """What stands in the file: fields that were set, paths as seen from `folder`."""
    moved = _moved(scenario, scenario.base_dir, folder)
    document: dict[str, Any] = _without_none(moved.model_dump(mode="json", by_alias=True, exclude_unset=True))
    return document


def _without_none(value: Any) -> Any:
    """A document without fields that are left out anyway."""
    if isinstance(value, dict):
        return {key: _without_none(held) for key, held in value.items() if held is not None}
    return value


def _moved(value: Any, base: Path, folder: Path) -> Any:
    """A copy of a value in which every path leads from `folder` to where it led from `base`."""
    if isinstance(value, Path):
        return _path_from(value, base, folder)
    if isinstance(value, BaseModel):
        update = {
            name: _moved(getattr(value, name), base, folder)
            for name in value.model_fields_set
            if name != "base_dir" and getattr(value, name) is not None
        }
        return value.model_copy(update=update)
    if isinstance(value, Mapping):
        return {key: _moved(held, base, folder) for key, held in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_moved(held, base, folder) for held in value)
    return value


def _path_from(path: Path, base: Path, folder: Path) -> Path:
    there = (base / path).resolve()
    if path.is_absolute() and not there.is_relative_to(folder.resolve()):
        return path
    if there.is_relative_to(folder.resolve()):
        return Path(os.path.relpath(there, folder.resolve()))
    return there
