"""What a decision of the learned policy costs: rules, codec, and the network in ONNX Runtime, on one core.

One cluster at a time, as the sidecar decides; the network is the one that comes along. Its outputs do not change what
they cost, and neither do the snapshots: they are drawn, plausible and without gaps.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.learned import LearnedPolicy, learned_policies
from poolpilot.agents.planner.solving.milp import cheapest_plan
from poolpilot.agents.portfolio import make_rule
from poolpilot.env.contract import (
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    POOL_COLUMNS,
    Cluster,
    FloatArray,
    Memory,
    Plan,
    Policy,
    Snapshot,
)

from .planning import fleet_of
from .timing import peak_mib

CHECKPOINT = "steady-hand"
TICK_S = 10.0
WARM = 50
"""Decisions that are not counted: the first ones allocate."""


def deciding(pools: int, classes: int, decisions: int) -> dict[str, Any]:
    """Milliseconds of so many decisions, one after the other."""
    rng = np.random.default_rng(0)
    cluster = fleet_of(rng, pools, classes)
    capacity = rng.uniform(0.3, 4.0, (classes, pools)) * cluster.serves
    load = rng.uniform(0.5, 12.0, classes)
    plan = cheapest_plan(cluster, load, capacity, rng.uniform(0.5, 8.0, pools))
    policy = learned_policies(load_checkpoint(CHECKPOINT), make_rule)(cluster)
    days = [_snapshot(rng, cluster, plan, load, TICK_S * i) for i in range(WARM + decisions)]
    whole, cpu = _timed(policy, plan, days)
    look = _of_looks(policy, plan, days)
    return {
        "pools": pools,
        "classes": classes,
        "decisions": decisions,
        "p50_ms": float(np.quantile(whole, 0.5)),
        "p99_ms": float(np.quantile(whole, 0.99)),
        "p99_cpu_ms": float(np.quantile(cpu, 0.99)),
        "p50_look_ms": float(np.quantile(look, 0.5)),
        "peak_mib": peak_mib(),
    }


def _timed(policy: Policy, plan: Plan, days: list[Snapshot]) -> tuple[list[float], list[float]]:
    """Wall and CPU milliseconds of each decision."""
    memory: Memory = {}
    wall, cpu = [], []
    for snapshot in days:
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        _, memory = policy.decide(snapshot, plan, memory)
        cpu.append(1e3 * (time.thread_time() - began_cpu_s))
        wall.append(1e3 * (time.perf_counter() - began_s))
    return wall[WARM:], cpu[WARM:]


def _of_looks(policy: LearnedPolicy, plan: Plan, days: list[Snapshot]) -> list[float]:
    """Milliseconds of the rules and of laying out what the network sees, which are part of each decision."""
    memory: Memory = {}
    price = np.asarray(policy.miss_price)
    wall = []
    for snapshot in days:
        began_s = time.perf_counter()
        _, memory = policy.bending.look(snapshot, plan, memory, price)
        wall.append(1e3 * (time.perf_counter() - began_s))
    return wall[WARM:]


def _snapshot(rng: np.random.Generator, cluster: Cluster, plan: Plan, load: FloatArray, time_s: float) -> Snapshot:
    """Around the plan: counts a little off, load within a third, everything else anywhere plausible."""
    c, p = cluster.serves.shape
    classes = rng.uniform(0.0, 1.0, (c, len(CLASS_COLUMNS))) * [min(column.high, 400.0) for column in CLASS_COLUMNS]
    pools = rng.uniform(0.0, 1.0, (p, len(POOL_COLUMNS))) * [min(column.high, 100.0) for column in POOL_COLUMNS]
    classes[:, Snapshot.arrival_rate_per_s.index] = load * rng.uniform(0.7, 1.3, c)
    ready = np.maximum(plan.replicas + rng.integers(-1, 2, p), 0.0)
    for column, values in (
        (Snapshot.ready, ready),
        (Snapshot.starting, rng.integers(0, 2, p)),
        (Snapshot.target, np.maximum(ready, plan.replicas)),
        (Snapshot.batch_cap, plan.batch_cap),
        (Snapshot.token_budget, cluster.max_token_budget),
    ):
        pools[:, column.index] = values
    forecast = load[:, None] * rng.uniform(0.7, 1.3, (c, len(FORECAST_HORIZON_S)))
    return Snapshot(np.array(time_s), classes, pools, forecast)
