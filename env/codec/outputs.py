"""What the network's numbers mean: which rules to trust, and how to bend what they propose together.

Symbols: `C` classes, `P` pools, `K` rules of a portfolio (`BLENDED`); `...` an optional leading batch axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..contract import Action, Cluster, FloatArray, Plan, Snapshot
from .proposal import Proposal, on_top, whole_replicas

BLENDED: Final = 4
"""`K`. The first is the neutral one."""
CLASS_OUTPUTS: Final = 2
"""Per class: head-room, admission (deferrable classes only)."""
POOL_OUTPUTS: Final = 4
"""Per pool: replicas, tilt of work, batch cap, hold."""
WHOLE_OUTPUTS: Final = BLENDED - 1
"""How far each rule but the first is trusted."""

DOUBT: Final = 0.2
"""An output of trust up to this is none: without, a policy that explores around 0 would trust the others a quarter, and be
another policy than the one at work."""
HEADROOM_BEND: Final = 0.7
"""A class's head-room is multiplied by exp(+-this)."""
REPLICA_BEND: Final = 0.25
"""A pool's need of replicas is multiplied by exp(+-this)."""
TILT_BEND: Final = 1.0
"""Work is spread over the pools in proportion to exp(+-this)."""
CAP_BEND: Final = 0.7
"""A pool's batch cap is multiplied by exp(+-this), never above its start value."""
ADMIT_BEND: Final = 0.5
"""A deferrable class's admitted share moves by up to this."""
HOLD_BEND: Final = 2.0
"""Of a wanted scale-down this many times the output is withheld, at most all. With 1 the network would hardly ever
find out that holding exists: a scale-down is mostly of one replica, of which half must be withheld to hold it."""


@dataclass(frozen=True)
class Outputs:
    """What the network answers; everything lies in [-1, 1], beyond is cut. Zeros are neutral."""

    classes: FloatArray
    """`[..., C, CLASS_OUTPUTS]`"""
    pools: FloatArray
    """`[..., P, POOL_OUTPUTS]`"""
    whole: FloatArray
    """`[..., WHOLE_OUTPUTS]`"""


def decode(
    outputs: Outputs,
    proposals: Sequence[Proposal],
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    headroom: float = 1.0,
) -> Action:
    """The action that the outputs mean: the proposals blended, and the blend bent. `headroom` as in `bend`."""
    return bend(outputs, blend(proposals, outputs.whole, cluster), snapshot, plan, cluster, headroom)


def blend(proposals: Sequence[Proposal], trust: FloatArray, cluster: Cluster) -> Proposal:
    """One proposal out of several.

    Need, routes, shares and caps are mixed linearly; so is what each rule holds beyond its need, in whole replicas.

    Args:
        proposals: `K` of them.
        trust: `[..., K - 1]` how far each rule but the first is trusted: nothing up to `DOUBT`, and together no more
            than wholly. The first gets what is left.
    """
    first, *others = proposals
    shares = trust_weights(trust)
    rest, weights = shares[..., 0], shares[..., 1:]

    def mixed(name: str, trailing: int) -> FloatArray:
        along = (..., *(None,) * trailing)
        own = _part(first, name, cluster)
        total: FloatArray = own * rest[along]
        for k, other in enumerate(others):
            theirs = _part(other, name, cluster)
            # A rule that is at a loss must not spoil a blend that hardly trusts it.
            total = total + np.where(np.isfinite(theirs), theirs, own) * weights[..., k][along]
        return total

    need = mixed("need", 2)
    met = np.minimum(whole_replicas(need.sum(axis=-2)), cluster.max_replicas)
    own = on_top(first, cluster)
    action = Action(
        route=mixed("route", 2),
        admit=mixed("admit", 1),
        batch_cap=mixed("batch_cap", 1),
        token_budget=mixed("token_budget", 1),
        replicas=met + (own + np.round(mixed("on_top", 1) - own)),
    )
    return Proposal(action, need)


def trust_weights(trust: FloatArray) -> FloatArray:
    """`[..., K]` the weight of each rule, summing to 1, for a `trust` `[..., K - 1]` in each but the first."""
    wanted = np.clip((trust - DOUBT) / (1.0 - DOUBT), 0.0, 1.0)
    weights = wanted / np.maximum(wanted.sum(axis=-1, keepdims=True), 1.0)
    rest = np.maximum(1.0 - weights.sum(axis=-1, keepdims=True), 0.0)
    shares: FloatArray = np.concatenate([rest, weights], axis=-1)
    return shares


def bend(
    outputs: Outputs,
    proposal: Proposal,
    snapshot: Snapshot,
    plan: Plan,
    cluster: Cluster,
    headroom: float = 1.0,
) -> Action:
    """The proposal's action with more or less head-room, work moved between pools, caps moved, scale-downs held.

    `headroom` is the user's: it multiplies what every class needs, whatever the network answers.
    """
    by_class, by_pool = np.clip(outputs.classes, -1.0, 1.0), np.clip(outputs.pools, -1.0, 1.0)
    base = proposal.action
    need, route = _tilted(by_pool[..., 1], proposal, plan)
    factor = headroom * np.exp(HEADROOM_BEND * by_class[..., 0])
    size = (need * factor[..., None]).sum(axis=-2) * np.exp(REPLICA_BEND * by_pool[..., 0])
    # A rule may hold more than its need (a cooldown, a floor): what it adds on top stays.
    replicas = np.minimum(whole_replicas(size), cluster.max_replicas) + on_top(proposal, cluster)
    replicas = np.clip(replicas, 0.0, cluster.max_replicas)
    admit = base.admit + ADMIT_BEND * by_class[..., 1]
    cap = base.batch_cap * np.exp(CAP_BEND * by_pool[..., 2])
    return Action(
        route=route,
        admit=np.where(cluster.targets.deferrable, np.clip(admit, 0.0, 1.0), base.admit),
        batch_cap=np.clip(np.round(cap), 1.0, np.maximum(cluster.max_batch_cap, 1.0)),
        token_budget=base.token_budget,
        replicas=_held(by_pool[..., 3], replicas, snapshot, cluster),
    )


def _part(proposal: Proposal, name: str, cluster: Cluster) -> FloatArray:
    if name == "need":
        return proposal.need
    if name == "on_top":
        return on_top(proposal, cluster)
    part: FloatArray = getattr(proposal.action, name)
    return part


def _tilted(tilt: FloatArray, proposal: Proposal, plan: Plan) -> tuple[FloatArray, FloatArray]:
    """Need and routes `[..., C, P]` when each class's work is moved towards pools of a higher `tilt` `[..., P]`.

    The class's work stays the same in requests/s, so a pool that is slower at it needs more replicas for what it takes
    over. Without a tilt every factor is exactly 1.
    """
    favour = np.exp(TILT_BEND * tilt)[..., None, :]
    capacity = np.where(plan.capacity_per_s > 0, plan.capacity_per_s, 0.0)
    work = proposal.need * capacity
    # Need of a pool that is believed to do nothing for the class is not work that could be moved.
    need = proposal.need * np.where(capacity > 0, favour * _kept(work, work * favour), 1.0)
    tilted = proposal.action.route * favour
    return need, tilted * _kept(proposal.action.route, tilted)


def _kept(before: FloatArray, after: FloatArray) -> FloatArray:
    """`[..., C, 1]` the factor that gives `after` the sums that `before` had; 1 where there is nothing to keep."""
    over, under = before.sum(axis=-1, keepdims=True), after.sum(axis=-1, keepdims=True)
    factor: FloatArray = np.divide(over, under, out=np.ones_like(under), where=(under > 0) & (over != under))
    return factor


def _held(hold: FloatArray, replicas: FloatArray, snapshot: Snapshot, cluster: Cluster) -> FloatArray:
    """Counts `[..., P]` after a wanted scale-down was withheld in part."""
    withheld = np.clip(HOLD_BEND * hold, 0.0, 1.0)
    held = np.minimum(np.where(snapshot.known("target"), snapshot.target, 0.0), cluster.max_replicas)
    return replicas + np.floor(withheld * np.maximum(held - replicas, 0.0) + 0.5)
