"""What a sidecar needs before it may lead, and what takes time: planner, first plan, policy and fallback."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..agents.checkpoint import CheckpointError
from ..agents.planner.replan import Replanner, replanner_of
from ..agents.portfolio import PolicyFactory
from ..env.beliefs import opening_load
from ..env.contract import Action, Cluster, Plan, Policy
from ..env.guard import first_state
from ..env.scenario import Scenario
from ..env.workload.load import load_workload
from ..telemetry.record import Sat
from .choosing import FALLBACK, PolicyChoice, pinned
from .reloading import Reloading

YESTERDAY_SEED: Final = 1_000_000
"""The load that planning starts from is that of another day than any that is replayed."""


@dataclass(frozen=True)
class Prepared:
    """What needs no leadership and takes time: whoever stands by has it ready."""

    cluster: Cluster
    planner: Replanner
    plan: Plan
    policy: Policy
    fallback: Policy
    sat: tuple[Sat, ...]
    chosen: PolicyChoice | None = None
    """As somebody asked for it."""


def prepare(scenario: Scenario, make_policy: PolicyFactory | PolicyChoice, cluster: Cluster) -> Prepared:
    """All of it; a policy whose files are spoilt is taken up when they are whole again."""
    planner, plan = first_plan(scenario)
    fallback = FALLBACK.make(cluster)
    sat = [FALLBACK.sat(fallback)]
    policy: Policy
    chosen = make_policy if isinstance(make_policy, PolicyChoice) else None
    if isinstance(make_policy, PolicyChoice):
        try:
            make_policy = pinned(make_policy)
            policy = decider = make_policy.make(cluster)
            sat.insert(0, make_policy.sat(decider))
        except CheckpointError:  # its files are spoilt, and may be whole again later
            policy = Reloading(make_policy.name, make_policy.factory, cluster)
            sat.insert(0, Sat(make_policy.name, "", make_policy))
    else:
        policy = make_policy(cluster)
    return Prepared(cluster, planner, plan, policy, fallback, tuple(sat), chosen)


def first_plan(scenario: Scenario) -> tuple[Replanner, Plan]:
    """The planner, and its plan for the load that a day like this one opens with."""
    yesterday = load_workload(
        scenario.workload, scenario.class_names, scenario.duration_s, YESTERDAY_SEED, scenario.base_dir
    )
    planner = replanner_of(scenario, yesterday)
    return planner, planner.first(opening_load(yesterday, scenario.duration_s))


def opening_action(plan: Plan, scenario: Scenario) -> Action:
    """What is in force before the first tick: the plan's weights, and the counts that the scenario starts with."""
    start = np.array([float(pool.replicas.start) for pool in scenario.pools.values()])
    return replace(
        first_state(plan, scenario.cluster()).applied, batch_cap=scenario.cluster().max_batch_cap, replicas=start
    )
