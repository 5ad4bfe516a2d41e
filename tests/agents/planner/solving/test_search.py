"""Large problems are cut down on the way to the answer; the answer is that of the whole program all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from poolpilot.agents.planner.solving.formulation import mip_of
from poolpilot.agents.planner.solving.highs import Tuning, solve
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.agents.planner.solving.posing import posed
from poolpilot.agents.planner.solving.search import Unsolved

from ..problems import a_market, check

GAP = 5e-3


@pytest.mark.parametrize(
    ("seed", "wishes"),
    [(0, {}), (1, {"rate_per_s": 3.0}), (2, {"min_replicas": 3}), (3, {"rate_per_s": 120.0})],
    ids=["some replicas", "two or three", "a floor", "many"],
)
def test_a_large_problem_is_solved_as_if_nothing_were_left_out(seed: int, wishes: dict[str, Any]) -> None:
    problem = a_market(seed, 6, 8, 30, **wishes)
    own = posed(problem)
    assert own.program.usable.sum() > 600, "large"
    plan = compose(problem, gap=GAP)
    check(problem, plan)
    assert plan.proven
    assert plan.gap <= GAP + 1e-9
    # The same program whole, without the rows and the rounds of `search`.
    mip, _ = mip_of(own.program, own.renting, own.limits, whole_loads=True)
    whole = solve(mip, Tuning(gap=GAP, time_limit_s=60.0))
    assert plan.bound <= whole.cost + 1e-6
    assert whole.bound <= plan.usd_per_hr * (1 + 2e-4) + 1e-6
    assert abs(plan.usd_per_hr - whole.cost) <= 2.2 * GAP * plan.usd_per_hr


def test_options_that_others_replace_are_left_out_without_a_loss() -> None:
    problem = a_market(4, 5, 8, 12)
    own = posed(problem)
    assert len(own.option) < len(problem.options)
    for o in set(range(len(problem.options))) - set(own.option.tolist()):
        capacity, offers = problem.options[o].capacity_per_s, problem.options[o].offers
        gpus = sum(problem.options[o].layout.gpus.values())
        rivals = [problem.options[k] for k in own.option.tolist() if problem.options[k].offers == offers]
        copies = [gpus // sum(rival.layout.gpus.values()) for rival in rivals]
        better = [(n * r.capacity_per_s >= capacity - 1e-12).all() for n, r in zip(copies, rivals, strict=True)]
        assert any(better) or not (capacity > 0).any()


def test_a_budget_serves_most_also_where_options_are_many() -> None:
    problem = a_market(5, 6, 8, 30, budget_usd_per_hr=12.0)
    plan = compose(problem, goodput=True, gap=GAP)
    check(problem, plan)
    assert plan.usd_per_hr <= 12.0
    assert 0.0 < plan.served_per_s.sum() <= plan.bound + 1e-6
    assert plan.gap <= GAP + 1e-9
    less = compose(a_market(5, 6, 8, 30, budget_usd_per_hr=6.0), goodput=True, gap=GAP)
    assert less.served_per_s.sum() < plan.served_per_s.sum()


def test_no_time_is_said() -> None:
    with pytest.raises(Unsolved, match="raise the time limit"):
        compose(a_market(0, 6, 8, 30), time_limit_s=0.0)


def test_no_demand_needs_nothing() -> None:
    problem = a_market(0, 2, 2, 10, rate_per_s=0.0)
    assert not np.any(compose(problem).replicas)
