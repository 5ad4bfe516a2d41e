"""Two fleets that are followed beside the real one: the fallback rule's, and the policy's own where it only advises. Pure.

Each begins as what is in force, and is changed only by what whoever steers it would do, within the same guard. What a
rule decides on is the real cluster's telemetry all the same: nobody knows which queues it would have met.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..env.contract import Action, Bill, Cluster, Decision, FloatArray, Mode, Plan, Snapshot
from ..env.counterfactual import USD_DECIMALS, Comparison, Fleet, fleet_usd, worth_of
from ..env.guard import GuardState, Limits, guard
from . import shadow
from .deciding import Proposed, expected_attainment
from .shadow import Shadow


@dataclass(frozen=True)
class Course:
    """A fleet that is followed."""

    wishes: Shadow
    state: GuardState
    """The guard's, of this fleet; `applied` is in force in it."""


@dataclass(frozen=True)
class Courses:
    """Both of them, as of a moment."""

    rule: Course
    policy: Course
    at_s: float
    """NaN before the first tick."""


def begun(in_force: Action) -> Courses:
    """Before the first tick: both are what is in force."""
    never = GuardState(np.full(in_force.replicas.shape, -np.inf), in_force)
    course = Course(shadow.found(in_force.replicas), never)
    return Courses(course, course, np.nan)


def compared(
    courses: Courses,
    proposed: Proposed,
    decision: Decision,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    limits: Limits,
    in_force: Action,
    bill: Bill,
) -> tuple[Comparison, Courses]:
    """A tick beside the rule's.

    Args:
        courses: as of the tick before.
        proposed: of the policy, with what the rule would do.
        decision: what came of it.
        snapshot: what was seen.
        plan: whose capacities are believed.
        cluster: what there is.
        limits: of the guard.
        in_force: what stood in the world since the tick before.
        bill: measured since then.
    """
    now_s = float(snapshot.time_s)
    span_s = 0.0 if np.isnan(courses.at_s) else max(now_s - courses.at_s, 0.0)
    cold_start_s = snapshot.plausible("cold_start_s", cluster.cold_start_s)
    usd = bill.usd.sum(axis=1)
    rule_usd, policy_usd = (
        course_usd(course, snapshot, plan, cluster, in_force, usd, span_s) for course in (courses.rule, courses.policy)
    )
    rule = steered(courses.rule, proposed.rule, snapshot, plan, cluster, limits, cold_start_s)
    if decision.mode is Mode.ADVISE:
        policy = steered(courses.policy, proposed.action, snapshot, plan, cluster, limits, cold_start_s)
    else:
        policy = _followed(courses.policy, decision.applied, now_s, cold_start_s)
    ups = [up_in(course, now_s, cold_start_s) for course in (rule, policy)]
    attains = [
        expected_attainment(snapshot, plan, replace(course.state.applied, replicas=up), cluster)
        for course, up in zip((rule, policy), ups, strict=True)
    ]
    comparison = Comparison(
        rule=rule.state.applied,
        rule_up=ups[0],
        rule_attainment=attains[0],
        rule_usd=rule_usd,
        policy_up=ups[1],
        policy_attainment=attains[1],
        policy_usd=policy_usd,
        usd=np.round(usd, USD_DECIMALS),
    )
    return comparison, Courses(rule, policy, now_s)


def course_usd(
    course: Course,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    in_force: Action,
    usd: FloatArray,
    span_s: float,
    leaving: FloatArray | float = 0.0,
) -> FloatArray:
    """`[P, L]` what a followed fleet would have cost in the `span_s` up to the snapshot.

    Args:
        course: as of the tick before.
        snapshot: what is seen.
        plan: whose capacities are believed.
        cluster: what there is.
        in_force: what stood in the world since the tick before.
        usd: `[P, L]` measured since then.
        span_s: since then.
        leaving: `[P]` replicas that it gave up and still pays for; left out, what it stops wanting is gone.
    """
    now_s, cold_start_s = float(snapshot.time_s), snapshot.plausible("cold_start_s", cluster.cold_start_s)
    price = snapshot.plausible("usd_per_hr", cluster.usd_per_hr)
    there = sum(snapshot.plausible(state, 0.0) for state in ("ready", "starting", "draining"))
    real = Fleet(np.asarray(there), snapshot.plausible("ready", 0.0), worth_of(snapshot, plan, in_force))
    action = course.state.applied
    serving = np.minimum(up_in(course, now_s, cold_start_s), action.replicas)
    own = Fleet(action.replicas + leaving, serving, worth_of(snapshot, plan, action))
    return np.round(fleet_usd(usd, real, own, price, span_s), USD_DECIMALS)


def up_in(course: Course, now_s: float, cold_start_s: FloatArray) -> FloatArray:
    """`[P]` replicas that would serve by now."""
    return shadow.up(course.wishes, now_s, cold_start_s)


def steered(
    course: Course,
    action: Action,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    limits: Limits,
    cold_start_s: FloatArray,
) -> Course:
    """The course with an action, as far as the guard lets it through in that fleet."""
    now_s = float(snapshot.time_s)
    wanted, up = course.state.applied.replicas, up_in(course, now_s, cold_start_s)
    seen = replace(snapshot, pools=snapshot.pools.copy())
    for column, values in (("target", wanted), ("ready", up), ("starting", wanted - up), ("draining", 0.0)):
        # What the real pool does not tell stays unknown: the guard is to be as blind here as there.
        getattr(seen, column)[:] = np.where(snapshot.known(column), values, np.nan)
    guarded = guard(action, seen, plan, cluster, limits, course.state)
    wishes = shadow.wished(course.wishes, now_s, guarded.action.replicas, cold_start_s)
    return Course(wishes, guarded.state)


def _followed(course: Course, applied: Action, now_s: float, cold_start_s: FloatArray) -> Course:
    """The course where the world does as the policy says."""
    return Course(
        shadow.wished(course.wishes, now_s, applied.replicas, cold_start_s), replace(course.state, applied=applied)
    )
