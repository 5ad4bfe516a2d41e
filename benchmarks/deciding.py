"""What a decision of the learned policy costs: rules, codec, and the network in ONNX Runtime, on one core.

One cluster at a time, as the sidecar decides; the network is the one that comes along. Its outputs do not change what
they cost, and neither do the snapshots: they are drawn, plausible and without gaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
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
    clock = _Clock()
    policy = _watched(learned_policies(load_checkpoint(CHECKPOINT), make_rule)(cluster), clock)
    days = [_snapshot(rng, cluster, plan, load, TICK_S * i) for i in range(WARM + decisions)]
    parts = _timed(policy, plan, days, clock)
    figures = {f"{name}_p{q}_ms": float(np.percentile(ms, q)) for name, ms in parts.items() for q in (50, 99)}
    return {"pools": pools, "classes": classes, "decisions": decisions, **figures, "peak_mib": peak_mib()}


class _Clock:
    """Seconds spent in the rules and in the network."""

    def __init__(self) -> None:
        self.seconds = {"rules": 0.0, "network": 0.0}

    def watch(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, timed."""

        def watched(*arguments: Any) -> Any:
            began_s = time.perf_counter()
            answer = method(*arguments)
            self.seconds[name] += time.perf_counter() - began_s
            return answer

        return watched


def _watched(policy: LearnedPolicy, clock: _Clock) -> LearnedPolicy:
    """The same policy with its rules and its network on the clock."""
    bending = policy.bending
    rules = tuple(SimpleNamespace(propose=clock.watch("rules", rule.propose)) for rule in bending.rules)
    session: Any = SimpleNamespace(run=clock.watch("network", policy.session.run))
    return replace(policy, bending=replace(bending, rules=rules), session=session)


def _timed(policy: Policy, plan: Plan, days: list[Snapshot], clock: _Clock) -> dict[str, list[float]]:
    """Milliseconds of each decision: of the whole, of rules and network, of codec and network without the rules."""
    memory: Memory = {}
    parts: dict[str, list[float]] = {name: [] for name in ("whole", "rules", "network", "inference", "cpu")}
    for snapshot in days:
        clock.seconds = dict.fromkeys(clock.seconds, 0.0)
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        _, memory = policy.decide(snapshot, plan, memory)
        cpu_s, whole_s = time.thread_time() - began_cpu_s, time.perf_counter() - began_s
        seconds = {"whole": whole_s, "cpu": cpu_s, "inference": whole_s - clock.seconds["rules"], **clock.seconds}
        for name, spent_s in seconds.items():
            parts[name].append(1e3 * spent_s)
    return {name: ms[WARM:] for name, ms in parts.items()}


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
