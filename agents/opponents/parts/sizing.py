"""From what arrives to replicas: head-room, an allowance for bursts, the queue, and where it all goes.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....env.codec import Proposal
from ....env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot
from .figures import Pools, capacity_of, elapsed_s, largest_capacity, load_seen, looked_at, over, pools_seen
from .filling import filled_cheapest_first, with_overflow
from .holding import faded, made_before_broken, within_limits, within_reach
from .routing import as_far_as_ready

DRAIN_S = 60.0
"""A queue is to be worked off within this time."""
STEPS_AHEAD = 2
"""Forecast steps whose load must be carried as well: replicas asked for now serve then."""

Costs = Callable[[Snapshot, FloatArray, FloatArray, Pools], FloatArray]
"""(snapshot, load `[..., C]`, capacity `[..., C, P]`, pools) -> what a unit of a class costs in a pool `[..., C, P]`."""


@dataclass(frozen=True)
class Sizing:
    """How much more than the load a rule is ready for."""

    headroom: float
    """Need is load times this."""
    burst: float
    """Plus this times the square root of the load in replicas: the fewer there are, the less bursts even out."""
    hold_s: float
    """A load that has passed fades over about this long before replicas go."""


def proposal_by_rate(
    sizing: Sizing, costs: Costs, snapshot: Snapshot, plan: Plan, cluster: Cluster, memory: Memory
) -> tuple[Proposal, Memory]:
    """Each class's load to the pools that cost it least, counts and weights by what that needs there."""
    pools, capacity = pools_seen(snapshot, plan, cluster), capacity_of(plan, cluster)
    gone_s = elapsed_s(snapshot, memory)
    unit = largest_capacity(capacity)
    held = faded(over(load_seen(snapshot, plan, cluster, STEPS_AHEAD), unit), gone_s, sizing.hold_s, memory)
    load = held * unit
    room, reach = within_reach(pools, cluster, gone_s, memory)
    cost = costs(snapshot, load, capacity, pools)
    bare, _ = filled_cheapest_first(load, capacity, cost, room)
    wanted = load * _factor(sizing, bare) + _backlog_per_s(load, capacity, pools)
    need = with_overflow(*filled_cheapest_first(wanted, capacity, cost, room), capacity, cost)
    action = Action(
        route=as_far_as_ready(need, capacity, pools, cluster),
        admit=np.ones(cluster.class_mask.shape),
        batch_cap=cluster.max_batch_cap,
        token_budget=cluster.max_token_budget,
        replicas=within_limits(made_before_broken(need, capacity, pools), cluster),
    )
    return Proposal(action=action, need=need), {"load": held, **reach, **looked_at(snapshot)}


def _factor(sizing: Sizing, bare: FloatArray) -> FloatArray:
    """`[..., C]` how many times its load a class needs, by how many replicas share the bursts with it."""
    size = bare.sum(axis=-2, keepdims=True)
    share = over(bare, bare.sum(axis=-1, keepdims=True))
    factor: FloatArray = sizing.headroom + sizing.burst * (share * over(np.sqrt(size), size)).sum(axis=-1)
    return factor


def _backlog_per_s(load: FloatArray, capacity: FloatArray, pools: Pools) -> FloatArray:
    """`[..., C]` requests/s on top that work the queues off in time, each queue taken for a mix of what the pool gets."""
    gets = load[..., None] * over(capacity, (pools.ready[..., None, :] * capacity).sum(axis=-1, keepdims=True))
    share = over(gets, gets.sum(axis=-2, keepdims=True))
    backlog: FloatArray = (share * pools.waiting[..., None, :]).sum(axis=-1) / DRAIN_S
    return backlog
