"""What could be asked for less strictly, each step looser than the one before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from poolpilot.agents.planner.composition import Problem
from poolpilot.agents.planner.explaining.infeasible import conflict_of
from poolpilot.agents.planner.explaining.levers import Lever, levers_of
from poolpilot.agents.planner.problem import problem_of
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.scenario.planning import Planning
from poolpilot.env.workload.load import load_workload


def a_scenario(**planning: Any) -> Scenario:
    return load_scenario("mixed-chat").model_copy(
        update={"planning": Planning.model_validate({"gpus": ["L4", "L40S", "A100"], **planning})}
    )


def posed_from(scenario: Scenario) -> Problem:
    requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return problem_of(scenario, requests)


def by_kind(levers: tuple[Lever, ...], kind: str) -> list[Lever]:
    return [lever for lever in levers if lever.kind == kind]


def test_every_class_has_its_levers() -> None:
    scenario = a_scenario(quality_floor=0.999)
    levers = levers_of(scenario, posed_from)
    for kind in ("targets", "attainment", "quality floor"):
        assert [lever.subject for lever in by_kind(levers, kind)] == list(scenario.class_names), kind
    (floors, *_) = by_kind(levers, "quality floor")
    labels = [float(setting.label) for setting in floors.settings]
    assert floors.now == "0.999"
    assert labels == sorted(labels, reverse=True)
    assert labels[0] < 0.999
    assert [lever.now for lever in by_kind(levers, "routing")] == ["by class"]


def test_own_pools_have_neither_floors_nor_routing_to_give() -> None:
    levers = levers_of(load_scenario("mixed-chat"), posed_from)
    assert {lever.kind for lever in levers} == {"targets", "attainment"}


def test_looser_settings_carry_no_less() -> None:
    scenario = a_scenario(quality_floor=0.999)
    levers = levers_of(scenario, posed_from)
    before = posed_from(scenario)
    for kind in ("targets", "quality floor"):
        (lever, *_) = by_kind(levers, kind)
        own = before.demand.class_index == before.demand.class_names.index(lever.subject)
        most = _most(before, own)
        for setting in (lever.settings[0], lever.settings[-1]):
            after = _most(setting.problem(), own)
            assert (after >= most * (1 - 1e-9)).all(), setting.label
            most = after
        assert (most > _most(before, own)).any(), "the loosest carries more"


def _most(problem: Problem, own: np.ndarray) -> np.ndarray:
    """Best capacity of a dollar for each bucket of a class."""
    return np.max([o.capacity_per_s[own] / sum(o.layout.gpus.values()) for o in problem.options], axis=0)


@pytest.mark.parametrize("kind", ["targets"])
def test_targets_that_nobody_meets_name_those_that_somebody_does(kind: str) -> None:
    scenario = a_scenario()
    name = scenario.class_names[0]
    requests = scenario.classes[name]
    strict = requests.model_copy(update={"target": requests.target.model_copy(update={"ttft_s": 0.02})})
    hard = scenario.model_copy(update={"classes": {**scenario.classes, name: strict}})
    conflict = conflict_of(posed_from(hard), levers_of(hard, posed_from), time_limit_s=30.0)
    assert conflict is not None
    assert [short.name for short in conflict.shortages] == [name]
    assert [(r.kind, r.subject) for r in conflict.remedies if r.kind == kind] == [(kind, name)]
