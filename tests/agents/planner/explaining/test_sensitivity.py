"""What binds, and what one more of it changes: held to solving the changed problem."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings

from poolpilot.agents.planner.composition import Composition, Infeasible, Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.explaining.levers import Lever, Setting
from poolpilot.agents.planner.explaining.sensitivity import Change, Sensitivity, loosened, sensitivities
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.agents.planner.solving.posing import offer_name
from poolpilot.env.market.offers import Offer
from poolpilot.tests.env.clusters import SEEDS

from ..problems import a_market, a_problem, an_option

GAP = 1e-3


def scarce() -> Problem:
    """Four requests/s: the cheap GPU, of which there is one, carries one of them; the dear one two at 3 $/h."""
    offers = (Offer("L4", 1.0, stock=1), Offer("L40S", 3.0), Offer("H100", 9.0))
    demand = Demand(("chat",), np.array([0]), np.ones(1), np.ones(1), np.array([4.0]))
    options = (
        an_option(offers, {0: 1}, np.array([1.0])),
        an_option(offers, {1: 1}, np.array([2.0])),
        an_option(offers, {2: 1}, np.array([4.0])),
    )
    return Problem(offers, options, demand, Wishes(headroom=1.0))


def of(found: Sensitivity, kind: str, subject: str) -> Change:
    (own,) = [change for change in found.changes if (change.kind, change.subject) == (kind, subject)]
    return own


def test_one_more_of_what_is_scarce() -> None:
    problem = scarce()
    plan = compose(problem, gap=GAP)
    assert plan.replicas.tolist() == [0, 2, 0], "2 x 3 $/h; with the only L4 it would be 7"
    more = replace(problem, demand=problem.demand.scaled(0.75))
    plan = compose(more, gap=GAP)
    assert plan.replicas.tolist() == [1, 1, 0]
    found = sensitivities(more, plan)
    assert [bound.subject for bound in found.binding] == ["L4"]
    stock = of(found, "stock", "L4")
    assert (stock.now, stock.then) == ("1 GPUs", "2 GPUs")
    assert stock.usd_per_hr == pytest.approx(0.0, abs=1e-9), "three L4 would be cheaper, two change nothing"
    assert stock.noise
    assert of(found, "price", "L40S").usd_per_hr == pytest.approx(-0.3)
    assert not found.left_out


def test_the_price_at_which_a_gpu_enters() -> None:
    problem = scarce()
    found = sensitivities(problem, compose(problem, gap=GAP), gap=1e-6)
    by_name = {own.offer: own.below_usd_per_gpu_hr for own in found.break_even}
    assert by_name["H100"] == pytest.approx(6.0, rel=1e-4), "one of them does what two L40S do for 6 $/h"
    assert by_name["L4"] == 0.0, "one L4 leaves three requests/s, which need both L40S"


def test_a_stock_that_is_too_small_to_be_used_is_told_where_one_more_would_help() -> None:
    offers = (Offer("L4", 1.0, gpus=2, stock=0), Offer("L40S", 3.0, stock=50))
    demand = Demand(("chat",), np.array([0]), np.ones(1), np.ones(1), np.array([2.0]))
    options = (an_option(offers, {0: 1}, np.array([1.0])), an_option(offers, {1: 1}, np.array([2.0])))
    problem = Problem(offers, options, demand, Wishes(headroom=1.0))
    more = sensitivities(problem, compose(problem, gap=GAP))
    assert of(more, "stock", "L4").usd_per_hr == pytest.approx(-2.0), "a machine of two for 1 $/h"
    assert not [change for change in more.changes if change.subject == "L40S" and change.kind == "stock"]
    assert more.usd_per_hr == 3.0


def test_of_a_stock_as_many_more_are_asked_for_as_one_replica_takes() -> None:
    offers = (Offer("A100-80GB", 1.0, machine_gpus=8, stock=4), Offer("L40S", 3.0))
    demand = Demand(("chat",), np.array([0]), np.ones(1), np.ones(1), np.array([3.0]))
    options = (an_option(offers, {0: 4}, np.array([2.0])), an_option(offers, {1: 2}, np.array([1.0])))
    problem = Problem(offers, options, demand, Wishes(headroom=1.0))
    plan = compose(problem, gap=GAP)
    assert plan.replicas.tolist() == [1, 1], "4 $/h and 6 $/h"
    stock = of(sensitivities(problem, plan), "stock", "A100-80GB")
    assert (stock.now, stock.then) == ("4 GPUs", "8 GPUs")
    assert stock.usd_per_hr == pytest.approx(-2.0)


def test_what_more_load_costs_at_the_margin() -> None:
    problem = replace(scarce(), offers=scarce().offers[1:], options=())
    options = (an_option(problem.offers, {0: 1}, np.array([2.0])), an_option(problem.offers, {1: 1}, np.array([4.0])))
    problem = replace(problem, options=options, demand=problem.demand.scaled(25.0))
    found = sensitivities(problem, compose(problem, gap=GAP))
    (chat,) = found.marginals
    assert chat.usd_per_million_requests == pytest.approx(1.5 / 3600 * 1e6, rel=1e-3)


def test_a_lever_and_a_budget() -> None:
    problem = replace(scarce(), wishes=Wishes(headroom=1.0, budget_usd_per_hr=6.0))
    faster = tuple(replace(o, capacity_per_s=o.capacity_per_s * 2) for o in problem.options)
    lever = Lever("targets", "chat", "ttft_s 1", (Setting("ttft_s 2", lambda: replace(problem, options=faster)),))
    found = sensitivities(problem, compose(problem, gap=GAP), levers=[lever])
    assert [bound.kind for bound in found.binding] == ["budget"]
    assert not [change for change in found.changes if change.kind == "budget"], "the cheapest stays the cheapest"
    looser = of(found, "targets", "chat")
    assert (looser.now, looser.then) == ("ttft_s 1", "ttft_s 2")
    assert looser.usd_per_hr == pytest.approx(-3.0)
    assert not looser.noise
    tight = replace(problem, wishes=Wishes(headroom=1.0, budget_usd_per_hr=3.0))
    served = sensitivities(tight, compose(tight, goodput=True, gap=GAP))
    assert of(served, "budget", "").served_per_s == pytest.approx(0.0, abs=1e-3), "3.30 $/h buy no more"
    assert not served.marginals
    assert not served.break_even


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_changes_are_those_of_the_changed_problem(seed: int) -> None:
    problem = a_problem(seed, tight=0.6, counted=True)
    try:
        plan = compose(problem, gap=GAP)
    except Infeasible:
        assume(False)
        return
    found = sensitivities(problem, plan)
    assert not found.left_out
    for bound in found.binding:
        wider, value = loosened(problem, bound)
        assert value != bound.limit
        if bound.kind in ("stock", "shared stock"):
            continue  # of which as many are asked for as one more replica takes
        own = [c for c in found.changes if c.kind == bound.kind and c.subject in ("", bound.subject)]
        for change in own:
            then = compose(wider, gap=GAP).usd_per_hr
            assert change.usd_per_hr <= 0.0
            assert abs(change.usd_per_hr - min(then - plan.usd_per_hr, 0.0)) <= 3 * GAP * plan.usd_per_hr + 1e-6


def with_price(problem: Problem, name: str, usd_per_gpu_hr: float) -> Composition:
    offers = tuple(
        replace(o, usd_per_hr=usd_per_gpu_hr * o.gpus) if offer_name(o) == name else o for o in problem.offers
    )
    return compose(replace(problem, offers=offers), gap=1e-6)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_below_its_break_even_price_an_offer_saves_and_above_it_does_not(seed: int) -> None:
    problem = a_problem(seed, tight=0.3)
    try:
        plan = compose(problem, gap=1e-6)
    except Infeasible:
        assume(False)
        return
    names = [offer_name(offer) for offer in problem.offers]
    for own in sensitivities(problem, plan, gap=1e-6).break_even:
        assert names.count(own.offer) == 1
        above = with_price(problem, own.offer, own.below_usd_per_gpu_hr * 1.01 + 1e-4)
        assert above.usd_per_hr >= plan.usd_per_hr * (1 - 3e-4) - 1e-6
        if own.below_usd_per_gpu_hr > 1e-3:
            below = with_price(problem, own.offer, own.below_usd_per_gpu_hr * 0.97)
            assert below.usd_per_hr < plan.usd_per_hr


def test_a_large_problem_is_asked_in_bounded_time() -> None:
    problem = a_market(0, 5, 8, 20)
    plan = compose(problem)
    found = sensitivities(problem, plan, time_limit_s=0.5)
    assert found.left_out, "half a second is not enough for all"
    assert found.marginals
