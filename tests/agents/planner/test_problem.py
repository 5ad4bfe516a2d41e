"""What a scenario's pools and load mean to the planner."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.agents.planner.composition import Problem
from poolpilot.agents.planner.problem import problem_of
from poolpilot.env.scenario import Scenario, load_scenario, shipped_scenarios
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.requests import Workload


def loaded(name: str) -> tuple[Scenario, Workload]:
    scenario = load_scenario(name)
    return scenario, load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)


def of(name: str, **wishes: float) -> Problem:
    return problem_of(*loaded(name), **wishes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(shipped_scenarios()))
def test_own_pools_are_the_options(name: str) -> None:
    scenario, workload = loaded(name)
    problem = problem_of(scenario, workload)
    assert [option.name for option in problem.options] == list(scenario.pools)
    cluster = scenario.cluster()
    for p, option in enumerate(problem.options):
        pool = scenario.pools[option.name]
        rent = sum(problem.offers[f].usd_per_hr for f in option.offers)
        assert rent == pytest.approx(pool.price.usd_per_hr)
        assert sum(option.layout.gpus.values()) == pool.gpus
        assert all(problem.offers[f].stock == pool.replicas.max for f in option.offers)
        served = cluster.serves[problem.demand.class_index, p]
        assert ((option.capacity_per_s > 0) == served).all()
        assert [not reason for reason in option.why_not] == served.tolist()


def test_a_looser_attainment_never_carries_less_and_replaces_every_class_s_own() -> None:
    strict, loose = of("mixed-chat", attainment=0.99), of("mixed-chat", attainment=0.9)
    for one, other in zip(strict.options, loose.options, strict=True):
        assert (other.capacity_per_s >= one.capacity_per_s * (1 - 1e-9)).all()


@pytest.mark.parametrize("attainment", [0.0, 1.0, 1.5])
def test_an_attainment_that_cannot_be_planned_for_is_refused(attainment: float) -> None:
    with pytest.raises(ValueError, match=r"attainment: .*wanted a share above 0 and below 1"):
        of("mixed-chat", attainment=attainment)


def test_wishes_come_from_the_scenario_unless_given() -> None:
    scenario, workload = loaded("mixed-chat")
    guard = scenario.guard.model_copy(update={"budget_usd_per_hr": 12.5})
    limited = scenario.model_copy(update={"guard": guard})
    assert problem_of(limited, workload).wishes.budget_usd_per_hr == 12.5
    given = problem_of(limited, workload, budget_usd_per_hr=9.0, headroom=1.3).wishes
    assert (given.budget_usd_per_hr, given.headroom) == (9.0, 1.3)


def test_buckets_serve_the_same_classes_as_whole_classes_do() -> None:
    scenario, workload = loaded("two-models")
    problem = problem_of(scenario, workload, buckets=12)
    assert len(problem.demand.class_index) > 12
    cluster = scenario.cluster()
    for p, option in enumerate(problem.options):
        assert not np.any(option.capacity_per_s[~cluster.serves[problem.demand.class_index, p]])
