"""Ticks of a small sidecar without a world: snapshots drawn at random, decided by a real rule and a real guard."""

from collections.abc import Iterator

import numpy as np

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.controller.comparing import begun, compared
from poolpilot.controller.deciding import Minds, conclude, propose
from poolpilot.env.contract import (
    BILL_LAYERS,
    IDLE_PARTS,
    Action,
    Bill,
    Cluster,
    Mode,
    Plan,
    Policy,
    Snapshot,
    blank_snapshot,
)
from poolpilot.env.guard import Limits, first_state
from poolpilot.env.scenario import load_scenario
from poolpilot.telemetry.record import Reach, Sitting, TickRecord


def a_sitting() -> Sitting:
    scenario = load_scenario("mixed-chat")
    limits = Limits(
        budget_usd_per_hr=np.array(np.inf),
        scale_up_step=np.array(2.0),
        scale_down_step=np.array(1.0),
        scale_down_cooldown_s=np.array(60.0),
        stale_after_s=np.array(30.0),
        hot_gpu_c=np.array(88.0),
        min_admit_frac=np.array(1.0),
    )
    return Sitting(scenario.name, scenario.cluster(), limits)


def a_plan(cluster: Cluster) -> Plan:
    serves = cluster.serves.astype(np.float64)
    return Plan(
        replicas=np.maximum(cluster.min_replicas, 1.0),
        route=serves / serves.sum(axis=1, keepdims=True),
        batch_cap=cluster.max_batch_cap,
        capacity_per_s=serves * (1.0 + np.arange(serves.size).reshape(serves.shape)) / 3.0,
        load_per_s=np.full(len(serves), 1.0),
        usd_per_hr=np.array(7.25),
        attainment=cluster.targets.attainment,
    )


def a_snapshot(cluster: Cluster, time_s: float, rng: np.random.Generator) -> Snapshot:
    """Random loads; a fifth of all figures unknown."""
    snapshot = blank_snapshot(time_s, len(cluster.class_names), len(cluster.pool_names))
    for block in (snapshot.classes, snapshot.pools, snapshot.forecast_per_s):
        block[:] = rng.random(block.shape)
        block[rng.random(block.shape) < 0.2] = np.nan
    snapshot.arrival_rate_per_s[:] *= 20.0
    snapshot.ready[:] = rng.integers(0, 4, snapshot.ready.shape)
    snapshot.running[:] *= 200.0
    return snapshot


class Careful(PlanTracking):
    """A rule of another name."""

    name = "careful"


class Fragile:
    """A rule that fails at every third decision."""

    def __init__(self, rule: PlanTracking) -> None:
        self.rule, self.name, self.policy_hash = rule, "fragile", "abc123"

    def decide(self, snapshot: Snapshot, plan: Plan, memory: dict) -> tuple:  # type: ignore[type-arg]
        if int(snapshot.time_s / 10) % 3 == 2:
            raise ZeroDivisionError("no load")
        return self.rule.decide(snapshot, plan, memory)


def policies(cluster: Cluster) -> dict[str, Policy]:
    """A policy and a fallback, by name."""
    return {"fragile": Fragile(PlanTracking(cluster)), "careful": Careful(cluster, headroom=2.0)}


def a_reach(cluster: Cluster, mode: Mode, rest: Action) -> Reach:
    """A canary of a tenth of the traffic, or another mode."""
    return Reach(mode, np.array(0.1), np.zeros(len(cluster.pool_names), dtype=np.bool_), rest)


def sat_through(
    sitting: Sitting,
    n_ticks: int,
    seed: int,
    mode: Mode = Mode.ACTIVE,
    deciding: tuple[Policy, Policy] | None = None,
) -> Iterator[TickRecord]:
    """The ticks of a sidecar, as its loop has them."""
    rng = np.random.default_rng(seed)
    cluster, plan = sitting.cluster, a_plan(sitting.cluster)
    minds, state = Minds({}, {}), first_state(plan, cluster)
    courses, cost = begun(state.applied), np.random.default_rng(seed + 1)
    shape = (len(cluster.pool_names), len(cluster.class_names))
    policy, fallback = deciding or tuple(policies(cluster).values())
    for tick in range(n_ticks):
        snapshot = a_snapshot(cluster, tick * 10.0, rng)
        proposed, after = propose(policy, fallback, snapshot, plan, minds)
        fell_back = proposed.trouble is not None
        reach = a_reach(cluster, mode, proposed.rule)
        decision, next_state = conclude(
            proposed, snapshot, plan, cluster, sitting.limits, state, tick, reach, fencing_token=4
        )
        memory = minds.fallback if fell_back else minds.policy
        bill = Bill(cost.random((*shape, len(BILL_LAYERS))), np.zeros((*shape, len(IDLE_PARTS))))
        comparison, courses = compared(
            courses, proposed, decision, snapshot, plan, cluster, sitting.limits, state.applied, bill
        )
        yield TickRecord(
            sitting,
            snapshot,
            plan,
            memory,
            state,
            reach,
            decision,
            fell_back,
            wall_s=tick * 10.0,
            comparison=comparison,
        )
        minds, state = after, next_state
