"""How far a decision reaches: nothing of the world, a canary's part of it, or all. Pure.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from ..env.contract import Action, Cluster, FloatArray, Mode, Reason, ReasonCode
from ..telemetry.record import Reach


def within(wanted: Action, reach: Reach, cluster: Cluster) -> Action:
    """What of `wanted` a canary may do; everything else is as `reach.rest` has it. Other modes change nothing.

    By share, routing and admission are blends, and no requests are sent to a pool in which nothing is wanted up. By
    pools, each class keeps what it sends to them together, and the policy spreads it among them.
    """
    if reach.mode is not Mode.CANARY:
        return wanted
    rest = reach.rest
    own = reach.pools
    if not own.any():
        return replace(rest, route=_blended(wanted, rest, float(reach.share)), admit=_mixed(wanted, rest, reach))
    inside = np.where(own, wanted.route, 0.0)
    total = inside.sum(axis=-1, keepdims=True)
    theirs = np.where(own, rest.route, 0.0).sum(axis=-1, keepdims=True)
    spread = np.divide(inside, total, out=np.zeros_like(inside), where=total > 0) * theirs
    only_theirs = (cluster.serves & ~own).sum(axis=-1) == 0
    return Action(
        route=np.where(own & (total > 0), spread, rest.route),
        admit=np.where(only_theirs, wanted.admit, rest.admit),
        batch_cap=np.where(own, wanted.batch_cap, rest.batch_cap),
        token_budget=np.where(own, wanted.token_budget, rest.token_budget),
        replicas=np.where(own, wanted.replicas, rest.replicas),
    )


def trusted(wanted: Action, reach: Reach) -> Action:
    """What is left of `wanted` where the policy is trusted with a share of the decision: the rest of it is `reach.rest`'s.

    Weights are blended, counts and caps rounded to whole ones between the two.
    """
    if reach.trust >= 1.0:
        return wanted
    own, other = reach.trust, 1.0 - reach.trust
    parts = {f.name: own * getattr(wanted, f.name) + other * getattr(reach.rest, f.name) for f in fields(Action)}
    whole = {name: np.round(parts[name]) for name in ("replicas", "batch_cap", "token_budget")}
    return Action(**{**parts, **whole})


def held_back(
    wanted: Action, applied: Action, cluster: Cluster, code: ReasonCode = ReasonCode.CANARY
) -> tuple[Reason, ...]:
    """One reason for each pool and class whose wish went beyond the canary's reach, or that the policy is not trusted with."""
    held = []
    for name, subjects in (("replicas", cluster.pool_names), ("batch_cap", cluster.pool_names)):
        before, after = getattr(wanted, name), getattr(applied, name)
        held += [
            Reason(code, subjects[i], float(before[i]), float(after[i]), name)
            for i in np.flatnonzero(np.round(before) != np.round(after))
        ]
    moved = np.abs(wanted.route - applied.route).sum(axis=-1) / 2.0
    held += [Reason(code, cluster.class_names[c], float(moved[c]), 0.0, "route") for c in np.flatnonzero(moved > 1e-6)]
    return tuple(held)


def _blended(wanted: Action, rest: Action, share: float) -> FloatArray:
    """`[C, P]` the share goes as wanted, as far as something is up there; what is left goes as before."""
    moved = share * np.where(rest.replicas > 0, wanted.route, 0.0)
    blend: FloatArray = moved + (1.0 - moved.sum(axis=-1, keepdims=True)) * rest.route
    return blend


def _mixed(wanted: Action, rest: Action, reach: Reach) -> FloatArray:
    admit: FloatArray = reach.share * wanted.admit + (1.0 - reach.share) * rest.admit
    return admit
