"""Why a plan is what it is: what each pool carries, what its rent is for, which limits bind, and why other GPUs stay out.

Plain figures, for tables and JSON alike; pure.

Symbols: `B` buckets of demand, `O` options, `F` offers, `C` classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from ....env.contract import FloatArray
from ..composition import Composition, Option, Problem
from ..fleet import (
    capacities,
    chosen,
    class_shares,
    list_usd_per_hr,
    pool_usd_per_hr,
    unused_usd_per_hr,
    work_replicas,
)
from ..layouts.layout import Layout

__all__ = ["NotChosen", "PlannedClass", "PlannedPool", "Rent", "layout_text", "not_chosen", "planned_classes"]
__all__ += ["planned_pools", "rent_of"]

SECONDS_PER_HOUR = 3600.0
AS_CHEAP = 1.02
"""Within so much of what is chosen, price is no reason."""


@dataclass(frozen=True)
class PlannedPool:
    """One pool of the plan."""

    name: str
    model: str
    gpus: dict[str, int]
    """Of one replica, by type."""
    layout: str
    """For people: `2 x A100-SXM-80GB, TP 2`."""
    precision: str
    replicas: int
    usd_per_hr_each: float
    """Of one replica, its share of GPUs that are rented along and not used included."""
    usd_per_hr: float
    kind: str
    """`on_demand`, `spot`, or both with a plus."""
    provider: str
    region: str
    instance: str
    price_as_of: date | None
    """The oldest of its prices."""
    share_of_requests: float
    """Of all requests that are carried."""
    used_frac: float
    """Share of what its replicas carry within target that the load takes, head-room included."""
    serves: dict[str, float]
    """Requests/s by class, head-room left out."""


@dataclass(frozen=True)
class PlannedClass:
    """One class in the plan."""

    name: str
    rate_per_s: float
    """Planned for, head-room left out."""
    carried_frac: float
    """Share within its targets."""
    shares: dict[str, float]
    """By pool."""
    attainment_wanted: float
    attainment: float
    """Expected: the wanted share of what is carried."""
    capacity_per_s: dict[str, float]
    """By pool: what one replica serves of this class alone within its targets."""


@dataclass(frozen=True)
class Rent:
    """What the rent is for, each part computed on its own; together they are the rent."""

    load_usd_per_hr: float
    """Replicas' time that the load takes within its targets."""
    headroom_usd_per_hr: float
    """What the head-room adds to that."""
    whole_replicas_usd_per_hr: float
    """The rest of whole replicas."""
    unused_gpus_usd_per_hr: float
    """GPUs that come along with whole machines and that no replica uses."""

    @property
    def usd_per_hr(self) -> float:
        """All of it."""
        return (
            self.load_usd_per_hr
            + self.headroom_usd_per_hr
            + self.whole_replicas_usd_per_hr
            + self.unused_gpus_usd_per_hr
        )


@dataclass(frozen=True)
class NotChosen:
    """A GPU type that the plan does not use, or a precision of one that it does."""

    what: str
    """`L4`, or `L40S fp8`."""
    reason: str
    usd_per_1000: float | None = None
    """Of the class that it serves cheapest compared with the plan, at full use; None if it serves none."""
    against_usd_per_1000: float | None = None
    """The plan's, for the same class."""


def layout_text(layout: Layout) -> str:
    """A layout for people."""
    stages = layout.stages
    every = sum(layout.gpus.values())
    if len(stages) == 1:
        return layout.stages[0].gpu if every == 1 else f"{every} x {stages[0].gpu}, TP {stages[0].tensor_parallel}"
    layers = "+".join(str(stage.layers) for stage in stages)
    if len(layout.gpus) == 1:
        width = stages[0].tensor_parallel
        return f"{every} x {stages[0].gpu}, " + (f"TP {width}, " if width > 1 else "") + f"PP {len(stages)} ({layers})"
    parts = " > ".join(
        f"{stage.tensor_parallel} x {stage.gpu}" if stage.tensor_parallel > 1 else stage.gpu for stage in stages
    )
    return f"{parts}, PP {len(stages)} ({layers})"


def planned_pools(problem: Problem, composition: Composition, names: Sequence[str]) -> tuple[PlannedPool, ...]:
    """The pools with replicas, dearest first. `names`: `O` pool names."""
    rent = pool_usd_per_hr(problem, composition)
    work = work_replicas(problem, composition).sum(axis=0)
    rates = problem.demand.class_rate_per_s[:, None] * class_shares(problem, composition)
    carried = float(rates.sum())
    pools = []
    for o in chosen(composition):
        option, count = problem.options[o], round(float(composition.replicas[o]))
        offers = [problem.offers[f] for f in option.offers]
        days = [offer.as_of for offer in offers if offer.as_of is not None]
        served = dict(zip(problem.demand.class_names, rates[:, o].tolist(), strict=True))
        pools.append(
            PlannedPool(
                name=names[o],
                model=option.layout.model,
                gpus=option.layout.gpus,
                layout=layout_text(option.layout),
                precision=option.layout.precision,
                replicas=count,
                usd_per_hr_each=float(rent[o]) / count,
                usd_per_hr=float(rent[o]),
                kind="+".join(dict.fromkeys(offer.kind for offer in offers)),
                provider=_joined(offer.provider for offer in offers),
                region=_joined(offer.region for offer in offers),
                instance=_joined(offer.instance for offer in offers),
                price_as_of=min(days) if len(days) == len(offers) and days else None,
                share_of_requests=float(rates[:, o].sum()) / carried if carried > 0 else 0.0,
                used_frac=float(work[o]) * problem.wishes.headroom / count,
                serves={name: rate for name, rate in served.items() if rate > 0},
            )
        )
    return tuple(sorted(pools, key=lambda pool: -pool.usd_per_hr))


def _joined(parts: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(part for part in parts if part))


def planned_classes(
    problem: Problem, composition: Composition, names: Sequence[str], attainment: FloatArray
) -> tuple[PlannedClass, ...]:
    """Every class, in the scenario's order. `attainment`: `[C]` wanted."""
    places = chosen(composition)
    shares, rates, capacity = class_shares(problem, composition), problem.demand.class_rate_per_s, capacities(problem)
    demand, classes = problem.demand, []
    for c, name in enumerate(demand.class_names):
        own = demand.class_index == c
        weights = demand.rate_per_s[own]
        per_replica = {names[o]: _mixed_per_s(weights, capacity[own, o]) for o in places}
        carried = float(min(shares[c].sum(), 1.0))
        classes.append(
            PlannedClass(
                name=name,
                rate_per_s=float(rates[c]),
                carried_frac=carried,
                shares={names[o]: float(shares[c, o]) for o in places if shares[c, o] > 1e-9},
                attainment_wanted=float(attainment[c]),
                attainment=float(attainment[c]) * carried,
                capacity_per_s={pool: per_s for pool, per_s in per_replica.items() if per_s > 0},
            )
        )
    return tuple(classes)


def _mixed_per_s(rates: FloatArray, capacity: FloatArray) -> float:
    """Requests/s of a class, in its buckets' proportions, that one replica carries: times add up, rates do not."""
    total = float(rates.sum())
    weights = rates / total if total > 0 else np.full(len(rates), 1.0 / max(len(rates), 1))
    needed = weights > 0
    if not needed.any() or (capacity[needed] <= 0).any():
        return 0.0
    return 1.0 / float((weights[needed] / capacity[needed]).sum())


def rent_of(problem: Problem, composition: Composition) -> Rent:
    """What the rent is for."""
    each, work = list_usd_per_hr(problem), work_replicas(problem, composition).sum(axis=0)
    wanted = work * problem.wishes.headroom
    # Head-room that the budget or the goodput's aim left no place for is none.
    within = np.minimum(wanted, composition.replicas)
    load = np.minimum(work, composition.replicas)
    return Rent(
        load_usd_per_hr=float(load @ each),
        headroom_usd_per_hr=float((within - load) @ each),
        whole_replicas_usd_per_hr=float((composition.replicas - within) @ each),
        unused_gpus_usd_per_hr=float(unused_usd_per_hr(problem, composition).sum()),
    )


def not_chosen(problem: Problem, composition: Composition, most: int = 10) -> tuple[NotChosen, ...]:
    """What stays out of the plan and why, the nearest to being chosen first: GPU types without a replica, and of those
    with one the precisions that have none.

    Of each, the option and class are told that come nearest to what the plan pays for the class.
    """
    chosen_options = [problem.options[o] for o in chosen(composition)]
    types = {_types(option) for option in chosen_options}
    kinds = {_kind(option, types) for option in chosen_options}
    best = _cheapest_usd_per_1000(problem, chosen(composition).tolist())
    each, models = list_usd_per_hr(problem), _models(problem)
    found: dict[str, NotChosen] = {}
    for o, option in enumerate(problem.options):
        kind = _kind(option, types)
        if kind in kinds:
            continue
        mine = _one(problem, o, kind, float(each[o]), best, models)
        if mine is not None and (kind not in found or _distance(mine) < _distance(found[kind])):
            found[kind] = mine
    return tuple(sorted(found.values(), key=_distance)[:most])


def _types(option: Option) -> str:
    return " + ".join(option.layout.gpus)


def _kind(option: Option, told_apart: set[str]) -> str:
    """GPU types; with the precision where another precision of them was chosen."""
    types = _types(option)
    return f"{types} {option.layout.precision}" if types in told_apart else types


def _models(problem: Problem) -> dict[str, set[str]]:
    """By class the models that serve it."""
    demand = problem.demand
    serving: dict[str, set[str]] = {name: set() for name in demand.class_names}
    for option in problem.options:
        for b in np.flatnonzero(option.capacity_per_s > 0):
            serving[demand.class_names[demand.class_index[b]]].add(option.layout.model)
    return serving


def _distance(entry: NotChosen) -> float:
    """Dollars over the plan's; what cannot serve at all is farthest."""
    if entry.usd_per_1000 is None or not entry.against_usd_per_1000:
        return np.inf
    return entry.usd_per_1000 / entry.against_usd_per_1000


def _cheapest_usd_per_1000(problem: Problem, places: Sequence[int]) -> dict[str, float]:
    """What 1,000 requests of each class cost on the cheapest of the options at `places`, fully used."""
    each, cheapest = list_usd_per_hr(problem), dict[str, float]()
    for o in places:
        for name, usd in _usd_per_1000(problem, o, float(each[o])).items():
            cheapest[name] = min(cheapest.get(name, np.inf), usd)
    return cheapest


def _usd_per_1000(problem: Problem, o: int, usd_per_hr: float) -> dict[str, float]:
    """Of each class that an option serves whole."""
    demand, capacity = problem.demand, problem.options[o].capacity_per_s
    found = {}
    for c, name in enumerate(demand.class_names):
        own = demand.class_index == c
        per_s = _mixed_per_s(demand.rate_per_s[own], capacity[own])
        if per_s > 0:
            found[name] = usd_per_hr / SECONDS_PER_HOUR / per_s * 1000.0
    return found


def _one(
    problem: Problem, o: int, kind: str, usd_per_hr: float, best: dict[str, float], models: dict[str, set[str]]
) -> NotChosen | None:
    """Why this option has no replica."""
    option = problem.options[o]
    if option.max_replicas == 0 or any(problem.offers[f].stock == 0 for f in option.offers):
        return NotChosen(kind, "none to be had")
    spot = any(problem.offers[f].kind == "spot" for f in option.offers)
    if spot and problem.wishes.max_spot_share <= 0.0:
        return NotChosen(kind, "spot, of which nothing is wanted (max_spot_share: 0)")
    costs = _usd_per_1000(problem, o, usd_per_hr)
    reasons = {name: why for name, why in _reasons(problem, option).items() if option.layout.model in models[name]}
    compared = {name: usd / best[name] for name, usd in costs.items() if best.get(name)}
    if not compared:
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        return NotChosen(kind, said) if said else None
    name = min(compared, key=lambda key: compared[key])
    layout = "" if kind.endswith(option.layout.precision) else f" in {option.layout.precision}"
    if compared[name] > AS_CHEAP:
        reason = f"a request of {name}{layout} costs {compared[name]:.2f} times the plan's"
    elif spot:
        reason = f"no dearer for {name}{layout}; what may be spot, or whole replicas, keep it out"
    else:
        reason = f"no dearer for {name}{layout}, but whole replicas of it fit the load less well"
    others = [f"{other}: {why}" for other, why in reasons.items() if other not in costs]
    return NotChosen(kind, "; ".join([reason, *others]), costs[name], best[name])


def _reasons(problem: Problem, option: Option) -> dict[str, str]:
    """Why it serves none or not all of a class, by class, as far as told."""
    reasons: dict[str, str] = {}
    for b, why in enumerate(option.why_not):
        name = problem.demand.class_names[problem.demand.class_index[b]]
        if why:
            reasons.setdefault(name, why)
    return reasons
