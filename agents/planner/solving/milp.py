"""Plans by HiGHS: what to rent for a load (`compose`), and what to run of a fleet's pools (`cheapest_plan`), both by the
one program of `formulation`.

Symbols: `B` buckets, `C` classes, `O` options, `P` pools, `R` rows of shares, `K` options that matter, `F` offers.
"""

from __future__ import annotations

import time

import numpy as np

from ....env.contract import Cluster, FloatArray, Plan
from ..composition import Composition, Infeasible, Problem
from ..fleet import capacities
from ..wishes import FleetWishes, fleet_limits
from .formulation import mip_of
from .highs import Tuning, solve
from .posing import Posed, bounds_of, posed
from .program import STEADINESS, plan_of, program_of
from .search import Found, cheapest, most_goodput

__all__ = ["cheapest_plan", "compose"]


def compose(
    problem: Problem,
    *,
    goodput: bool = False,
    gap: float = 5e-3,
    time_limit_s: float = 30.0,
    value_per_request: FloatArray | None = None,
    in_proportion: bool = False,
) -> Composition:
    """The cheapest composition that carries the demand, or the one that serves most under the budget.

    Args:
        goodput: serve as much as can be, and that as cheaply as can be; otherwise everything must be carried.
        gap: stop when no better composition can gain more than this share of the bill, or of what is served.
        value_per_request: `[B]` with `goodput`, what a served request of each bucket counts; 1 if left out. A bucket's
            tokens make it goodput in tokens.
        in_proportion: with `goodput`, every class (or bucket, where they are routed by length) is served the same share
            of its demand: the most of this very mix that can be served.

    Raises:
        Infeasible: no composition keeps to all limits; `infeasible.conflict_of` says which of them clash.
        Unsolved: no composition was found in time.
    """
    began = time.monotonic()
    own, value = posed(problem), None
    if goodput:
        each = np.ones(len(problem.demand.rate_per_s)) if value_per_request is None else value_per_request
        routed = own.row_of_bucket >= 0
        value = np.zeros(len(own.row_class))
        np.add.at(value, own.row_of_bucket[routed], (each * problem.demand.rate_per_s)[routed])
        found = most_goodput(own, value, gap, time_limit_s, in_proportion)
    else:
        found = cheapest(own, gap, time_limit_s)
    if found is None:
        raise Infeasible(problem)
    return _composition(own, found, value, time.monotonic() - began)


def _composition(own: Posed, found: Found, value: FloatArray | None, solve_s: float) -> Composition:
    """What was found, in the problem's own order.

    Args:
        value: `[R]` of serving the whole row, where goodput was wanted.
    """
    problem, renting = own.problem, own.renting
    replicas = np.zeros(len(problem.options))
    replicas[own.option] = found.counts
    units = np.ceil(renting.gpus @ found.counts / renting.unit_gpus - 1e-9) + 0.0
    served = np.where(found.short < 1e-6, 1.0, 1.0 - found.short)
    rows = np.where(found.shares > 1e-6, found.shares, 0.0)
    total = rows.sum(axis=1, keepdims=True)
    rows = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0.0) * served[:, None]
    buckets = len(problem.demand.rate_per_s)
    share, carried = np.zeros((buckets, len(replicas))), np.zeros(buckets)
    able = capacities(problem) > 0.0
    up = able & (replicas > 0.0)
    for b in range(buckets):
        r = int(own.row_of_bucket[b])
        if r >= 0:
            share[b, own.option] = rows[r]
            carried[b] = problem.demand.rate_per_s[b] * float(share[b, able[b]].sum())
        elif up[b].any():  # nothing is expected; what comes all the same can be served there
            share[b] = up[b] / up[b].sum()
    usd_per_hr = float(units @ renting.unit_usd_per_hr)
    if value is None:
        # Steadiness costs at most this share of the bill: the rest bounds bill and starts.
        bound = found.bound / (1.0 + STEADINESS)
        gap = max(found.cost - found.bound, 0.0) / max(found.cost, 1e-9)
    else:
        most = float(value.sum()) - found.bound
        bound, gap = most, max(found.cost - found.bound, 0.0) / max(most, 1e-9)
    return Composition(
        replicas=replicas,
        units=units,
        share=share,
        usd_per_hr=usd_per_hr,
        bound=bound,
        solve_s=solve_s,
        objective="cost" if value is None else "goodput",
        gap=gap,
        served_per_s=carried,
        proven=found.proven,
        bounds=bounds_of(own, found.counts, units, rows),
    )


def cheapest_plan(
    cluster: Cluster,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    usd_per_hr: FloatArray,
    running: FloatArray | None = None,
    time_limit_s: float = 2.0,
    wishes: FleetWishes | None = None,
) -> Plan:
    """The plan with the least rent under which every class's load fits.

    Args:
        load_per_s: `[C]` requests per second to carry, head-room included.
        capacity_per_s: `[C, P]` requests per second that one replica serves within target, 0 where it cannot.
        usd_per_hr: `[P]` price of one replica now.
        running: `[P]` replicas up or starting now.
        time_limit_s: give up improving after this long; the best plan so far is returned.
        wishes: of the whole fleet. Load that does not fit within them is short; a budget that not even the floors fit
            into is left out.
    """
    program = program_of(cluster, load_per_s, capacity_per_s, usd_per_hr, running)
    limits = [] if wishes is None else list(fleet_limits(wishes, cluster, program, load_per_s))
    mip, columns = mip_of(program, limits=limits)
    answer = solve(mip, Tuning(gap=1e-3, time_limit_s=time_limit_s, small=True))
    if answer.status == "infeasible":
        mip, columns = mip_of(program, limits=[limit for limit in limits if limit.kind != "budget"])
        answer = solve(mip, Tuning(gap=1e-3, time_limit_s=time_limit_s, small=True))
    if answer.x is None:
        raise RuntimeError(f"no plan within {time_limit_s:g} s: {answer.status}; raise time_limit_s")
    x = answer.x
    return plan_of(
        cluster, program, load_per_s, capacity_per_s, columns.counts(x), columns.shares(x), columns.shortfalls(x)
    )
