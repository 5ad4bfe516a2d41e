"""Baselines keep to the same limits as the plan, and no plan is worse than them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.baselines import (
    Growth,
    alike,
    carries_all,
    homogeneous,
    most_load,
    most_load_alike,
    most_load_greedily,
    most_load_homogeneous,
    planned,
)
from poolpilot.agents.planner.composition import Composition, Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.greedy import greedy
from poolpilot.env.market.offers import Offer
from poolpilot.tests.env.clusters import SEEDS

from .problems import a_problem, allowed, an_option, gpus_of, is_spot, rent

SLACK = 1.0 + 5e-3 + 3e-4
"""The solver's gap, and what steadiness may cost."""


def without_floors(problem: Problem) -> Problem:
    """Where nothing has to be rented that the load does not ask for."""
    wishes = replace(problem.wishes, min_replicas=0, min_on_demand_replicas=0)
    return replace(problem, wishes=wishes)


def holds(problem: Problem, mix: Composition) -> None:
    """A mix keeps to stock, budget and spot share, and what is sent to replicas fits them."""
    assert allowed(without_floors(problem), mix.replicas)
    assert mix.usd_per_hr == pytest.approx(rent(problem, mix.replicas))
    rate, headroom = problem.demand.rate_per_s, problem.wishes.headroom
    for o, option in enumerate(problem.options):
        able = option.capacity_per_s > 0
        assert (mix.share[~able & (rate > 0), o] == 0).all()
        work = (mix.share[able, o] * rate[able] / option.capacity_per_s[able]).sum() * headroom
        assert work <= mix.replicas[o] + 1e-6
    assert (mix.share.sum(axis=1) <= 1 + 1e-9).all()
    spot = np.array([is_spot(problem, option) for option in problem.options])
    for c in range(len(problem.demand.class_names)):
        own = (problem.demand.class_index == c) & (rate > 0)
        served = rate[own] @ mix.share[own]
        assert served[spot].sum() <= problem.wishes.max_spot_share * rate[own].sum() + 1e-6


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 2))
def test_no_baseline_is_cheaper_than_the_plan(seed: int, models: int) -> None:
    problem = a_problem(seed, models=models)
    plan, mix = planned(problem), greedy(problem)
    holds(problem, mix)
    rivals = [*homogeneous(problem).values(), *alike(problem).values()]
    if carries_all(problem, mix) and allowed(problem, mix.replicas):
        rivals.append(mix)
    for rival in rivals:
        if isinstance(rival, Composition):
            assert isinstance(plan, Composition)
            assert plan.usd_per_hr <= rival.usd_per_hr * SLACK + 1e-9


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(1.0, 20.0))
def test_no_baseline_carries_more_for_the_budget_than_the_plan(seed: int, budget: float) -> None:
    problem = without_floors(a_problem(seed))
    plan = most_load(problem, budget)
    rivals = [
        *most_load_homogeneous(problem, budget).values(),
        *most_load_alike(problem, budget).values(),
        most_load_greedily(problem, budget),
    ]
    for growth in (plan, *rivals):
        assert growth.factor <= plan.factor * SLACK + 1e-9
        carries(problem, growth, budget)


def carries(problem: Problem, growth: Growth, budget: float) -> None:
    """A growth's fleet carries that much for that much."""
    if growth.composition is None:
        assert growth.factor == 0.0
        return
    assert growth.composition.usd_per_hr <= budget + 1e-6
    grown = replace(
        problem,
        demand=problem.demand.scaled(growth.factor * (1.0 - 1e-5)),
        wishes=replace(problem.wishes, budget_usd_per_hr=budget),
    )
    holds(grown, growth.composition)
    assert carries_all(grown, growth.composition)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1.0, 10.0), st.floats(1.0, 3.0))
def test_a_larger_budget_never_carries_less(seed: int, budget: float, times: float) -> None:
    problem = without_floors(a_problem(seed))
    assert most_load(problem, budget * times).factor >= most_load(problem, budget).factor * (2.0 - SLACK) - 1e-9


def two_kinds(rate: float = 4.0, **wishes: object) -> Problem:
    """Long and short requests; `small` is cheap for short ones, `large` for long ones."""
    offers = (
        Offer("L4", 1.0, machine_gpus=8, stock=3),
        Offer("H100", 5.0, machine_gpus=8),
    )
    options = (
        an_option(offers, {0: 1}, np.array([0.1, 2.0]), name="small"),
        an_option(offers, {1: 1}, np.array([2.0, 4.0]), name="large"),
    )
    lengths = np.array([2000.0, 100.0])
    demand = Demand(("long", "short"), np.arange(2), lengths, lengths, np.array([rate / 4.0, rate]))
    return Problem(offers, options, demand, Wishes(headroom=1.0, **wishes))  # type: ignore[arg-type]


def test_greedy_serves_each_kind_where_it_is_cheapest_and_fills_what_is_paid_for() -> None:
    mix = greedy(two_kinds())
    # The dearer kind first: half a large replica of long ones; the short ones fill its other half, and one small one.
    np.testing.assert_allclose(mix.replicas, [1.0, 1.0])
    np.testing.assert_allclose(mix.share, [[0.0, 1.0], [0.5, 0.5]])
    assert mix.usd_per_hr == pytest.approx(6.0)


def test_greedy_goes_on_where_the_cheapest_is_sold_out() -> None:
    mix = greedy(two_kinds(rate=16.0))
    assert mix.replicas[0] == 3
    assert carries_all(two_kinds(rate=16.0), mix)


def test_greedy_says_what_a_budget_leaves_out() -> None:
    problem = two_kinds(rate=16.0, budget_usd_per_hr=6.0)
    mix = greedy(problem)
    assert mix.usd_per_hr <= 6.0
    assert not carries_all(problem, mix)
    assert 0.0 < mix.share.sum() < 2.0


def test_a_fleet_of_one_type_has_only_that_type() -> None:
    problem = two_kinds()
    for f, (gpu, fleet) in enumerate(homogeneous(problem).items()):
        assert gpu == problem.offers[f].gpu
        if isinstance(fleet, Composition):
            taken = gpus_of(problem, fleet.replicas)
            assert taken[f] == taken.sum() > 0
    growth = most_load_homogeneous(problem, 10.0)
    assert growth["H100"].factor == pytest.approx(2 / 1.5, rel=5e-3)  # 0.5 + 1 replicas for the load, two to be had


def test_spare_and_floors_are_kept() -> None:
    mix = greedy(two_kinds(min_replicas=5))
    assert mix.replicas.sum() == 5
    assert mix.replicas[0] == 3  # the cheapest, as far as there are any
