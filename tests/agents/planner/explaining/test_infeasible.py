"""An impossible problem names the limits that clash and what would have to give; each remedy is held to the planner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.composition import Infeasible, Problem, Wishes
from poolpilot.agents.planner.demand import Demand
from poolpilot.agents.planner.explaining.conflict import Conflict, Remedy
from poolpilot.agents.planner.explaining.infeasible import conflict_of
from poolpilot.agents.planner.explaining.levers import Lever, Setting
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.agents.planner.solving.posing import offer_name
from poolpilot.env.market.offers import Offer, StockLimit
from poolpilot.tests.env.clusters import SEEDS

from ..problems import a_problem, an_option


def possible(problem: Problem) -> bool:
    try:
        compose(problem, gap=1e-3)
    except Infeasible:
        return False
    return True


def with_value(problem: Problem, kind: str, subject: str, value: float) -> Problem:
    """The problem with one of its limits, or the load of a class, at another value."""
    wishes, demand = problem.wishes, problem.demand
    if kind == "stock":
        offers = tuple(
            replace(o, stock=round(value) // o.gpus) if o.stock is not None and offer_name(o) == subject else o
            for o in problem.offers
        )
        return replace(problem, offers=offers)
    if kind == "shared stock":
        stock = tuple(replace(s, gpus=round(value)) if s.name == subject else s for s in problem.stock)
        return replace(problem, stock=stock)
    if kind == "load":
        own = demand.class_index == demand.class_names.index(subject)
        factor = value / demand.rate_per_s[own].sum()
        rate = np.where(own, demand.rate_per_s * factor, demand.rate_per_s)
        return replace(problem, demand=replace(demand, rate_per_s=rate))
    name = {
        "budget": "budget_usd_per_hr",
        "spot share": "max_spot_share",
        "on-demand floor": "min_on_demand_replicas",
        "replica floor": "min_replicas",
        "head-room": "headroom",
    }[kind]
    whole = kind in ("on-demand floor", "replica floor")
    return replace(problem, wishes=replace(wishes, **{name: round(value) if whole else value}))


def given_way(problem: Problem, *remedies: Remedy) -> Problem:
    for remedy in remedies:
        assert remedy.value is not None
        # A load is rounded down in the text, at a grain that may not fit a solver's tolerance.
        value = remedy.value * (1 - 1e-6) if remedy.kind in ("load", "head-room") else remedy.value
        problem = with_value(problem, remedy.kind, remedy.subject, value)
    return problem


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 2))
def test_every_remedy_works_and_no_smaller_one_does(seed: int, models: int) -> None:
    problem = a_problem(seed, tight=0.8, models=models)
    conflict = conflict_of(problem, time_limit_s=20.0)
    assert (conflict is None) == possible(problem)
    assume(conflict is not None)
    assert conflict is not None
    assert conflict.minimal
    per_class = {"spot share", "on-demand floor", "replica floor"}
    for remedy in conflict.remedies:
        if remedy.kind in per_class and len(problem.demand.class_names) > 1:
            continue  # a wish of all classes or models alike, of which the remedy speaks of one
        if remedy.kind == "head-room" or remedy.value:
            assert possible(given_way(problem, remedy)), remedy
        if remedy.kind == "stock":
            assert remedy.value is not None
            step = max((o.gpus for o in problem.offers if offer_name(o) == remedy.subject), default=1)
            assert not possible(with_value(problem, "stock", remedy.subject, remedy.value - step)), remedy
        if remedy.kind == "budget":
            assert remedy.value is not None
            assert not possible(with_value(problem, "budget", "", remedy.value * (1 - 6e-3) - 0.02)), remedy


def scarce() -> Problem:
    """Eight requests/s on a GPU of which there are two, at the price of three."""
    offers = (Offer("A100-80GB", 2.0, stock=2), Offer("L4", 0.8))
    demand = Demand(("chat", "summaries"), np.array([0, 1]), np.ones(2), np.ones(2), np.array([8.0, 2.0]))
    options = (
        an_option(offers, {0: 1}, np.array([1.5, 3.0])),
        replace(
            an_option(offers, {1: 1}, np.array([0.0, 1.0])),
            why_not=("keeps 97.0 % of the score, and the floor is 99.0 %", ""),
        ),
    )
    return Problem(offers, options, demand, Wishes(headroom=1.0, budget_usd_per_hr=6.0))


def test_in_words() -> None:
    conflict = conflict_of(scarce())
    assert conflict is not None
    said = str(conflict)
    assert "chat cannot be carried even alone: at most 3 of its 8 requests/s" in said
    assert "(1 options: keeps 97.0 % of the score, and the floor is 99.0 %)" in said
    assert "and load of chat (8 requests/s)" in said
    assert "this would do: load of chat at most 3 requests/s (now 8 requests/s)" in said
    assert "or together: stock of A100-80GB at least 6 GPUs (now 2 GPUs); budget at least 12 $/h (now 6 $/h)" in said


def test_where_no_limit_alone_would_do_they_are_named_together() -> None:
    conflict = conflict_of(scarce())
    assert conflict is not None
    assert not [r for r in conflict.remedies if r.kind in ("stock", "budget")]
    assert possible(given_way(scarce(), *conflict.together))


def test_a_lever_gives_way_as_little_as_it_must() -> None:
    problem = replace(scarce(), wishes=Wishes(headroom=1.0))

    def with_floor(*served: float) -> Problem:
        cheap = replace(problem.options[1], capacity_per_s=np.array([served[0], 1.0]))
        return replace(problem, options=(problem.options[0], cheap))

    lever = Lever(
        "quality floor",
        "chat",
        "0.99",
        (
            Setting("0.985", lambda: with_floor(0.0)),
            Setting("0.97", lambda: with_floor(0.5)),
            Setting("0.9", lambda: with_floor(0.9)),
        ),
    )
    conflict = conflict_of(problem, [lever])
    assert conflict is not None
    assert Remedy("quality floor", "chat", "0.99", "0.97") in conflict.remedies
    assert "quality floor of chat 0.97 (now 0.99)" in str(conflict)


@pytest.mark.parametrize(
    ("wishes", "kinds"),
    [
        (Wishes(headroom=1.0, budget_usd_per_hr=3.0), {"budget", "load"}),
        (Wishes(headroom=1.0, min_replicas=9), {"replica floor", "shared stock"}),
        (Wishes(headroom=2.0), {"shared stock", "load"}),
    ],
    ids=["budget", "floor", "head-room"],
)
def test_only_what_clashes_is_named(wishes: Wishes, kinds: set[str]) -> None:
    offers = (Offer("L4", 1.0),)
    demand = Demand(("chat",), np.array([0]), np.ones(1), np.ones(1), np.array([5.0]))
    option = (an_option(offers, {0: 1}, np.ones(1)),)
    stock = (StockLimit("L4", ("L4",), 8),)
    conflict = conflict_of(Problem(offers, option, demand, wishes, stock))
    assert isinstance(conflict, Conflict)
    assert {clash.kind for clash in conflict.clashes} == kinds


def test_a_pools_own_limit_is_said_once_and_raised_alone() -> None:
    offers = (Offer("L4", 1.0, stock=2, provider="pool"), Offer("H100", 4.0, stock=9))
    demand = Demand(("chat",), np.array([0]), np.ones(1), np.ones(1), np.array([5.0]))
    pool = an_option(offers, {0: 1}, np.ones(1), max_replicas=2, name="l4")
    conflict = conflict_of(Problem(offers, (pool,), demand, Wishes(headroom=1.0)))
    assert conflict is not None
    assert {(clash.kind, clash.subject) for clash in conflict.clashes} == {("most replicas", "l4"), ("load", "chat")}
    (remedy,) = [r for r in conflict.remedies if r.kind == "most replicas"]
    assert remedy.value == 5.0


def test_to_carry_nothing_of_a_class_is_no_remedy() -> None:
    problem = scarce()
    options = tuple(replace(o, capacity_per_s=o.capacity_per_s * [0.0, 1.0]) for o in problem.options)
    conflict = conflict_of(replace(problem, options=options))
    assert conflict is not None
    assert not conflict.remedies
    assert "no change of a limit would do" in str(conflict)


def test_what_is_possible_has_no_conflict() -> None:
    assert conflict_of(replace(scarce(), demand=scarce().demand.scaled(0.2))) is None


def test_a_class_that_no_option_serves_is_said() -> None:
    problem = scarce()
    options = tuple(replace(o, capacity_per_s=o.capacity_per_s * [0.0, 1.0]) for o in problem.options)
    conflict = conflict_of(replace(problem, options=options))
    assert conflict is not None
    assert "chat cannot be carried: no option serves it within its targets" in str(conflict)
    assert "by itself impossible: load of chat (8 requests/s)" in str(conflict)
