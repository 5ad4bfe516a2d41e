"""The deciding half of a tick, pure: policy or fallback, then guard, then the record of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from ..agents.answering import decide_with_answer
from ..env.contract import (
    Action,
    Answer,
    Cluster,
    Decision,
    FloatArray,
    Memory,
    Mode,
    Plan,
    Policy,
    Reason,
    ReasonCode,
    Snapshot,
)
from ..env.guard import GuardState, Limits, guard, reasons
from ..telemetry.record import Reach
from .reach import held_back, trusted, within

NEWS: Final = (ReasonCode.PROMOTED, ReasonCode.STEPPED_BACK, ReasonCode.VERSION, ReasonCode.EXPLORING)
"""Reasons that do not come of the tick's own figures."""
BLIND: Final = (ReasonCode.MISSING_TELEMETRY, ReasonCode.STALE_TELEMETRY)
"""Troubles in which nobody can tell where requests would be served well: the weights stay as they are."""


@dataclass(frozen=True)
class Proposed:
    """What somebody proposed, and who."""

    action: Action
    policy_name: str
    policy_hash: str
    rule: Action
    """What the fallback rule would do; the same as `action` where it decided."""
    trouble: Reason | None = None
    """Why the fallback decided instead of the policy."""
    plain: Action | None = None
    """Where the policy explores: what it would do without noise."""
    incumbent: Action | None = None
    """Where a candidate has its turn: what the version that decides otherwise would do."""
    answer: Answer | None = None
    """What the policy's network answered, where it has one."""


@dataclass(frozen=True)
class Minds:
    """What policy and fallback remember."""

    policy: Memory
    fallback: Memory


def propose(policy: Policy, fallback: Policy, snapshot: Snapshot, plan: Plan, minds: Minds) -> tuple[Proposed, Minds]:
    """The policy's proposal; the fallback's if the policy fails, or hands out arrays of a wrong shape or odd numbers.

    The fallback follows along at every tick, so that it knows the recent past when it must step in.
    """
    instead, fallback_memory = fallback.decide(snapshot, plan, minds.fallback)
    trouble: Reason | None = None
    action, memory, answer = instead, minds.policy, None
    try:
        action, memory, answer = decide_with_answer(policy, snapshot, plan, minds.policy)
        wrong = misshapen(action, instead)
        if wrong:
            trouble = Reason(ReasonCode.POLICY_ERROR, name_of(policy), math.nan, math.nan, wrong)
        elif not is_finite(action):
            trouble = Reason(ReasonCode.NOT_FINITE, name_of(policy), math.nan, math.nan, "fallback decides")
    except Exception as error:  # noqa: BLE001  # whatever a policy does, traffic goes on
        trouble = Reason(
            ReasonCode.POLICY_ERROR, name_of(policy), math.nan, math.nan, f"{type(error).__name__}: {error}"
        )
    if trouble:
        return fall_back(fallback, instead, trouble), Minds(policy=minds.policy, fallback=fallback_memory)
    proposed = Proposed(action, name_of(policy), getattr(policy, "policy_hash", ""), instead, answer=answer)
    return proposed, Minds(policy=memory, fallback=fallback_memory)


def fall_back(fallback: Policy, action: Action, trouble: Reason) -> Proposed:
    """The fallback's action as the proposal, and why."""
    return Proposed(action, name_of(fallback), getattr(fallback, "policy_hash", ""), action, trouble)


def conclude(
    proposed: Proposed,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    limits: Limits,
    state: GuardState,
    tick: int,
    reach: Reach,
    news: tuple[Reason, ...] = (),
    fencing_token: int = 0,
) -> tuple[Decision, GuardState]:
    """The decision of a tick: the proposal within the mode's reach and all limits, and every reason for a difference.

    In `advise` the decision is what would be done, and the guard remembers that nothing was. `news` are reasons that do not
    come of this tick, such as a change of mode.
    """
    wanted = proposed.action
    if proposed.trouble and proposed.trouble.code is ReasonCode.RESUMING:
        wanted = state.applied
    elif proposed.trouble and proposed.trouble.code in BLIND:
        wanted = replace(wanted, route=state.applied.route, admit=state.applied.admit)
    own = trusted(wanted, reach)
    reached = within(own, reach, cluster)
    guarded = guard(reached, snapshot, plan, cluster, limits, state)
    why = (
        *held_back(wanted, own, cluster, ReasonCode.DRIFT),
        *held_back(own, reached, cluster),
        *reasons(guarded.changes, cluster),
        *news,
    )
    if proposed.trouble:
        why = (proposed.trouble, *why)
    price = np.where(snapshot.known("usd_per_hr"), snapshot.usd_per_hr, cluster.usd_per_hr)
    decision = Decision(
        tick=tick,
        time_s=float(snapshot.time_s),
        proposed=proposed.action,
        applied=guarded.action,
        reasons=why,
        expected_usd_per_hr=float((guarded.action.replicas * price).sum()),
        expected_attainment=expected_attainment(snapshot, plan, guarded.action, cluster),
        policy_name=proposed.policy_name,
        policy_hash=proposed.policy_hash,
        mode=reach.mode,
        fencing_token=fencing_token,
    )
    return decision, state if reach.mode is Mode.ADVISE else guarded.state


def expected_attainment(snapshot: Snapshot, plan: Plan, action: Action, cluster: Cluster) -> FloatArray:
    """`[C]` the wanted attainment, scaled down by the share of the load that the wanted replicas can carry."""
    rate = np.where(snapshot.known("arrival_rate_per_s"), snapshot.arrival_rate_per_s, plan.load_per_s)
    load = rate[:, None] * action.route
    need = np.divide(load, plan.capacity_per_s, out=np.zeros_like(load), where=plan.capacity_per_s > 0)
    per_pool = need.sum(axis=0)
    carried = np.divide(action.replicas, per_pool, out=np.ones_like(per_pool), where=per_pool > 0)
    expected: FloatArray = cluster.targets.attainment * (action.route * np.minimum(carried, 1.0)).sum(axis=1)
    return expected


def misshapen(action: Action, like: Action) -> str:
    """Which array of `action` has not the shape that it has in `like`; nothing if all have."""
    for field in fields(Action):
        shape, wanted = np.shape(getattr(action, field.name)), np.shape(getattr(like, field.name))
        if shape != wanted:
            return f"{field.name} has shape {shape}, wanted {wanted}"
    return ""


def is_finite(action: Action) -> bool:
    """Whether every number of an action is."""
    return all(
        bool(np.isfinite(values).all())
        for values in (action.route, action.admit, action.batch_cap, action.token_budget, action.replicas)
    )


def name_of(policy: Policy) -> str:
    """What people call a policy."""
    return str(getattr(policy, "name", type(policy).__name__))
