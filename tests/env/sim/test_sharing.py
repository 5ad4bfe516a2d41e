"""Priorities and prefix caching, as a whole cluster feels them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml

from poolpilot.env.scenario import ScenarioError, parse_scenario, shipped_scenarios
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import WorldSpec, world_from_scenario
from poolpilot.env.window import ARRIVED, E2E_SUM_S, FINISHED
from poolpilot.env.workload.prefixes import PrefixTree
from poolpilot.env.workload.requests import Workload
from poolpilot.tests.env.sim.worlds import AClass, APool, a_law, a_world, an_action, requests_at, run_ticks, total

TICK_S = 5.0


def crowd(by_priority: bool) -> WorldSpec:
    """Two classes that together ask for twice what one replica gives, for a minute."""
    times = np.sort(np.random.default_rng(2).uniform(0, 60, 600))
    rows = [(float(t), 300, 100, i % 2) for i, t in enumerate(times)]
    return a_world(
        requests_at(*rows, n_classes=2),
        pools=[APool(a_law(), batch_cap=8, by_priority=by_priority)],
        classes=[AClass(ttft_s=1.0, priority=5), AClass(ttft_s=1.0, priority=-1)],
    )


def mean_e2e_s(spec: WorldSpec) -> list[float]:
    """Of each class, when all is done."""
    clusters = SimulatedClusters([spec], TICK_S)
    outcomes = run_ticks(clusters, an_action(clusters, batch_cap=8), 80)
    assert (total(outcomes, FINISHED)[0] == 300).all()
    seconds: list[float] = (total(outcomes, E2E_SUM_S)[0] / total(outcomes, FINISHED)[0]).tolist()
    return seconds


def test_a_class_with_a_lower_number_is_served_first_where_engines_schedule_by_priority() -> None:
    alike, (late, soon) = mean_e2e_s(crowd(False)), mean_e2e_s(crowd(True))
    assert alike[0] == pytest.approx(alike[1], rel=0.05)
    assert soon < 0.5 * alike[1]
    assert late > 1.3 * alike[0]


def sharing(prefix_caching: bool, start: int = 1) -> WorldSpec:
    """Long prompts of one beginning, then a pause, then more of them."""
    times = [*np.arange(0.0, 50.0, 1.0), *np.arange(400.0, 450.0, 1.0)]
    count = len(times)
    workload = Workload(
        arrival_s=np.array(times),
        prompt_tokens=np.full(count, 1700),
        output_tokens=np.full(count, 20),
        class_index=np.zeros(count, dtype=np.int64),
        class_names=("a",),
        prefix_index=np.ones(count, dtype=np.int64),
        prefixes=PrefixTree(np.array([-1, 0]), np.array([400, 1650])),
    )
    return a_world(
        workload, pools=[APool(a_law(token_s=2e-4), start=start, prefix_caching=prefix_caching)], duration_s=600.0
    )


def test_what_prompts_share_is_computed_once_where_engines_cache_prefixes() -> None:
    plain, cached = (SimulatedClusters([sharing(caching)], TICK_S) for caching in (False, True))
    for clusters in (plain, cached):
        outcomes = run_ticks(clusters, an_action(clusters), 120)
        assert total(outcomes, FINISHED)[0, 0] == 100
    before, after = (clusters._every.engine.replicas[0] for clusters in (plain, cached))
    assert before["prompt_tokens"].sum() == 100 * 1700
    hits = after["prefix_hits"].sum()
    assert hits == 99 * (1650 // 16 * 16)
    assert after["prompt_tokens"].sum() == 100 * 1700 - hits
    assert after["prefix_queries"].sum() == 100 * 1700
    assert after["busy_ps"].sum() < 0.6 * before["busy_ps"].sum()


def test_a_replica_that_starts_anew_has_cached_nothing() -> None:
    clusters = SimulatedClusters([sharing(True)], TICK_S)
    run_ticks(clusters, an_action(clusters), 20)
    run_ticks(clusters, an_action(clusters, replicas=0.0), 20)
    run_ticks(clusters, an_action(clusters), 80)
    replicas = clusters._every.engine.replicas[0]
    assert replicas["prefix_hits"].sum() == 98 * (1650 // 16 * 16)


def test_clusters_with_and_without_a_cache_share_a_batch_and_make_room_for_larger_trees() -> None:
    alone = SimulatedClusters([sharing(True)], TICK_S)
    batch = SimulatedClusters([crowd(True), sharing(True)], TICK_S, max_classes=2)
    run_ticks(alone, an_action(alone), 8)
    run_ticks(batch, an_action(batch), 8)
    many = np.arange(1, 501)
    tree = PrefixTree(np.full(500, -1, dtype=np.int64), many)
    bushy = sharing(True)
    workload = replace(bushy.workload, prefixes=tree, prefix_index=np.arange(100, dtype=np.int64) + 300)
    batch.replace(np.array([0]), [replace(bushy, workload=workload)])
    ours, theirs = (run_ticks(clusters, an_action(clusters), 100) for clusters in (batch, alone))
    assert (total(ours, ARRIVED)[1, 0], total(ours, FINISHED)[1, 0]) == tuple(
        total(theirs, column)[0, 0] for column in (ARRIVED, FINISHED)
    )
    assert batch._every.engine.replicas[1]["prefix_hits"].sum() == alone._every.engine.replicas[0]["prefix_hits"].sum()


def test_a_scenario_says_who_goes_first_and_which_engines_cache() -> None:
    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    document["classes"]["chat"]["priority"] = -2
    document["pools"]["l40s"]["engine"] |= {"scheduling": "priority", "prefix_caching": True}
    world = world_from_scenario(parse_scenario(document, shipped_scenarios()["mixed-chat"]), 1)
    names = world.cluster.class_names, world.cluster.pool_names
    assert world.class_priority.tolist() == [-2 if name == "chat" else 0 for name in names[0]]
    assert world.by_priority.tolist() == world.prefix_caching.tolist() == [name == "l40s" for name in names[1]]


@pytest.mark.parametrize("bad", ["fair", "FCFS", 1])
def test_another_scheduling_is_refused_by_name(bad: object) -> None:
    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    document["pools"]["l40s"]["engine"]["scheduling"] = bad
    with pytest.raises(ScenarioError, match="scheduling"):
        parse_scenario(document, shipped_scenarios()["mixed-chat"])
