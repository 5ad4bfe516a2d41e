"""Baselines keep to the same limits as the plan, and no plan is worse than them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.baselines import (
    alike,
    carries_all,
    homogeneous,
    most_load,
    most_load_greedily,
    most_load_homogeneous,
    planned,
)
from poolpilot.agents.planner.composition import Composition, Problem
from poolpilot.agents.planner.greedy import greedy
from poolpilot.tests.env.clusters import SEEDS

from .problems import a_problem, allowed, an_option, check, rent

GAP = 5e-3
SLACK = 1.0 + GAP + 3e-4
"""Of the solver, and what steadiness may cost."""


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 2))
def test_no_baseline_is_cheaper_than_the_plan(seed: int, models: int) -> None:
    problem = a_problem(seed, models=models)
    plan, mix = planned(problem), greedy(problem)
    rivals = [*homogeneous(problem).values(), *alike(problem).values()]
    if carries_all(problem, mix) and allowed(problem, mix.replicas):
        rivals.append(mix)
    for rival in rivals:
        if isinstance(rival, Composition):
            assert isinstance(plan, Composition)
            assert plan.usd_per_hr <= rival.usd_per_hr * SLACK + 1e-9
