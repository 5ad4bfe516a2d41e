"""The cheapest counts and routing that carry a load within its targets, as a mixed-integer program.

It minimises rent (plus the rent of the cold starts that a change of mix would cost) over whole replica counts `n` and
routing shares `x`, subject to: every class fully routed or short; per pool, the sum over classes of load x share /
capacity at most `n`; counts within the pool's limits. The formulation is that of Melange (arXiv:2404.14527, section 5)
with fractional shares per class. `formulation` writes it as a matrix, with the machines to rent where that is asked;
`milp` solves one with HiGHS, `branching` many with compiled code.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....env.contract import BoolArray, Cluster, FloatArray, Plan

SHORTFALL_FACTOR = 1e3
"""Load that fits nowhere costs this many times the dearest replica: the plan then carries as much as it can."""
START_HORIZON_S = 120.0
"""A start's rent before it serves is spread over this long when it is weighed against a cheaper mix."""
STEADINESS = 1e-4
"""Among equally cheap plans the one that loads replicas least is steadier: a replica of work costs this much of rent."""


class Program(NamedTuple):
    """What is minimised, and under which limits."""

    work: FloatArray
    """`[..., C, P]` replicas of the pool that the whole class needs."""
    usable: BoolArray
    """`[..., C, P]`"""
    usd_per_hr: FloatArray
    """`[..., P]` for each replica."""
    start_usd: FloatArray
    """`[..., P]` for each replica beyond those running."""
    share_usd: FloatArray
    """`[..., C, P]` for the whole class."""
    short_usd: FloatArray
    """`[...]` for the whole of any class."""
    running: FloatArray
    """`[..., P]`"""
    low: FloatArray
    """`[..., P]` least counts, whole."""
    high: FloatArray
    """`[..., P]` most counts, whole."""


def program_of(
    cluster: Cluster,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    usd_per_hr: FloatArray,
    running: FloatArray | None = None,
) -> Program:
    """The program for a load.

    Args:
        load_per_s: `[..., C]` requests per second to carry, head-room included.
        capacity_per_s: `[..., C, P]` requests per second that one replica serves within target, 0 where it cannot.
        usd_per_hr: `[..., P]` price of one replica now.
        running: `[..., P]` replicas up or starting now; without it starts are free.
    """
    usable = cluster.serves & (capacity_per_s > 0)
    work = np.divide(load_per_s[..., None], capacity_per_s, out=np.zeros_like(capacity_per_s), where=usable)
    free = np.zeros_like(usd_per_hr)
    return Program(
        work=work,
        usable=usable,
        usd_per_hr=usd_per_hr,
        start_usd=free if running is None else usd_per_hr * cluster.cold_start_s / START_HORIZON_S,
        share_usd=STEADINESS * (work * usd_per_hr[..., None, :]),
        short_usd=SHORTFALL_FACTOR * np.maximum(usd_per_hr.max(axis=-1), 1e-9),
        running=free if running is None else running,
        low=cluster.min_replicas,
        high=cluster.max_replicas,
    )


def plan_of(
    cluster: Cluster,
    program: Program,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    replicas: FloatArray,
    route: FloatArray,
    short: FloatArray,
) -> Plan:
    """The plan that a solution means: whole counts `[..., P]`, shares `[..., C, P]` and shortfalls `[..., C]`."""
    whole = np.asarray(np.round(np.maximum(replicas, 0.0)) + 0.0, dtype=np.float64)  # no minus zeros
    return Plan(
        replicas=whole,
        route=_normalised(np.maximum(route, 0.0), program.usable, whole, cluster),
        batch_cap=cluster.max_batch_cap * cluster.pool_mask,
        capacity_per_s=capacity_per_s,
        load_per_s=load_per_s,
        usd_per_hr=np.asarray((whole * program.usd_per_hr).sum(axis=-1)),
        attainment=np.where(cluster.class_mask, cluster.targets.attainment * (1.0 - np.clip(short, 0.0, 1.0)), 0.0),
    )


def _normalised(route: FloatArray, usable: BoolArray, replicas: FloatArray, cluster: Cluster) -> FloatArray:
    """Rows that sum to 1; a class that fits nowhere goes where it can be served at all, zeros where it cannot."""
    route = np.where(route > 1e-6, route, 0.0)
    anywhere = np.where(usable.any(axis=-1, keepdims=True), usable, cluster.serves).astype(np.float64)
    with_replicas = anywhere * (replicas > 0)[..., None, :]
    anywhere = np.where(with_replicas.sum(axis=-1, keepdims=True) > 0, with_replicas, anywhere)
    route = np.where(route.sum(axis=-1, keepdims=True) > 0, route, anywhere)
    total = route.sum(axis=-1, keepdims=True)
    shares: FloatArray = np.divide(route, total, out=np.zeros_like(route), where=total > 0)
    return shares
