"""What must follow of any composition follows on the shipped markets too, with capacities from the performance model."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from poolpilot.agents.planner.composition import Composition, Infeasible, Problem
from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload

from .problems import check

GAP = 2e-3
SLACK = 1.0 + GAP + 3e-4
MARKETS = ("paper-mix", "case-study")
pytestmark = pytest.mark.parametrize("market", MARKETS)


@lru_cache
def posed(market: str, buckets: int = 1) -> Problem:
    scenario = load_scenario(market, needs_pools=False)
    requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return problem_of(scenario, requests, buckets=buckets)


@lru_cache
def plan_of(market: str) -> Composition:
    return compose(posed(market), gap=GAP)


def test_it_holds_all_limits_and_is_proven(market: str) -> None:
    plan = plan_of(market)
    check(posed(market), plan)
    assert plan.proven
    assert plan.bound <= plan.usd_per_hr <= plan.bound * SLACK


def test_no_fleet_of_one_gpu_type_is_cheaper(market: str) -> None:
    problem = posed(market)
    for gpu in dict.fromkeys(offer.gpu for offer in problem.offers):
        alone = tuple(option for option in problem.options if set(option.layout.gpus) == {gpu})
        try:
            usd = compose(replace(problem, options=alone), gap=GAP).usd_per_hr
        except Infeasible:
            continue
        assert plan_of(market).usd_per_hr <= usd * SLACK, gpu


def test_a_cheaper_price_and_more_stock_never_cost_more(market: str) -> None:
    problem, before = posed(market), plan_of(market).usd_per_hr
    for gpu in dict.fromkeys(offer.gpu for offer in problem.offers):
        cheaper = tuple(
            replace(offer, usd_per_hr=offer.usd_per_hr * 0.7) if offer.gpu == gpu else offer for offer in problem.offers
        )
        assert compose(replace(problem, offers=cheaper), gap=GAP).usd_per_hr <= before * SLACK, gpu
    roomy = tuple(replace(limit, gpus=2 * limit.gpus) for limit in problem.stock)
    offers = tuple(o if o.stock is None else replace(o, stock=2 * o.stock) for o in problem.offers)
    assert compose(replace(problem, stock=roomy, offers=offers), gap=GAP).usd_per_hr <= before * SLACK


def test_routing_by_length_never_costs_more(market: str) -> None:
    whole = posed(market, 4)
    apart = replace(whole, wishes=replace(whole.wishes, route_by_length=True))
    assert compose(apart, gap=GAP).usd_per_hr <= compose(whole, gap=GAP).usd_per_hr * SLACK


def test_more_money_never_serves_less(market: str) -> None:
    problem = posed(market)
    served = []
    for share in (0.3, 0.6, 0.9):
        budget = share * plan_of(market).usd_per_hr
        poor = replace(problem, wishes=replace(problem.wishes, budget_usd_per_hr=budget))
        plan = compose(poor, goodput=True, gap=GAP)
        check(poor, plan)
        assert plan.usd_per_hr <= budget + 1e-9
        served.append(float(plan.served_per_s.sum()))
    assert np.all(np.diff(served) >= -GAP * served[-1])
