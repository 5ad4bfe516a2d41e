"""What a user of `poolpilot plan` asks for, what-ifs included, and the problem that it makes of a scenario."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import click

from ...agents.planner.composition import Problem
from ...agents.planner.explaining.levers import LOOSER, MISSES, MOST_MISSES, Lever, Setting, levers_of
from ...agents.planner.problem import problem_of
from ...env.catalog.gpus import gpus_called
from ...env.catalog.models import model
from ...env.market.offers import Offer, priced, without
from ...env.market.rentable import rentable
from ...env.scenario import Scenario
from ...env.scenario.classes import Target
from ...env.scenario.planning import InlineOffer, Planning, PriceFile
from ...env.scenario.pools import Pool
from ...env.workload.load import load_workload
from ...env.workload.requests import Workload
from ..bad_input import refuse

Load = Literal["mean", "peak"]


@dataclass(frozen=True)
class Asked:
    """The options of the command that change what is planned. None: as the scenario says."""

    load: Load = "peak"
    headroom: float | None = None
    seed: int = 0
    buckets: int = 1
    prices: Path | None = None
    budget_usd_per_hr: float | None = None
    without: tuple[str, ...] = ()
    """GPUs that cannot be had."""
    price_usd_per_gpu_hr: Mapping[str, float] = field(default_factory=dict)
    """On demand, by GPU."""
    precisions: tuple[str, ...] = ()
    """Only these."""
    attainment: float | None = None
    goodput: bool = False
    route_by_length: bool | None = None
    max_price_age_days: int | None = None

    def changes(self) -> tuple[str, ...]:
        """What differs from the scenario, in words, for titles and files."""
        said = [f"without {name}" for name in self.without]
        said += [f"{name} at {usd:g} $/h a GPU" for name, usd in self.price_usd_per_gpu_hr.items()]
        if self.prices is not None:
            said.append(f"prices of {self.prices.name}")
        if self.budget_usd_per_hr is not None:
            said.append(f"budget {self.budget_usd_per_hr:g} $/h")
        if self.precisions:
            said.append(f"only {', '.join(self.precisions)}")
        if self.attainment is not None:
            said.append(f"attainment {self.attainment * 100:g} %")
        if self.goodput:
            said.append("most goodput")
        if self.route_by_length is not None:
            said.append("routed by length" if self.route_by_length else "not routed by length")
        return tuple(said)


def changed(scenario: Scenario, asked: Asked) -> Scenario:
    """The scenario as it would be if what is asked stood in its file."""
    update: dict[str, Any] = {}
    if asked.attainment is not None:
        update["classes"] = {
            name: requests.model_copy(
                update={"target": requests.target.model_copy(update={"attainment": asked.attainment})}
            )
            for name, requests in scenario.classes.items()
        }
    if scenario.planning is not None:
        update["planning"] = _planning(scenario, scenario.planning, asked)
    else:
        update["pools"] = _pools(scenario, asked)
    return scenario.model_copy(update=update)


def _planning(scenario: Scenario, planning: Planning, asked: Asked) -> Planning:
    update: dict[str, Any] = {}
    if asked.prices is not None:
        update["prices"] = PriceFile(path=asked.prices.resolve())
    for name in ("headroom", "budget_usd_per_hr", "route_by_length", "max_price_age_days"):
        if getattr(asked, name) is not None:
            update[name] = getattr(asked, name)
    if asked.precisions:
        update["precisions"] = asked.precisions
    planning = planning.model_copy(update=update)
    if not asked.without and not asked.price_usd_per_gpu_hr:
        return planning
    offers = rentable(planning, scenario.base_dir).offers
    offers = _what_if("--price", lambda: priced(offers, asked.price_usd_per_gpu_hr))
    offers = _what_if("--without", lambda: without(offers, asked.without))
    if not offers:
        refuse(f"--without {', '.join(asked.without)}: no offer is left")
    return planning.model_copy(update={"prices": tuple(_written(offer) for offer in offers)})


def _what_if(option: str, change: Any) -> tuple[Offer, ...]:
    """The offers after a what-if; its mistakes are the user's."""
    try:
        offers: tuple[Offer, ...] = change()
    except ValueError as error:
        refuse(f"{option}: {error}")
    return offers


def _written(offer: Offer) -> InlineOffer:
    return InlineOffer(**{name: getattr(offer, name) for name in InlineOffer.model_fields})


def _pools(scenario: Scenario, asked: Asked) -> dict[str, Any]:
    """The pools of a scenario without `planning`, at the prices asked."""
    if asked.prices is not None:
        refuse(
            f"--prices: {scenario.name} has no section `planning`; its pools have prices of their own (--price GPU=USD)"
        )
    pools = dict(scenario.pools)
    for name, usd in asked.price_usd_per_gpu_hr.items():
        pools = _priced_pools(scenario, pools, name, usd)
    return pools


def _priced_pools(scenario: Scenario, pools: dict[str, Pool], name: str, usd: float) -> dict[str, Pool]:
    """The pools where a GPU costs this. As for offers: on demand takes the price, spot moves along with the cheapest on
    demand, if there is any. Of unlike GPUs only those named change; the others keep their part of the price."""
    types = _called("--price", name)
    gpus = {key: _gpus_of(pool, scenario) for key, pool in pools.items()}
    named = [key for key, own in gpus.items() if types & set(own)]
    if not named:
        refuse(f"--price {name}: no pool has this GPU; pools have {_gpus_in(scenario)}")
    each = {key: pools[key].price.usd_per_hr / sum(gpus[key].values()) for key in named}
    before: dict[str, float] = {}
    for key in named:
        if pools[key].price.kind == "on_demand":
            before.update({card: min(before.get(card, math.inf), each[key]) for card in types & set(gpus[key])})
    priced_pools = dict(pools)
    for key in named:
        price, total = pools[key].price, 0.0
        for card, count in gpus[key].items():
            along = each[key] / before[card] if price.kind == "spot" and card in before else 1.0
            total += count * (usd * along if card in types else each[key])
        priced_pools[key] = pools[key].model_copy(update={"price": price.scaled(total / price.usd_per_hr)})
    return priced_pools


def _gpus_of(pool: Pool, scenario: Scenario) -> dict[str, int]:
    """GPUs of one replica, by type."""
    counts: dict[str, int] = {}
    for stage in pool.replica_stages(model(pool.model or scenario.model)):
        counts[stage.gpu.name] = counts.get(stage.gpu.name, 0) + stage.tensor_parallel
    return counts


def _gpus_in(scenario: Scenario) -> str:
    return ", ".join(dict.fromkeys(gpu for pool in scenario.pools.values() for gpu in _gpus_of(pool, scenario)))


def _called(option: str, name: str) -> set[str]:
    """The GPU types of a name."""
    return set(_what_if_names(option, name))


def _what_if_names(option: str, name: str) -> tuple[str, ...]:
    try:
        return gpus_called(name)
    except ValueError as error:
        refuse(f"{option} {name}: {error}")


def workload_of(scenario: Scenario, asked: Asked) -> Workload:
    """The requests that the plan is for."""
    return load_workload(scenario.workload, scenario.class_names, scenario.duration_s, asked.seed, scenario.base_dir)


def posed(scenario: Scenario, workload: Workload, asked: Asked) -> Problem:
    """The problem of a scenario in which the what-ifs stand already (`changed`)."""
    problem = problem_of(
        scenario,
        workload,
        load=asked.load,
        buckets=asked.buckets,
        headroom=asked.headroom,
        budget_usd_per_hr=asked.budget_usd_per_hr,
    )
    if scenario.planning is not None:
        return problem
    if asked.route_by_length is not None:
        problem = replace(problem, wishes=replace(problem.wishes, route_by_length=asked.route_by_length))
    return _of_pools(problem, scenario, asked)


MOST_CLASSES_APART = 4
"""Beyond so many classes, what a looser target would change is asked of all together: each question poses the problem
anew."""


def levers(scenario: Scenario, workload: Workload, asked: Asked, *, together: bool = False) -> tuple[Lever, ...]:
    """What could be asked for less strictly; `scenario` with the what-ifs in place.

    Args:
        together: of many classes, all at once.
    """
    each = levers_of(scenario, lambda other: posed(other, workload, asked))
    if not together or len(scenario.classes) <= MOST_CLASSES_APART:
        return each
    whole = [lever for lever in each if not lever.subject]
    return (*_of_all(scenario, workload, asked), *whole)


def _of_all(scenario: Scenario, workload: Workload, asked: Asked) -> Iterator[Lever]:
    """Every class's latencies a tenth longer; every class's misses half as many again."""

    def other(change: Callable[[Target], dict[str, float]]) -> Problem:
        classes = {
            name: requests.model_copy(update={"target": requests.target.model_copy(update=change(requests.target))})
            for name, requests in scenario.classes.items()
        }
        return posed(scenario.model_copy(update={"classes": classes}), workload, asked)

    def longer(target: Target) -> dict[str, float]:
        values = {name: getattr(target, name) for name in ("ttft_s", "tpot_s", "e2e_s", "deadline_s")}
        return {name: value * LOOSER[0] for name, value in values.items() if value is not None}

    def more_misses(target: Target) -> dict[str, float]:
        return {"attainment": 1.0 - min((1.0 - target.attainment) * MISSES[0], MOST_MISSES)}

    yield Lever(
        "targets", "of all classes", "as asked", (Setting(f"{LOOSER[0]:g} times as long", lambda: other(longer)),)
    )
    yield Lever(
        "attainment",
        "of all classes",
        "as asked",
        (Setting(f"{MISSES[0]:g} times the misses", lambda: other(more_misses)),),
    )


def _of_pools(problem: Problem, scenario: Scenario, asked: Asked) -> Problem:
    """Of a scenario's own pools, those that cannot be had stay empty."""
    gone: set[str] = set()
    for name in asked.without:
        types = _called("--without", name)
        if not any(types & set(option.layout.gpus) for option in problem.options):
            refuse(f"--without {name}: no pool has this GPU; pools have {_gpus_in(scenario)}")
        gone |= types

    def allowed(layout: Any) -> bool:
        return not gone & set(layout.gpus) and (not asked.precisions or layout.precision in asked.precisions)

    options = tuple(
        option if allowed(option.layout) else replace(option, min_replicas=0, max_replicas=0)
        for option in problem.options
    )
    return replace(problem, options=options)


class Number(click.FloatRange):
    """A finite number in a range: a range alone lets NaN through, which is neither below nor above."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value}: wanted a finite number{self._wanted()}", param, ctx)
        return number

    def _wanted(self) -> str:
        if self.min is not None and self.max is not None:
            return f" from {self.min:g} to {self.max:g}"
        return "" if self.min is None else f" above {self.min:g}" if self.min_open else f" of at least {self.min:g}"


class GpuPrice(click.ParamType[tuple[str, float]]):
    """`GPU=USD`."""

    name = "GPU=USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """The GPU's name as given, and dollars per hour of one."""
        gpu, equals, text = str(value).partition("=")
        try:
            usd = float(text)
        except ValueError:
            usd = math.nan
        if not equals or not gpu.strip() or not (0 < usd < 1e6):
            self.fail(f"{value}: wanted a GPU, = and dollars per hour of one above 0, such as H100=2.1", param, ctx)
        return gpu.strip(), usd
