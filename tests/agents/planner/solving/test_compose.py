"""The composition is the cheapest there is, or serves most: checked against every other one, and by what must follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.composition import Composition, Infeasible, Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.env.contract import FloatArray
from poolpilot.env.market.offers import Offer, StockLimit
from poolpilot.tests.env.clusters import SEEDS

from ..problems import a_problem, allowed, an_option, check, every_count, most_served, rent, starts

GAP = 1e-3
SLACK = 1.0 + GAP + 3e-4
"""Steadiness may cost 1e-4 of the bill."""
MOST = 5
"""Replicas of an option that are tried."""


def plan_of(problem: Problem, **more: Any) -> Composition | None:
    """The composition, looked over; None where there is none."""
    try:
        plan = compose(problem, gap=GAP, **more)
    except Infeasible:
        return None
    check(problem, plan)
    assert plan.proven
    assert plan.gap <= GAP + 1e-9
    return plan


def weighed(problem: Problem, replicas: FloatArray) -> float:
    return rent(problem, replicas) + starts(problem, replicas)


def cheapest_of_all(problem: Problem) -> float:
    """By trying every count; infinite where none will do."""
    total, best = float(problem.demand.rate_per_s.sum()), np.inf
    for counts in every_count(problem, MOST):
        usd = weighed(problem, counts)
        if usd < best and allowed(problem, counts):
            served = most_served(problem, counts)
            if served is not None and served >= total - 1e-7:
                best = usd
    return best


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 2), st.booleans())
def test_no_other_composition_is_cheaper(seed: int, models: int, counted: bool) -> None:
    problem = a_problem(seed, models=models, counted=counted)
    best, plan = cheapest_of_all(problem), plan_of(problem)
    if plan is None:
        assert best == np.inf, "there was one"
        return
    assert weighed(problem, plan.replicas) <= best * SLACK + 1e-9
    assert plan.bound <= weighed(problem, plan.replicas) + 1e-6
    if plan.replicas.max() <= MOST:
        assert weighed(problem, plan.replicas) >= best - 1e-6, "cheaper than possible"
        assert plan.bound <= best + 1e-6, "the bound is none"


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 2))
def test_no_other_composition_serves_more_for_the_budget(seed: int, models: int) -> None:
    problem = a_problem(seed, models=models)
    budget = float(np.random.default_rng(seed + 1).uniform(1.0, 8.0))
    problem = replace(problem, wishes=replace(problem.wishes, budget_usd_per_hr=budget))
    reached = [
        (served, weighed(problem, counts))
        for counts in every_count(problem, MOST)
        if allowed(problem, counts) and (served := most_served(problem, counts)) is not None
    ]
    plan = plan_of(problem, goodput=True)
    if plan is None:
        assert not reached
        return
    assume(plan.replicas.max() <= MOST)
    best = max(served for served, _ in reached)
    own = float(plan.served_per_s.sum())
    assert own >= best * (1 - GAP) - 1e-6
    assert own <= best + 1e-5
    assert plan.bound >= best - 1e-5
    cheapest = min(usd for served, usd in reached if served >= own - 1e-6)
    assert weighed(problem, plan.replicas) <= cheapest * SLACK + 1e-6


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_never_dearer_than_the_best_fleet_of_one_gpu_type(seed: int) -> None:
    problem = a_problem(seed, tight=0.2)
    plan = plan_of(problem)
    for f in range(len(problem.offers)):
        alone = tuple(option for option in problem.options if option.offers == (f,))
        other = plan_of(replace(problem, options=alone)) if alone else None
        if other is not None:
            assert plan is not None
            assert plan.usd_per_hr <= other.usd_per_hr * SLACK + 1e-9


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.1, 1.0))
def test_a_cheaper_price_never_costs_more(seed: int, factor: float) -> None:
    problem = a_problem(seed)
    first = replace(problem.offers[0], usd_per_hr=problem.offers[0].usd_per_hr * factor)
    before, after = plan_of(problem), plan_of(replace(problem, offers=(first, *problem.offers[1:])))
    if before is not None:
        assert after is not None
        assert after.usd_per_hr <= before.usd_per_hr * SLACK + 1e-9


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 3))
def test_more_stock_never_costs_more(seed: int, more: int) -> None:
    problem = a_problem(seed, tight=0.7)
    offers = tuple(o if o.stock is None else replace(o, stock=o.stock + more) for o in problem.offers)
    stock = tuple(replace(limit, gpus=limit.gpus + more) for limit in problem.stock)
    before, after = plan_of(problem), plan_of(replace(problem, offers=offers, stock=stock))
    if before is not None:
        assert after is not None
        assert after.usd_per_hr <= before.usd_per_hr * SLACK + 1e-9


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1.0, 6.0), st.floats(1.0, 2.0))
def test_a_looser_budget_never_serves_less(seed: int, budget: float, factor: float) -> None:
    problem = a_problem(seed)
    served = []
    for usd in (budget, budget * factor):
        plan = plan_of(replace(problem, wishes=replace(problem.wishes, budget_usd_per_hr=usd)), goodput=True)
        served.append(0.0 if plan is None else float(plan.served_per_s.sum()))
    assert served[1] >= served[0] * (1 - GAP) - 1e-6


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_same_problem_gets_the_same_answer(seed: int) -> None:
    one, other = plan_of(a_problem(seed)), plan_of(a_problem(seed))
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert np.array_equal(one.replicas, other.replicas)
        assert np.array_equal(one.share, other.share)


def plain(rate: float = 2.0, capacity: float = 1.0, wishes: Wishes | None = None, **offer: Any) -> Problem:
    """One class on one option at 2 $/h."""
    offers = (Offer("L4", 2.0, **offer),)
    demand = Demand(("chat",), np.array([0]), np.array([100.0]), np.array([50.0]), np.array([rate]))
    options = (an_option(offers, {0: 1}, np.array([capacity])),)
    return Problem(offers, options, demand, wishes or Wishes(headroom=1.0))


@pytest.mark.parametrize(
    ("problem", "replicas", "units"),
    [
        (plain(2.0), 2, 2),
        (plain(2.001), 3, 3),
        (plain(2.0, wishes=Wishes(headroom=1.1)), 3, 3),
        (plain(2.5, gpus=2), 3, 2),
        (plain(0.0), 0, 0),
        (plain(0.5, wishes=Wishes(headroom=1.0, min_replicas=2)), 2, 2),
        (plain(0.5, wishes=Wishes(headroom=1.0, min_on_demand_replicas=3)), 3, 3),
        (plain(0.0, wishes=Wishes(headroom=1.0, min_replicas=2)), 0, 0),
    ],
    ids=["an exact fit", "rounded up", "head-room", "units of two GPUs", "no demand", "one may fail",
         "on-demand floor", "no floor for a model that nobody asks for"],
)  # fmt: skip
def test_counts_of_one_option(problem: Problem, replicas: int, units: int) -> None:
    plan = compose(problem)
    assert plan.replicas.tolist() == [replicas]
    assert plan.units.tolist() == [units]
    assert plan.usd_per_hr == 2.0 * units


@pytest.mark.parametrize(
    "problem",
    [
        plain(3.0, stock=2),
        plain(3.0, wishes=Wishes(headroom=1.0, budget_usd_per_hr=5.9)),
        plain(3.0, kind="spot", wishes=Wishes(headroom=1.0, max_spot_share=0.9)),
        plain(3.0, kind="spot", wishes=Wishes(headroom=1.0, min_on_demand_replicas=1)),
        plain(3.0, capacity=0.0),
        replace(plain(3.0), stock=(StockLimit("L4", ("L4",), 2),)),
    ],
    ids=["stock", "budget", "spot share", "on-demand floor", "no capacity", "stock of several offers"],
)
def test_what_cannot_be_is_infeasible(problem: Problem) -> None:
    with pytest.raises(Infeasible):
        compose(problem)


@pytest.mark.parametrize("goodput", [False, True])
@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_nothing_on_offer_serves_nothing(rate: float, goodput: bool) -> None:
    problem = replace(plain(rate, wishes=Wishes(budget_usd_per_hr=3.0)), offers=(), options=())
    if rate and not goodput:
        with pytest.raises(Infeasible):
            compose(problem)
        return
    plan = compose(problem, goodput=goodput)
    assert plan.usd_per_hr == 0.0
    assert plan.served_per_s.tolist() == [0.0]


def two_lengths(by_length: bool, rare: float) -> Problem:
    """Short prompts, and a share `rare` of long ones that the cheap GPU cannot serve."""
    offers = (Offer("L4", 1.0), Offer("H100", 5.0))
    rate = np.array([4.0 * (1 - rare), 4.0 * rare])
    demand = Demand(("chat",), np.array([0, 0]), np.array([100.0, 9000.0]), np.array([50.0, 50.0]), rate)
    options = (
        an_option(offers, {0: 1}, np.array([1.0, 0.0])),
        an_option(offers, {1: 1}, np.array([4.0, 2.0])),
    )
    return Problem(offers, options, demand, Wishes(headroom=1.0, route_by_length=by_length))


def test_long_prompts_go_where_they_fit_only_where_lengths_are_routed() -> None:
    by_length, whole = compose(two_lengths(True, 0.25)), compose(two_lengths(False, 0.25))
    assert by_length.replicas.tolist() == [1, 1]
    assert by_length.share[1].tolist() == [0.0, 1.0]
    assert whole.replicas.tolist() == [0, 2], "a proxy that knows classes only would send long prompts to the L4"
    rare = compose(two_lengths(False, 5e-4))
    assert rare.replicas.tolist() == [4, 0], "a handful of misses is within any attainment"
    assert rare.served_per_s.sum() == pytest.approx(4.0 * (1 - 5e-4))


def test_models_share_a_stock_but_no_replicas() -> None:
    offers = (Offer("L4", 1.0, stock=5),)
    demand = Demand(("a", "b"), np.array([0, 1]), np.ones(2), np.ones(2), np.array([1.5, 2.5]))
    options = tuple(
        an_option(offers, {0: 1}, np.where(np.arange(2) == i, 1.0, 0.0), model=f"m{i}", name=f"o{i}") for i in range(2)
    )
    problem = Problem(offers, options, demand, Wishes(headroom=1.0))
    plan = compose(problem)
    assert plan.replicas.tolist() == [2, 3]
    assert [bound.kind for bound in plan.binding] == ["stock"]
    floors = compose(replace(problem, offers=(Offer("L4", 1.0),), wishes=Wishes(headroom=1.0, min_replicas=3)))
    assert floors.replicas.tolist() == [3, 3]


def test_spot_carries_its_share_of_every_class_and_no_more() -> None:
    offers = (Offer("L4", 2.0), Offer("L4", 0.5, kind="spot"))
    demand = Demand(("a", "b"), np.array([0, 1]), np.ones(2), np.ones(2), np.array([10.0, 10.0]))
    options = tuple(an_option(offers, {f: 1}, np.ones(2)) for f in range(2))
    plan = compose(Problem(offers, options, demand, Wishes(headroom=1.0, max_spot_share=0.5)))
    assert plan.replicas.tolist() == [10, 10]
    np.testing.assert_allclose(plan.share[:, 1], 0.5, atol=1e-6)


def test_a_running_fleet_is_changed_only_where_that_pays_for_the_starts() -> None:
    offers = (Offer("L4", 1.0), Offer("L40S", 0.95))
    demand = Demand(("chat",), np.array([0]), np.ones(1), np.ones(1), np.array([1.0]))
    options = tuple(an_option(offers, {f: 1}, np.ones(1), start_usd=0.5, running=1 - f) for f in range(2))
    stays = compose(Problem(offers, options, demand, Wishes(headroom=1.0)))
    assert stays.replicas.tolist() == [1, 0]
    much = (offers[0], Offer("L40S", 0.3))
    moves = compose(Problem(much, options, demand, Wishes(headroom=1.0)))
    assert moves.replicas.tolist() == [0, 1]


def test_a_mix_is_served_in_proportion() -> None:
    offers = (Offer("L4", 1.0),)
    demand = Demand(("light", "heavy"), np.array([0, 1]), np.ones(2), np.ones(2), np.array([10.0, 10.0]))
    options = (an_option(offers, {0: 1}, np.array([4.0, 1.0])),)
    problem = Problem(offers, options, demand, Wishes(headroom=1.0, budget_usd_per_hr=5.0))
    free, even = compose(problem, goodput=True), compose(problem, goodput=True, in_proportion=True)
    np.testing.assert_allclose(free.served_per_s, [10.0, 2.5], atol=1e-4)
    np.testing.assert_allclose(even.served_per_s, [4.0, 4.0], atol=1e-4)
    tokens = compose(problem, goodput=True, value_per_request=np.array([1.0, 9.0]))
    np.testing.assert_allclose(tokens.served_per_s, [0.0, 5.0], atol=1e-4)
