"""The comparison of Jiang et al., "Demystifying Cost-Efficiency in LLM Serving over Heterogeneous GPUs" (ICML 2025,
arXiv:2502.00722), on our performance model: six GPU types, their prices and four snapshots of stock, three mixes of nine
types of requests, two models.

Prices, GPUs and engine flags are those of the shipped scenario `paper-mix`. Stock and mixes are as third parties restate
them, not read in the paper; so is the order of a mix's types: prompts long, mid, short, and in each answers long, mid,
short. Budgets are ours to choose: the paper's could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from poolpilot.agents.planner.composition import Problem
from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.written import planned_scenario
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.classes import Target

from .fleets import ALMOST, GREEDY, PLAN, Throughput, costs, gain, one_per_s, throughput
from .loads import drawn, loads_of, scaled, with_loads
from .simulated import Attained, as_believed, attained, job_per_s

SCENARIO = "paper-mix"
GPUS = ("RTX4090-24GB", "A40-48GB", "A6000-48GB", "L40-48GB", "A100-SXM-80GB", "H100-SXM-80GB")
STOCK: dict[str, tuple[int, ...]] = {
    "1": (16, 12, 8, 12, 6, 8),
    "2": (32, 8, 16, 16, 7, 12),
    "3": (32, 16, 8, 8, 32, 8),
    "4": (24, 24, 24, 16, 4, 8),
}
"""GPUs of each type that could be had, by snapshot."""
MIXES: dict[str, tuple[float, ...]] = {
    "Swiss AI": (0.33, 0.07, 0.08, 0.07, 0.27, 0.06, 0.06, 0.03, 0.03),
    "Azure": (0.22, 0.05, 0.05, 0.21, 0.05, 0.05, 0.19, 0.06, 0.12),
    "WildChat": (0.04, 0.14, 0.03, 0.20, 0.27, 0.01, 0.25, 0.00, 0.06),
}
"""Shares of the nine types."""
REVERSED = ", reversed"
"""After a mix's name: its shares with the nine types in the other order."""
MODELS = ("llama-3-8b", "llama-3-70b")
BUDGETS_USD_PER_HR = (15.0, 30.0, 60.0)
HEADLINERS = ("H100-SXM-80GB", "A6000-48GB", "RTX4090-24GB")
"""A data centre's, a workstation's and a consumer's card: homogeneous fleets that the paper is said to compare with."""
Kind = Literal["batch", "targets"]
KINDS: tuple[Kind, ...] = ("batch", "targets")
TARGETS = {
    "llama-3-8b": Target(ttft_s=3.0, tpot_s=0.1, attainment=0.95),
    "llama-3-70b": Target(ttft_s=10.0, tpot_s=0.2, attainment=0.95),
}
BATCH = Target(deadline_s=86_400.0, attainment=0.95)
"""The paper's objective is the makespan: nobody waits for a single answer."""
JOB_S = 900.0
STEADY_S = 900.0
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class Cell:
    """One model, objective, mix, snapshot of stock and budget."""

    model: str
    kind: Kind
    mix: str
    stock: str
    budget_usd_per_hr: float
    throughput: Throughput
    unlimited: Throughput
    """The same with as many of every type as one likes."""
    load_per_s: float
    """What the best homogeneous fleet carries for the budget: the load of `usd_per_hr`."""
    usd_per_hr: dict[str, float | None]
    """By fleet; None of one that cannot carry that load."""

    @property
    def saving(self) -> float:
        """Of the plan against the best homogeneous fleet's bill, as a share."""
        alone = [usd for name, usd in self.usd_per_hr.items() if name not in (GREEDY, PLAN) and usd is not None]
        plan = self.usd_per_hr[PLAN]
        return 1.0 - plan / min(alone) if alone and plan is not None else float("nan")

    @property
    def gain_over_headliners(self) -> float:
        """Of the plan, within stock, over the best of `HEADLINERS`, which have no limit of stock."""
        return gain(self.throughput.per_s(PLAN), max(self.unlimited.per_s(name) for name in HEADLINERS))

    @property
    def gain_unlimited(self) -> float:
        """Of the plan over the best homogeneous fleet where nothing is ever sold out: what mixing alone is worth."""
        return self.unlimited.gain


def shares_of(mix: str) -> tuple[float, ...]:
    """Of the nine types, in the order of the shipped scenario's classes."""
    shares = MIXES[mix.removesuffix(REVERSED)]
    return shares[::-1] if mix.endswith(REVERSED) else shares


def scenario_of(model: str, kind: Kind, mix: str) -> Scenario:
    """The shipped scenario for another model, objective and mix, one request per second in all."""
    shipped = load_scenario(SCENARIO, needs_pools=False)
    shares = dict(zip(shipped.classes, shares_of(mix), strict=True))
    target = BATCH if kind == "batch" else TARGETS[model]
    asked = {name: share for name, share in shares.items() if share > 0}
    classes = {name: shipped.classes[name].model_copy(update={"target": target}) for name in asked}
    loads = {
        name: load.model_copy(update={"rate_per_s": asked[name]})
        for name, load in loads_of(shipped).items()
        if name in asked
    }
    return with_loads(shipped, loads).model_copy(update={"model": model, "classes": classes})


@cache
def problem_for(model: str, kind: Kind, mix: str) -> Problem:
    """What may be rented, at exactly the mix's shares; stock is not limited.

    A batch has no bursts: it is planned without head-room.
    """
    scenario = scenario_of(model, kind, mix)
    many = drawn(scaled(scenario, 20.0))
    problem = problem_of(scenario, many, load="mean", headroom=1.0 if kind == "batch" else None)
    demand, loads = problem.demand, loads_of(scenario)
    shares = np.array([loads[name].rate_per_s for name in demand.class_names])
    exact = replace(demand, rate_per_s=demand.rate_per_s / demand.class_rate_per_s[demand.class_index])
    exact = replace(exact, rate_per_s=exact.rate_per_s * shares[demand.class_index])
    return one_per_s(replace(problem, demand=exact, stock=()))


def in_stock(problem: Problem, stock: str) -> Problem:
    """The problem with a snapshot's stock."""
    left = dict(zip(GPUS, STOCK[stock], strict=True))
    offers = tuple(replace(offer, stock=left[offer.gpu]) for offer in problem.offers)
    return replace(problem, offers=offers)


def cells(
    models: Sequence[str] = MODELS,
    kinds: Sequence[Kind] = KINDS,
    mixes: Iterable[str] = tuple(MIXES),
    stocks: Iterable[str] = tuple(STOCK),
    budgets: Sequence[float] = BUDGETS_USD_PER_HR,
) -> Iterator[Cell]:
    """All of them."""
    for model in models:
        for kind in kinds:
            for mix in mixes:
                free = problem_for(model, kind, mix)
                for budget in budgets:
                    unlimited = throughput(free, budget)
                    for stock in stocks:
                        limited = in_stock(free, stock)
                        reached = throughput(limited, budget)
                        load = ALMOST * reached.per_s(reached.best)
                        usd = costs(replace(limited, demand=limited.demand.scaled(load))) if load else {}
                        yield Cell(model, kind, mix, stock, budget, reached, unlimited, load, usd)


@dataclass(frozen=True, eq=False)
class Checked:
    """A fleet of a cell, in worlds that differ from what it was planned for."""

    model: str
    kind: Kind
    mix: str
    fleet: str
    planned_per_s: float
    believed_per_s: float
    """Of a batch: requests per second in a world as the planner believes it; 0 under targets."""
    reached_per_s: tuple[float, ...]
    """Of a batch, by world."""
    believed: Attained | None
    """Under targets: at the planned load, in a world as believed."""
    steady: Attained | None
    """In the worlds that differ."""


def checked(model: str, kind: Kind, mix: str, stock: str, budget: float, seeds: Sequence[int] = SEEDS) -> list[Checked]:
    """The plan, the greedy mix and the best homogeneous fleet of a cell, simulated."""
    scenario = scenario_of(model, kind, mix)
    problem = in_stock(problem_for(model, kind, mix), stock)
    reached = throughput(problem, budget)
    rows = []
    for fleet in (reached.best, GREEDY, PLAN):
        per_s, composition = reached.fleets[fleet]
        if composition is None:
            continue
        loaded = scaled(scenario, per_s).model_copy(update={"duration_s": STEADY_S})
        asked = replace(problem, demand=problem.demand.scaled(per_s))
        planned = planned_scenario(loaded, asked, composition, held=True)
        batch = kind == "batch"
        rows.append(
            Checked(
                model=model,
                kind=kind,
                mix=mix,
                fleet=fleet,
                planned_per_s=per_s,
                believed_per_s=job_per_s(as_believed(planned), per_s, JOB_S, seeds[:1])[0] if batch else 0.0,
                reached_per_s=tuple(job_per_s(planned, per_s, JOB_S, seeds)) if batch else (),
                believed=None if batch else attained(as_believed(planned), seeds),
                steady=None if batch else attained(planned, seeds),
            )
        )
    return rows
