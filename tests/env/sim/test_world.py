"""Worlds drawn from scenarios."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.env.contract import Action
from poolpilot.env.perf.law import ROW_LINEAR_S
from poolpilot.env.scenario import Scenario, load_scenario, shipped_scenarios
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import WorldError, fitted, world_from_scenario
from poolpilot.env.window import FINISHED, LOST, MET
from poolpilot.env.workload.prefixes import PrefixTree
from poolpilot.tests.env.sim.worlds import AClass, APool, a_law, a_world, requests_at, steady


def believed(scenario: Scenario) -> Scenario:
    """The same scenario without a difference between belief and truth."""
    return scenario.model_copy(update={"world": scenario.world.model_copy(update={"performance_error_frac": 0.0})})


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_a_shipped_scenario_runs(name: str) -> None:
    scenario = load_scenario(name)
    world = world_from_scenario(scenario, 1, world_from_scenario(scenario, 1).workload.slice(0.0, 120.0))
    clusters = SimulatedClusters([world], scenario.tick_s)
    cluster = clusters.cluster
    serves = cluster.serves.astype(np.float64)
    everything = Action(
        route=serves / serves.sum(axis=-1, keepdims=True),
        admit=np.ones(cluster.class_mask.shape),
        batch_cap=cluster.max_batch_cap,
        token_budget=cluster.max_token_budget,
        replicas=cluster.max_replicas,
    )
    tallies = []
    for _ in range(round(300 / scenario.tick_s)):
        tallies.append(clusters.advance(everything).tally)
        clusters.snapshot().check(cluster)
    done = np.sum(tallies, axis=0)[0]
    assert done[:, FINISHED].sum() > 0.9 * len(world.workload)
    assert done[:, LOST].sum() < 0.1 * len(world.workload)
    assert 0 < done[:, MET].sum() <= done[:, FINISHED].sum()


def test_a_seed_decides_the_whole_world() -> None:
    scenario = load_scenario("mixed-chat")
    one, same, other = (world_from_scenario(scenario, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.law_rows, same.law_rows)
    np.testing.assert_array_equal(one.workload.arrival_s, same.workload.arrival_s)
    assert one.seed == same.seed != other.seed
    assert len(one.workload) != len(other.workload)
    assert (one.law_rows != other.law_rows).any()


def test_true_speeds_stray_as_far_as_the_scenario_says() -> None:
    scenario = load_scenario("mixed-chat")
    workload = steady(1.0, 10.0)
    workload = replace(workload, class_names=scenario.class_names)
    base = world_from_scenario(believed(scenario), 0, workload).law_rows[:, ROW_LINEAR_S]
    factors = np.array(
        [world_from_scenario(scenario, seed, workload).law_rows[:, ROW_LINEAR_S] / base for seed in range(60)]
    )
    error = scenario.world.performance_error_frac
    assert factors.min() >= 1 - error
    assert factors.max() <= 1 + error
    assert (factors.max(axis=0) - factors.min(axis=0) > 1.5 * error).all()
    assert (np.ptp(factors, axis=1) > 0).all()  # each pool strays by itself


def test_deferrable_clients_wait_for_their_deadline() -> None:
    scenario = load_scenario("mixed-chat")
    patient = scenario.world.model_copy(update={"give_up_after_s": 10.0})
    world = world_from_scenario(scenario.model_copy(update={"world": patient}), 0)
    deadline_s = world.cluster.targets.deadline_s
    np.testing.assert_array_equal(world.give_up_after_s, np.where(np.isnan(deadline_s), 10.0, deadline_s))


def test_requests_are_cut_to_what_every_pool_of_their_class_takes() -> None:
    workload = requests_at((0, 900, 200, 0), (1, 1500, 50, 0), (2, 1500, 0, 0), (3, 1500, 50, 1), n_classes=2)
    cluster = a_world(
        requests_at(n_classes=2), [APool(a_law()), APool(a_law())], [AClass(), AClass(pools=(1,))]
    ).cluster
    cut = fitted(workload, cluster, np.array([1000.0, 4000.0]))
    assert cut.prompt_tokens.tolist() == [900, 999, 1000, 1500]
    assert cut.output_tokens.tolist() == [100, 1, 0, 50]


def test_prompts_that_are_cut_share_what_is_left() -> None:
    # A system prompt of 600 tokens, and below it a first turn of 1 500 that two longer ones repeat.
    tree = PrefixTree(np.array([-1, 0]), np.array([600, 1500]))
    load = requests_at((0.0, 1500, 10, 0), (1.0, 2000, 10, 0), (2.0, 1800, 0, 0), (3.0, 700, 10, 0))
    load = replace(load, prefix_index=np.array([1, 1, 1, 0]), prefixes=tree)
    cluster = a_world(load, [APool(a_law())], [AClass()]).cluster
    cut = fitted(load, cluster, np.array([1000.0]))
    assert cut.prompt_tokens.tolist() == [999, 999, 1000, 700]
    assert cut.prefixes.seen_before(cut.prefix_index).tolist() == [0, 999, 999, 600]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_tokens": np.array([64.0])}, "workload: row 0: 250 tokens, wanted at most 64"),
        ({"kv_tokens": np.ones(2)}, r"kv_tokens: shape \(2,\), wanted \(1,\)"),
        ({"price_from_s": np.array([1.0])}, "price_from_s: .* begin with 0"),
        ({"retry_after_s": 0.0}, "retry_after_s: 0.0, wanted above 0"),
        ({"start_replicas": np.array([9.0])}, "start_replicas: .* wanted at most"),
        ({"workload": requests_at((1.0, 5, 5, 0), n_classes=2)}, "workload: classes"),
    ],
)
def test_a_world_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        replace(a_world(steady(1.0, 10.0)), **change)
