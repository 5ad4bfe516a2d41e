"""A batch planned together gets the plans that its clusters would get alone, as far as cost goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.agents.planner.replan import Replanner, price_of, reachable
from poolpilot.agents.planner.solving.together import PlansTogether, quick, rows_of
from poolpilot.env.batch import ClusterBatch, Episode, one_cluster
from poolpilot.env.contract import Plan
from poolpilot.env.scenario import load_scenario
from poolpilot.training.worlds import episode_of

SCENARIOS = [load_scenario(name) for name in ("mixed-chat", "old-and-new", "spot-storm")]


def episodes(quickly: bool) -> list[Episode]:
    """Clusters of unlike sizes side by side."""
    return [episode_of(scenario, seed, 1.0, quickly) for scenario in SCENARIOS for seed in (1, 2)]


def rent(plan: Plan, usd_per_hr: np.ndarray, b: int) -> float:
    return float((plan.replicas[b] * usd_per_hr[b]).sum())


def test_first_plans_cost_the_same() -> None:
    alone = ClusterBatch(episodes(False), 10.0, 6, 8)
    together = ClusterBatch(episodes(True), 10.0, 6, 8, PlansTogether())
    assert together.plan.usd_per_hr == pytest.approx(alone.plan.usd_per_hr, rel=2e-3)
    np.testing.assert_allclose(together.plan.capacity_per_s, alone.plan.capacity_per_s, rtol=1e-9)
    for name in ("load_per_s", "batch_cap", "attainment"):
        np.testing.assert_allclose(getattr(together.plan, name), getattr(alone.plan, name), rtol=1e-9, err_msg=name)
    assert together.reference_usd == pytest.approx(alone.reference_usd, rel=2e-3)


def test_plans_are_made_again_when_they_would_be_alone_and_cost_no_more() -> None:
    batch = ClusterBatch(episodes(True), 10.0, 6, 8, PlansTogether())
    rule, memory, again = PlanTracking(batch.cluster), {}, 0
    planned_at_s, before = np.zeros(6), batch.plan
    for _ in range(40):
        snapshot = batch.snapshot()
        for b, episode in enumerate(batch.episodes):
            planner = episode.planner
            assert isinstance(planner, Replanner)
            c, p = len(planner.cluster.class_names), len(planner.cluster.pool_names)
            own = one_cluster(snapshot, b, planner.cluster)
            old = Plan(
                before.replicas[b, :p],
                before.route[b, :c, :p],
                before.batch_cap[b, :p],
                before.capacity_per_s[b, :c, :p],
                before.load_per_s[b, :c],
                before.usd_per_hr[b],
                before.attainment[b, :c],
            )
            due = planner.due(old, float(planned_at_s[b]), own)
            kept = np.array_equal(batch.plan.load_per_s[b], before.load_per_s[b])
            assert due != kept or (due and kept)
            if due:
                again += 1
                planned_at_s[b] = float(snapshot.time_s[b])
                alone = planner.again(old, own)
                np.testing.assert_allclose(batch.plan.load_per_s[b, :c], alone.load_per_s)
                np.testing.assert_allclose(batch.plan.capacity_per_s[b, :c, :p], alone.capacity_per_s, rtol=1e-9)
                np.testing.assert_array_equal(batch.plan.replicas[b, :p], alone.replicas)
        before = batch.plan
        action, memory = rule.decide(snapshot, batch.plan, memory)
        batch.advance(action, snapshot)
    assert again > 12


def test_seats_that_are_taken_again_leave_the_other_plans_alone() -> None:
    batch = ClusterBatch(episodes(True), 10.0, 6, 8, PlansTogether())
    before = batch.plan
    fresh = episode_of(SCENARIOS[0], 9, 1.0, quickly=True)
    batch.restart(np.array([3]), [replace(fresh, first_load_per_s=2.0 * fresh.first_load_per_s)])
    others = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(batch.plan.replicas[others], before.replicas[others])
    np.testing.assert_allclose(batch.plan.load_per_s[3, :3], 2.2 * fresh.first_load_per_s)


def test_planners_of_unlike_knobs_do_not_share_a_batch() -> None:
    first, second = episodes(True)[:2]
    assert isinstance(second.planner, Replanner)
    other = replace(second, planner=replace(second.planner, headroom=2.0))
    with pytest.raises(ValueError, match=r"headroom: 2\.0, wanted one and the same"):
        ClusterBatch([first, other], 10.0, planning=PlansTogether())


def test_what_cannot_be_had_now_is_not_planned_for() -> None:
    batch = ClusterBatch(episodes(True)[:1], 10.0, planning=PlansTogether())
    snapshot = batch.snapshot()
    pools = snapshot.pools.copy()
    pools[..., 4] = 5.0  # `target`: asked for, and nobody came
    pools[..., :2] = 1.0
    within, running = reachable(replace(snapshot, pools=pools), batch.cluster)
    assert (within.max_replicas == 2.0).all()
    assert (running == 2.0).all()
    assert price_of(snapshot, batch.cluster).shape == running.shape
    assert rows_of(within, np.array([0])).max_replicas.shape == running.shape


def test_quick_needs_believed_capacities() -> None:
    planner = episodes(False)[0].planner
    assert isinstance(planner, Replanner)
    with pytest.raises(TypeError, match="BelievedCapacity"):
        quick(replace(planner, capacity=lambda prompt, output: np.ones((3, 3))))
