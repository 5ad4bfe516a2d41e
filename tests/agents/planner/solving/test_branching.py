"""Plans by compiled branch and bound cost what the general solver's cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.solving.branching import MIP_GAP, MOST_NODES, solve_some
from poolpilot.agents.planner.solving.milp import cheapest_plan
from poolpilot.agents.planner.solving.program import Program, program_of
from poolpilot.env.contract import FloatArray
from poolpilot.tests.env.clusters import SEEDS, a_cluster


def a_batch(seed: int, b: int, c: int, p: int) -> tuple[object, FloatArray, FloatArray, FloatArray, FloatArray]:
    """`[B]` clusters of up to 12 replicas a pool: cluster, load, capacity, price, running."""
    rng = np.random.default_rng(seed)
    cluster = a_cluster(rng, b, c, p, padding=False)
    high = rng.integers(1, 13, (b, p)).astype(float)
    cluster = replace(cluster, max_replicas=high, min_replicas=np.minimum(rng.integers(0, 2, (b, p)), high))
    capacity = np.where(cluster.serves & (rng.random((b, c, p)) < 0.9), rng.uniform(0.3, 4.0, (b, c, p)), 0.0)
    load = rng.uniform(0.0, rng.uniform(0.5, 12.0), (b, c)) * (rng.random((b, c)) < 0.9)
    return cluster, load, capacity, rng.uniform(0.5, 8.0, (b, p)), rng.integers(0, 5, (b, p)).astype(float)


def cost_usd(program: Program, b: int, replicas: FloatArray, route: FloatArray, short: FloatArray) -> float:
    rent = program.usd_per_hr[b] * replicas + program.start_usd[b] * np.maximum(replicas - program.running[b], 0.0)
    return float(rent.sum() + (program.share_usd[b] * route).sum() + program.short_usd[b] * short.sum())


@settings(deadline=None, max_examples=60)  # the first call compiles
@given(SEEDS, st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_it_is_as_cheap_as_the_general_solvers_and_carries_the_load(seed: int, c: int, p: int, starts: bool) -> None:
    cluster, load, capacity, price, running = a_batch(seed, 3, c, p)
    up = running if starts else None
    program = program_of(cluster, load, capacity, price, up)
    replicas, route, short = np.zeros((3, p)), np.zeros((3, c, p)), np.full((3, c), np.nan)
    solve_some(np.arange(3), program, replicas, route, short)
    assert (replicas == np.round(replicas)).all()
    assert (replicas >= cluster.min_replicas).all()
    assert (replicas <= cluster.max_replicas).all()
    np.testing.assert_allclose(route.sum(axis=-1) + short, 1.0, atol=1e-7)
    assert (route[~program.usable] == 0.0).all()
    assert ((program.work * route).sum(axis=1) <= replicas + 1e-6).all()
    for b in range(3):
        one = replace(
            cluster,
            **{n: getattr(cluster, n)[b] for n in ("serves", "min_replicas", "max_replicas", "max_batch_cap")},
            **{n: getattr(cluster, n)[b] for n in ("cold_start_s", "pool_mask", "class_mask")},
            targets=replace(cluster.targets, attainment=np.ones(c)),
        )
        plan = cheapest_plan(one, load[b], capacity[b], price[b], running[b] if starts else None)
        missed = 1.0 - plan.attainment
        theirs = cost_usd(program, b, plan.replicas, plan.route * (1.0 - missed)[:, None], missed)
        ours = cost_usd(program, b, replicas[b], route[b], short[b])
        assert ours <= theirs * (1.0 + 1.05 * MIP_GAP) + 1e-9


def test_no_plan_takes_the_whole_search() -> None:
    cluster, load, capacity, price, running = a_batch(7, 200, 4, 6)
    program = program_of(cluster, load, capacity, price, running)
    nodes = solve_some(np.arange(200), program, np.zeros((200, 6)), np.zeros((200, 4, 6)), np.zeros((200, 4)))
    assert nodes.max() < MOST_NODES / 4


def test_only_the_clusters_asked_for_are_planned() -> None:
    cluster, load, capacity, price, running = a_batch(3, 4, 2, 3)
    program = program_of(cluster, load, capacity, price, running)
    replicas = np.full((4, 3), -1.0)
    solve_some(np.array([2]), program, replicas, np.zeros((4, 2, 3)), np.zeros((4, 2)))
    assert (replicas[[0, 1, 3]] == -1.0).all()
    assert (replicas[2] >= 0.0).all()


@pytest.mark.parametrize("load", [0.0, 1e-9])
def test_no_load_needs_no_more_than_the_least_counts(load: float) -> None:
    cluster, _, capacity, price, _ = a_batch(11, 1, 2, 3)
    program = program_of(cluster, np.full((1, 2), load), capacity, price)
    replicas, short = np.zeros((1, 3)), np.zeros((1, 2))
    solve_some(np.array([0]), program, replicas, np.zeros((1, 2, 3)), short)
    spare = (program.usable[0] & (cluster.min_replicas[0] > 0)).any(axis=1) | (load == 0.0)
    if spare.all():
        np.testing.assert_array_equal(replicas, cluster.min_replicas)
