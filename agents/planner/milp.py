"""The cheapest counts and routing that carry a load within its targets, as a mixed-integer program (HiGHS).

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from ...env.contract import BoolArray, Cluster, FloatArray, Plan

SHORTFALL_FACTOR = 1e3
"""Load that fits nowhere costs this many times the dearest replica: the plan then carries as much as it can."""
START_HORIZON_S = 120.0
"""A start's rent before it serves is spread over this long when it is weighed against a cheaper mix."""


def cheapest_plan(
    cluster: Cluster,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    usd_per_hr: FloatArray,
    running: FloatArray | None = None,
    time_limit_s: float = 2.0,
) -> Plan:
    """The plan with the least rent under which every class's load fits.

    Minimises rent (plus, where `running` is given, the rent of cold starts that a change of mix would cost) over
    whole replica counts `n` and routing shares `x`, subject to: every class fully routed; per pool, the sum over
    classes of load x share / capacity at most `n`; counts within the pool's limits. The formulation is that of
    Melange (arXiv:2404.14527, section 5) with fractional shares per class.

    Args:
        load_per_s: `[C]` requests per second to carry, head-room included.
        capacity_per_s: `[C, P]` requests per second that one replica serves within target, 0 where it cannot.
        usd_per_hr: `[P]` price of one replica now.
        running: `[P]` replicas up or starting now.
        time_limit_s: give up improving after this long; the best plan so far is returned.
    """
    n_classes, n_pools = capacity_per_s.shape
    usable = cluster.serves & (capacity_per_s > 0)
    shares = n_classes * n_pools
    # Variables: counts [P], shares [C*P], shortfall [C], starts [P].
    at_share, at_short, at_start = n_pools, n_pools + shares, n_pools + shares + n_classes
    width = at_start + n_pools
    cost = np.zeros(width)
    cost[:n_pools] = usd_per_hr
    cost[at_short:at_start] = SHORTFALL_FACTOR * max(float(usd_per_hr.max()), 1e-9)
    cost[at_start:] = 0.0 if running is None else usd_per_hr * cluster.cold_start_s / START_HORIZON_S
    # Among equally cheap plans the one that loads replicas least is steadier.
    work = np.divide(load_per_s[:, None], capacity_per_s, out=np.zeros_like(capacity_per_s), where=usable)
    cost[at_share:at_short] = 1e-4 * (work * usd_per_hr).ravel()

    rows = np.zeros((n_classes + 2 * n_pools, width))
    routed, carried, started = np.split(rows, [n_classes, n_classes + n_pools])
    for c in range(n_classes):  # every class fully routed, or short
        own = slice(at_share + c * n_pools, at_share + (c + 1) * n_pools)
        routed[c, own] = 1.0
        carried[:, own] = np.diag(work[c])  # the load of a pool fits its replicas
    routed[:, at_short:at_start] = np.eye(n_classes)
    carried[:, :n_pools] = -np.eye(n_pools)
    started[:, :n_pools] = np.eye(n_pools)  # starts are what is wanted beyond what runs
    started[:, at_start:] = -np.eye(n_pools)
    up = np.zeros(n_pools) if running is None else running
    low = np.concatenate([np.ones(n_classes), np.full(2 * n_pools, -np.inf)])
    high = np.concatenate([np.ones(n_classes), np.zeros(n_pools), up])
    upper = np.concatenate([cluster.max_replicas, usable.ravel().astype(float), np.ones(n_classes)])
    floor = np.concatenate([cluster.min_replicas, np.zeros(width - n_pools)])
    ceiling = np.concatenate([upper, np.full(n_pools, np.inf)])
    answer = _solve(cost, rows, (low, high), (floor, ceiling), n_pools, time_limit_s)
    replicas = np.asarray(np.round(np.maximum(answer[:n_pools], 0.0)) + 0.0, dtype=np.float64)  # no minus zeros
    route = np.maximum(answer[at_share:at_short].reshape(n_classes, n_pools), 0.0)
    short = answer[at_short:at_start]
    return Plan(
        replicas=replicas,
        route=_normalised(route, usable, replicas, cluster),
        batch_cap=cluster.max_batch_cap.copy(),
        capacity_per_s=capacity_per_s,
        load_per_s=load_per_s,
        usd_per_hr=np.asarray((replicas * usd_per_hr).sum()),
        attainment=cluster.targets.attainment * (1.0 - np.clip(short, 0.0, 1.0)),
    )


def _solve(
    cost: FloatArray,
    rows: FloatArray,
    row_bounds: tuple[FloatArray, FloatArray],
    bounds: tuple[FloatArray, FloatArray],
    n_whole: int,
    time_limit_s: float,
) -> FloatArray:
    """The cheapest point with `rows @ x` and `x` within bounds, its first `n_whole` entries whole."""
    # The core class: the convenience class around it prints a banner to stdout before it can be silenced.
    solver: Any = highspy._core._Highs()
    # One thread: a plan takes milliseconds, and threads cost more to start than they save.
    options = {
        "output_flag": False,
        "threads": 1,
        "time_limit": time_limit_s,
        "mip_rel_gap": 1e-3,
        # Programs this small are solved by branching alone sooner than presolve and heuristics are set up.
        "presolve": "off",
        "mip_heuristic_effort": 0.0,
        "mip_heuristic_run_feasibility_jump": False,
    }
    for option, value in options.items():
        solver.setOptionValue(option, value)
    program = highspy.HighsLp()
    program.num_row_, program.num_col_ = rows.shape
    program.col_cost_ = cost
    program.col_lower_, program.col_upper_ = bounds
    program.row_lower_, program.row_upper_ = row_bounds
    row, column = np.nonzero(rows)
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.int32)
    program.a_matrix_.index_ = column.astype(np.int32)
    program.a_matrix_.value_ = rows[row, column]
    kinds = highspy.HighsVarType
    program.integrality_ = [kinds.kInteger if i < n_whole else kinds.kContinuous for i in range(len(cost))]
    solver.passModel(program)
    solver.run()
    answer = np.asarray(solver.getSolution().col_value, dtype=np.float64)
    if answer.size != len(cost):
        status = solver.modelStatusToString(solver.getModelStatus())
        raise RuntimeError(f"no plan within {time_limit_s:g} s: {status}; raise time_limit_s")
    return answer


def _normalised(route: FloatArray, usable: BoolArray, replicas: FloatArray, cluster: Cluster) -> FloatArray:
    """Rows that sum to 1; a class that fits nowhere goes where it can be served at all."""
    route = np.where(route > 1e-6, route, 0.0)
    anywhere = np.where(usable.any(axis=1, keepdims=True), usable, cluster.serves).astype(np.float64)
    with_replicas = anywhere * (replicas > 0)
    anywhere = np.where(with_replicas.sum(axis=1, keepdims=True) > 0, with_replicas, anywhere)
    route = np.where(route.sum(axis=1, keepdims=True) > 0, route, anywhere)
    total: FloatArray = route / route.sum(axis=1, keepdims=True)
    return total
