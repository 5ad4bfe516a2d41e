"""A small market for a real model, with offers of every kind, and plans on it made by the solver."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np

from poolpilot.agents.planner.composition import Composition, Option, Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.env.market.offers import Offer
from poolpilot.env.scenario import Scenario, load_scenario

MODEL = "meta-llama/Llama-2-13b-hf"
A100, L40S = "A100-SXM-80GB", "L40S-48GB"
LAYERS = 40
OFFERS = (
    Offer(A100, 16.0, gpus=8, machine_gpus=8, provider="big", region="east", stock=2, as_of=date(2026, 1, 2)),
    Offer(L40S, 1.9, provider="small", region="east", stock=6, as_of=date(2026, 3, 4), source="a list"),
    Offer(L40S, 0.8, kind="spot", provider="small", region="west", preemptions_per_hr=0.2),
)
TWO_STAGES = (LayoutStage(L40S, 20), LayoutStage(L40S, 20))


def an_option(name: str, precision: str, offer: int, per_s: list[float], stages: tuple[LayoutStage, ...]) -> Option:
    """A replica on one offer; `per_s` of each bucket."""
    return Option(name, Layout(MODEL, precision, stages), (offer,), np.array(per_s))


def a_market(**wishes: float | bool | None) -> Problem:
    """Chat (short and long) and batch, over A100s in machines of eight, and L40S one by one; batch may be quantised."""
    demand = Demand(
        ("chat", "summarisation", "batch"),
        np.array([0, 0, 1, 2]),
        np.array([300.0, 1500.0, 1800.0, 700.0]),
        np.array([200.0, 400.0, 150.0, 180.0]),
        np.array([6.0, 2.0, 0.5, 4.0]),
    )
    options = (
        an_option("a100-bf16@big", "bf16", 0, [8.0, 3.0, 3.0, 7.0], (LayoutStage(A100, LAYERS),)),
        an_option("l40s-bf16@small", "bf16", 1, [2.0, 0.7, 0.6, 1.8], (LayoutStage(L40S, LAYERS),)),
        replace(
            an_option("l40s-int4@small", "int4", 1, [0.0, 0.0, 0.0, 4.0], (LayoutStage(L40S, LAYERS),)),
            why_not=("quality below its floor",) * 3 + ("",),
        ),
        an_option("l40s-pp2-fp8@west", "fp8", 2, [5.0, 2.0, 1.5, 5.0], TWO_STAGES),
    )
    return Problem(OFFERS, options, demand, Wishes(**wishes))  # type: ignore[arg-type]


def a_plan(**wishes: float | bool | None) -> tuple[Problem, Composition]:
    """The market's cheapest."""
    problem = a_market(**wishes)
    return problem, compose(problem)


def counted(problem: Problem, replicas: list[float], share: list[list[float]]) -> Composition:
    """A composition by hand: replicas of each option, shares of each bucket."""
    counts = np.array(replicas)
    gpus = np.zeros(len(problem.offers))
    for option, count in zip(problem.options, counts, strict=True):
        for f, each in zip(option.offers, option.layout.gpus.values(), strict=True):
            gpus[f] += each * count
    units = np.ceil(gpus / [offer.gpus for offer in problem.offers] - 1e-9)
    usd = float(units @ [offer.usd_per_hr for offer in problem.offers])
    shares = np.array(share)
    served = problem.demand.rate_per_s * shares.sum(axis=1)
    return Composition(counts, units, shares, usd, usd, 0.0, served_per_s=served)


def for_the_demo(**planning: object) -> Scenario:
    """The demo's classes and load, to be planned: same class names as `a_market`."""
    from poolpilot.env.scenario.planning import Planning

    scenario = load_scenario("mixed-chat")
    return scenario.model_copy(update={"pools": {}, "planning": Planning.model_validate(planning)})
