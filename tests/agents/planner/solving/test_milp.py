"""The plan is the cheapest there is, checked against every other; what does not fit is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from poolpilot.agents.planner.solving.milp import cheapest_plan
from poolpilot.agents.planner.solving.program import SHORTFALL_FACTOR
from poolpilot.env.contract import Cluster, FloatArray, Plan
from poolpilot.tests.env.clusters import SEEDS, a_cluster, row

GAP = 2e-3
"""The solver stops within 1e-3 of the best; steadiness may cost another 1e-4."""


@dataclass(frozen=True)
class Problem:
    cluster: Cluster
    load_per_s: FloatArray
    capacity_per_s: FloatArray
    usd_per_hr: FloatArray

    def plan(self) -> Plan:
        return cheapest_plan(self.cluster, self.load_per_s, self.capacity_per_s, self.usd_per_hr)


def a_problem(seed: int, c: int, p: int, load: float = 4.0) -> Problem:
    """Up to three replicas a pool; `load` times a replica's capacity in all, roughly."""
    rng = np.random.default_rng(seed)
    cluster = row(a_cluster(rng, 1, c, p), 0)
    high = rng.integers(1, 4, p).astype(float)
    cluster = replace(cluster, max_replicas=high, min_replicas=np.minimum(rng.integers(0, 2, p), high))
    capacity = np.where(cluster.serves, rng.uniform(1.0, 4.0, (c, p)), 0.0)
    return Problem(cluster, rng.uniform(0.0, load, c), capacity, rng.uniform(0.5, 5.0, p))


def shortfall_usd(problem: Problem, counts: FloatArray) -> float:
    """Price of what these counts cannot carry, by a linear program over routing alone."""
    c, p = problem.capacity_per_s.shape
    penalty = SHORTFALL_FACTOR * problem.usd_per_hr.max()
    usable = problem.cluster.serves & (problem.capacity_per_s > 0)
    work = np.divide(problem.load_per_s[:, None], problem.capacity_per_s, out=np.zeros((c, p)), where=usable)
    within = np.zeros((p, c * p + c))
    for k, q in product(range(c), range(p)):
        within[q, k * p + q] = work[k, q]
    routed = np.concatenate([np.kron(np.eye(c), np.ones(p)), np.eye(c)], axis=1)
    cost = np.concatenate([np.zeros(c * p), np.full(c, penalty)])
    bounds = [(0, 1 if ok else 0) for ok in usable.ravel()] + [(0, 1)] * c
    found = linprog(cost, A_ub=within, b_ub=counts, A_eq=routed, b_eq=np.ones(c), bounds=bounds)
    assert found.status == 0
    return float(found.fun)


def cheapest_by_trying_all(problem: Problem) -> float:
    """Rent and shortfall of the best of all counts."""
    ranges = [
        range(int(low), int(high) + 1)
        for low, high in zip(problem.cluster.min_replicas, problem.cluster.max_replicas, strict=True)
    ]
    best = np.inf
    for counts in product(*ranges):
        rent = float((np.array(counts) * problem.usd_per_hr).sum())
        if rent < best:
            best = min(best, rent + shortfall_usd(problem, np.array(counts, dtype=float)))
    return best


def total_usd(problem: Problem, plan: Plan) -> float:
    short = 1.0 - plan.attainment / problem.cluster.targets.attainment
    return float(plan.usd_per_hr + SHORTFALL_FACTOR * problem.usd_per_hr.max() * short.sum())


def used(problem: Problem, plan: Plan) -> FloatArray:
    """`[P]` replicas that the plan's routing needs."""
    load = problem.load_per_s[:, None] * plan.route
    capacity = problem.capacity_per_s
    return np.divide(load, capacity, out=np.zeros_like(load), where=capacity > 0).sum(axis=0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("c", "p"), [(1, 2), (2, 2), (2, 3)])
def test_no_other_counts_are_cheaper(seed: int, c: int, p: int) -> None:
    problem = a_problem(seed, c, p)
    best = cheapest_by_trying_all(problem)
    found = total_usd(problem, problem.plan())
    assert found <= best * (1 + GAP) + 1e-6
    assert found >= best * (1 - 1e-6) - 1e-6, "cheaper than possible: something is not carried"


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_a_plan_is_whole_within_limits_and_carries_what_it_says(seed: int, c: int, p: int) -> None:
    problem = a_problem(seed, c, p)
    cluster, plan = problem.cluster, problem.plan()
    assert (plan.replicas == np.round(plan.replicas)).all()
    assert (plan.replicas >= cluster.min_replicas).all()
    assert (plan.replicas <= cluster.max_replicas).all()
    assert np.allclose(plan.route.sum(axis=1), 1.0)
    assert (plan.route[~cluster.serves] == 0).all()
    assert float(plan.usd_per_hr) == pytest.approx(float((plan.replicas * problem.usd_per_hr).sum()))
    assert (plan.attainment <= cluster.targets.attainment + 1e-9).all()
    if (plan.attainment > cluster.targets.attainment - 1e-6).all():
        assert (used(problem, plan) <= plan.replicas + 1e-5).all()
    assert np.array_equal(plan.load_per_s, problem.load_per_s)
    assert np.array_equal(plan.capacity_per_s, problem.capacity_per_s)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_never_dearer_than_the_best_fleet_of_one_pool(seed: int, c: int, p: int) -> None:
    problem = a_problem(seed, c, p)
    free = replace(problem, cluster=replace(problem.cluster, min_replicas=np.zeros(p)))
    plan = free.plan()
    for q in range(p):
        if problem.cluster.serves[:, q].all():
            alone = np.ceil((problem.load_per_s / problem.capacity_per_s[:, q]).sum() - 1e-9)
            if alone <= problem.cluster.max_replicas[q]:
                assert float(plan.usd_per_hr) <= alone * problem.usd_per_hr[q] * (1 + GAP) + 1e-6


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.1, 1.0))
def test_a_cheaper_price_never_raises_the_bill(seed: int, factor: float) -> None:
    problem = a_problem(seed, 2, 3, load=2.0)
    cheaper = replace(problem, usd_per_hr=problem.usd_per_hr * np.array([factor, 1.0, 1.0]))
    before, after = problem.plan(), cheaper.plan()
    if (before.attainment >= problem.cluster.targets.attainment - 1e-6).all():
        assert float(after.usd_per_hr) <= float(before.usd_per_hr) * (1 + GAP) + 1e-6


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1.0, 3.0))
def test_more_load_is_never_cheaper(seed: int, factor: float) -> None:
    problem = a_problem(seed, 2, 3, load=1.5)
    more = replace(problem, load_per_s=problem.load_per_s * factor)
    before, after = total_usd(problem, problem.plan()), total_usd(more, more.plan())
    assert after >= before * (1 - GAP) - 1e-6


def one_pool(load: float, capacity: float = 1.0, low: float = 0.0, high: float = 4.0) -> Problem:
    problem = a_problem(0, 1, 1)
    cluster = replace(problem.cluster, serves=np.array([[True]]), min_replicas=np.array([low]))
    cluster = replace(cluster, max_replicas=np.array([high]))
    cluster = replace(cluster, targets=replace(cluster.targets, attainment=np.array([0.9])))
    return Problem(cluster, np.array([load]), np.array([[capacity]]), np.array([2.0]))


@pytest.mark.parametrize(
    ("problem", "replicas", "attainment"),
    [
        (one_pool(2.5), 3, 0.9),
        (one_pool(3.0), 3, 0.9),
        (one_pool(0.0), 0, 0.9),
        (one_pool(0.0, low=2.0), 2, 0.9),
        (one_pool(8.0), 4, 0.45),
        (one_pool(1.0, capacity=0.0), 0, 0.0),
    ],
    ids=["rounded up", "an exact fit", "no load", "minimum replicas", "half of it fits", "nothing fits"],
)
def test_what_does_not_fit_shows_in_the_attainment(problem: Problem, replicas: int, attainment: float) -> None:
    plan = problem.plan()
    assert plan.replicas.tolist() == [replicas]
    assert plan.attainment == pytest.approx([attainment], abs=2e-3)
    assert plan.route.tolist() == [[1.0]]


def test_a_start_is_weighed_against_what_runs() -> None:
    base = a_problem(0, 1, 2)
    cluster = replace(
        base.cluster,
        serves=np.ones((1, 2), dtype=np.bool_),
        min_replicas=np.zeros(2),
        max_replicas=np.full(2, 3.0),
        cold_start_s=np.full(2, 90.0),
    )
    load, capacity, price = np.array([1.0]), np.ones((1, 2)), np.array([1.0, 0.95])
    cold = cheapest_plan(cluster, load, capacity, price)
    assert cold.replicas.tolist() == [0.0, 1.0]
    warm = cheapest_plan(cluster, load, capacity, price, running=np.array([1.0, 0.0]))
    assert warm.replicas.tolist() == [1.0, 0.0], "5 % less rent is not worth a cold start"
    much = cheapest_plan(cluster, load, capacity, np.array([1.0, 0.1]), running=np.array([1.0, 0.0]))
    assert much.replicas.tolist() == [0.0, 1.0]
