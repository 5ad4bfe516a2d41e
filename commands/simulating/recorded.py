"""A simulated run as a sidecar would have recorded it: the same looks, decisions, guard and lines.

The world may be another one than the policy believes in: slower pools, longer cold starts, other traffic.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from ...agents.portfolio import HELD_PLAN
from ...controller.choosing import FALLBACK, PolicyChoice
from ...controller.comparing import begun, compared
from ...controller.deciding import Minds, conclude, propose
from ...controller.decision_log import DecisionLog
from ...controller.preparing import first_plan
from ...env.batch import ClusterBatch, Episode, one_cluster
from ...env.contract import BILL_LAYERS, IDLE_PARTS, Action, Bill, Mode, Plan, ScalingCost
from ...env.guard import first_state
from ...env.scenario import Scenario
from ...env.sim.clusters import TickOutcome
from ...env.sim.world import world_from_scenario
from ...env.window import FINISHED
from ...telemetry.record import Reach, Since, Sitting, TickRecord
from ..worlds import of_the_same


def recorded_run(
    scenario: Scenario,
    chosen: PolicyChoice,
    seed: int,
    world: Scenario | None = None,
    started_unix_s: float = 0.0,
    left_out: Container[int] = frozenset(),
) -> Iterator[TickRecord]:
    """The ticks of a day under a policy that decides on all of it.

    Args:
        scenario: what the policy, the planner and the guard believe.
        chosen: the policy.
        seed: of the world.
        world: what is true, with the same pools and classes; left out: the scenario.
        started_unix_s: when its first tick is said to have been.
        left_out: slots of the sidecar's clock, from 0, in which it has no time to decide: its next tick comes as much later,
            and what was in force stands until then. The first one it never misses.

    Raises:
        WorldsDiffer: pools or classes are not the same.
        ValueError: as `world_from_scenario`, or `chosen.make`.
    """
    true = scenario if world is None else of_the_same(scenario, world)
    cluster, limits = scenario.cluster(), scenario.limits()
    planner, plan = first_plan(scenario)
    policy, fallback = chosen.make(cluster), FALLBACK.make(cluster)
    drawn = replace(world_from_scenario(true, seed), cluster=cluster)
    ones = np.ones(len(cluster.class_names))
    episode = Episode(drawn, planner, limits, plan.load_per_s, 1.0, ones, 1.0)
    batch = ClusterBatch([episode], scenario.tick_s)
    batch.replans = getattr(policy.policy, "follows_plan", True) or chosen.name == HELD_PLAN
    sitting = Sitting(
        scenario.name, cluster, limits, (chosen.sat(policy), FALLBACK.sat(fallback)), scenario.tick_s, 1.0
    )
    minds, state = Minds({}, {}), first_state(_one(batch.plan), cluster)
    since: Since | None = None
    scaling: tuple[ScalingCost, ...] = ()
    pools = np.zeros(len(cluster.pool_names), dtype=np.bool_)
    shape = len(cluster.pool_names), len(cluster.class_names)
    bill = Bill(np.zeros((*shape, len(BILL_LAYERS))), np.zeros((*shape, len(IDLE_PARTS))))
    courses, in_force = begun(state.applied), state.applied
    tick, slot, done = 0, 0, False
    while not done:
        snapshot, plan = one_cluster(batch.snapshot(), 0, cluster), _one(batch.plan)
        proposed, after = propose(policy, fallback, snapshot, plan, minds)
        reach = Reach(Mode.ACTIVE, np.array(1.0), pools, proposed.rule)
        decision, next_state = conclude(proposed, snapshot, plan, cluster, limits, state, tick, reach)
        comparison, courses = compared(courses, proposed, decision, snapshot, plan, cluster, limits, in_force, bill)
        yield TickRecord(
            sitting,
            snapshot,
            plan,
            minds.fallback if proposed.trouble else minds.policy,
            state,
            reach,
            decision,
            fell_back=proposed.trouble is not None,
            scaling=scaling,
            wall_s=started_unix_s + float(snapshot.time_s),
            answer=proposed.answer,
            since=since,
            comparison=comparison,
        )
        slots = 1
        while slot + slots in left_out:
            slots += 1
        outcome = batch.clusters.advance(_batched(decision.applied), slots * scenario.tick_s)
        since, scaling = _since(outcome, slots * scenario.tick_s), outcome.scaling.rows(cluster.pool_names)
        bill, in_force = Bill(outcome.bill.usd[0], outcome.bill.idle_usd[0]), decision.applied
        minds, state, done = after, next_state, bool(outcome.done.all())
        tick, slot = tick + 1, slot + slots


def write_run(path: Path, ticks: Iterable[TickRecord]) -> int:
    """Write a run into a log, after what is there already; how many ticks it had.

    Raises:
        DecisionLogError: the file is something else.
        OSError: it cannot be written.
    """
    count, log = 0, None
    try:
        for tick in ticks:
            log = log or DecisionLog(path, tick.sitting)
            log.append(tick)
            count += 1
    finally:
        if log is not None:
            log.close()
    return count


def _since(outcome: TickOutcome, span_s: float) -> Since:
    usd = outcome.bill.usd[0]
    return Since(
        span_s=span_s,
        usd=usd.sum(axis=1),
        class_usd=usd.sum(axis=(0, 2)),
        idle_usd=outcome.bill.idle_usd[0].sum(axis=(0, 1)),
        tally=outcome.tally[0],
        told=outcome.tally[0][:, FINISHED],
    )


def _one(plan: Plan) -> Plan:
    return Plan(**{f.name: getattr(plan, f.name)[0] for f in fields(Plan)})


def _batched(action: Action) -> Action:
    return Action(**{f.name: np.asarray(getattr(action, f.name))[None] for f in fields(Action)})
