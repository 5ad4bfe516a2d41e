"""A fleet that is planned again keeps to budget, spot share and floors, by whichever solver."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog

from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.replan import Replanner, replanner_of
from poolpilot.agents.planner.solving.milp import cheapest_plan
from poolpilot.agents.planner.solving.program import SHORTFALL_FACTOR
from poolpilot.agents.planner.solving.together import PlansTogether
from poolpilot.agents.planner.wishes import FleetWishes, keeps, wishes_of
from poolpilot.env.batch import ClusterBatch
from poolpilot.env.contract import Cluster, FloatArray
from poolpilot.env.scenario import load_scenario
from poolpilot.env.scenario.fleet import Fleet
from poolpilot.env.scenario.planning import Planning
from poolpilot.env.workload.load import load_workload
from poolpilot.tests.env.clusters import SEEDS, a_cluster, row
from poolpilot.training.worlds import episode_of

GAP = 2e-3


def a_fleet(seed: int) -> tuple[Cluster, FleetWishes, FloatArray, FloatArray, FloatArray]:
    """Two classes on three pools of up to three replicas: cluster, wishes, load, capacity, price."""
    rng = np.random.default_rng(seed)
    cluster = row(a_cluster(rng, 1, 2, 3), 0)
    high = rng.integers(1, 4, 3).astype(float)
    cluster = replace(cluster, max_replicas=high, min_replicas=np.minimum(rng.integers(0, 2, 3), high))
    capacity = np.where(cluster.serves, rng.uniform(1.0, 4.0, (2, 3)), 0.0)
    models = np.array([[True, True, False], [False, False, True]])
    wishes = FleetWishes(
        models if rng.random() < 0.5 else np.ones((1, 3), dtype=np.bool_),
        budget_usd_per_hr=float(rng.choice([np.inf, rng.uniform(3.0, 20.0)])),
        max_spot_share=float(rng.choice([0.0, 0.4, 1.0])),
        min_on_demand_replicas=int(rng.integers(0, 2)),
        min_replicas=int(rng.integers(0, 3)),
    )
    return cluster, wishes, rng.uniform(0.2, 4.0, 2), capacity, rng.uniform(0.5, 5.0, 3)


def least_shortfall(
    cluster: Cluster, spot_share: float, load: FloatArray, capacity: FloatArray, n: FloatArray
) -> float:
    """Classes' shares that these counts leave out, at least, by a linear program over routing alone."""
    c, p = capacity.shape
    usable = capacity > 0
    work = np.divide(load[:, None], capacity, out=np.zeros((c, p)), where=usable)
    upper, limit = np.zeros((p + 2 * c, c * p)), np.concatenate([n, np.ones(c), np.zeros(c)])
    for k, q in product(range(c), range(p)):
        upper[q, k * p + q] = work[k, q]
        upper[p + k, k * p + q] = 1.0
        upper[p + c + k, k * p + q] = float(cluster.spot[q]) - spot_share
    found = linprog(-np.ones(c * p), upper, limit, bounds=[(0, 1 if ok else 0) for ok in usable.ravel()])
    assert found.status == 0
    return float(c + found.fun)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_no_plan_that_keeps_to_the_wishes_is_cheaper(seed: int) -> None:
    cluster, wishes, load, capacity, price = a_fleet(seed)
    plan = cheapest_plan(cluster, load, capacity, price, wishes=wishes)
    penalty = SHORTFALL_FACTOR * price.max()
    floors = [
        (held & cond, min(least, cluster.max_replicas[held & cond].sum()))
        for held in wishes.models
        for cond, least in ((~cluster.spot, wishes.min_on_demand_replicas), (True, wishes.min_replicas))
    ]
    ranges = [
        range(int(low), int(high) + 1) for low, high in zip(cluster.min_replicas, cluster.max_replicas, strict=True)
    ]
    kept = [n for n in map(np.array, product(*ranges)) if all(n[own].sum() >= least for own, least in floors)]
    budget = max(wishes.budget_usd_per_hr, float(price @ cluster.min_replicas))
    affordable = [n for n in kept if n @ price <= budget + 1e-9]
    assert any(np.array_equal(plan.replicas, n) for n in affordable or kept)
    best = min(
        n @ price + penalty * least_shortfall(cluster, wishes.max_spot_share, load, capacity, n)
        for n in affordable or kept
    )
    short = 1.0 - plan.attainment / cluster.targets.attainment
    assert float(plan.usd_per_hr) + penalty * short.sum() <= best * (1 + GAP) + 1e-6
    if affordable and short.sum() < 1e-9 and budget == wishes.budget_usd_per_hr:
        assert keeps(wishes, cluster, plan, price)


def old_and_new(**planning: object) -> Replanner:
    scenario = load_scenario("spot-storm").model_copy(update={"planning": Planning.model_validate(planning)})
    requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return replanner_of(scenario, requests)


def test_a_scenarios_wishes_reach_the_plans_of_its_fleet() -> None:
    free = replace(old_and_new(), wishes=None)
    load = np.full(len(free.cluster.class_names), 3.0)
    before = free.first(load)
    spot = free.cluster.spot
    assert before.replicas[spot].sum() > 0, "spot is cheaper"
    careful = old_and_new(max_spot_share=0.3, min_on_demand_replicas=1, headroom=1.1)
    plan = careful.first(load)
    assert ((plan.route * spot).sum(axis=1) <= 0.3 + 1e-6).all()
    assert plan.replicas[~spot].sum() >= 1
    assert plan.usd_per_hr > before.usd_per_hr
    half = old_and_new(max_spot_share=1.0, budget_usd_per_hr=float(before.usd_per_hr) / 2)
    poor = half.first(load)
    assert poor.usd_per_hr <= before.usd_per_hr / 2
    assert (poor.attainment < before.attainment).any(), "what the budget does not carry shows"


def test_what_a_fleet_is_asked_for_stands_in_its_scenario() -> None:
    scenario = load_scenario("spot-storm")
    asked = scenario.model_copy(update={"fleet": Fleet(max_spot_share=0.2, min_replicas=2, headroom=1.3)})
    wishes = wishes_of(asked)
    assert wishes is not None
    assert (wishes.max_spot_share, wishes.min_replicas, wishes.budget_usd_per_hr) == (0.2, 2, np.inf)
    requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    assert replanner_of(asked, requests).headroom == 1.3
    posed = problem_of(asked, requests).wishes
    assert (posed.max_spot_share, posed.min_replicas, posed.headroom) == (0.2, 2, 1.3)


def test_no_wishes_are_none() -> None:
    scenario = load_scenario("mixed-chat")
    assert wishes_of(scenario) is None
    limited = scenario.model_copy(update={"guard": scenario.guard.model_copy(update={"budget_usd_per_hr": 9.0})})
    wishes = wishes_of(limited)
    assert wishes is not None
    assert wishes.budget_usd_per_hr == 9.0


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_batch_keeps_to_them_as_each_alone_would(share: float) -> None:
    scenario = load_scenario("spot-storm").model_copy(
        update={"planning": Planning.model_validate({"max_spot_share": share})}
    )
    plain = load_scenario("mixed-chat")
    episodes = [episode_of(plain, 1, 1.0, quickly=True), episode_of(scenario, 1, 1.0, quickly=True)]
    alone = ClusterBatch([episode_of(plain, 1, 1.0), episode_of(scenario, 1, 1.0)], 10.0)
    together = ClusterBatch(episodes, 10.0, planning=PlansTogether())
    assert together.plan.usd_per_hr == pytest.approx(alone.plan.usd_per_hr, rel=2e-3)
    planner = episodes[1].planner
    assert isinstance(planner, Replanner)
    c, p = planner.cluster.serves.shape
    assert ((together.plan.route[1, :c, :p] * planner.cluster.spot).sum(axis=1) <= share + 1e-6).all()
