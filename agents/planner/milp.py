"""The program of `program` solved by HiGHS, one at a time: what the sidecar and every evaluation use.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np

from ...env.contract import Cluster, FloatArray, Plan
from .program import plan_of, program_of


def cheapest_plan(
    cluster: Cluster,
    load_per_s: FloatArray,
    capacity_per_s: FloatArray,
    usd_per_hr: FloatArray,
    running: FloatArray | None = None,
    time_limit_s: float = 2.0,
) -> Plan:
    """The plan with the least rent under which every class's load fits.

    Args:
        load_per_s: `[C]` requests per second to carry, head-room included.
        capacity_per_s: `[C, P]` requests per second that one replica serves within target, 0 where it cannot.
        usd_per_hr: `[P]` price of one replica now.
        running: `[P]` replicas up or starting now.
        time_limit_s: give up improving after this long; the best plan so far is returned.
    """
    n_classes, n_pools = capacity_per_s.shape
    program = program_of(cluster, load_per_s, capacity_per_s, usd_per_hr, running)
    shares = n_classes * n_pools
    # Variables: counts [P], shares [C*P], shortfall [C], starts [P].
    at_share, at_short, at_start = n_pools, n_pools + shares, n_pools + shares + n_classes
    width = at_start + n_pools
    cost = np.zeros(width)
    cost[:n_pools] = usd_per_hr
    cost[at_short:at_start] = program.short_usd
    cost[at_start:] = program.start_usd
    cost[at_share:at_short] = program.share_usd.ravel()

    rows = np.zeros((n_classes + 2 * n_pools, width))
    routed, carried, started = np.split(rows, [n_classes, n_classes + n_pools])
    for c in range(n_classes):  # every class fully routed, or short
        own = slice(at_share + c * n_pools, at_share + (c + 1) * n_pools)
        routed[c, own] = 1.0
        carried[:, own] = np.diag(program.work[c])  # the load of a pool fits its replicas
    routed[:, at_short:at_start] = np.eye(n_classes)
    carried[:, :n_pools] = -np.eye(n_pools)
    started[:, :n_pools] = np.eye(n_pools)  # starts are what is wanted beyond what runs
    started[:, at_start:] = -np.eye(n_pools)
    low = np.concatenate([np.ones(n_classes), np.full(2 * n_pools, -np.inf)])
    high = np.concatenate([np.ones(n_classes), np.zeros(n_pools), program.running])
    upper = np.concatenate([program.high, program.usable.ravel().astype(float), np.ones(n_classes)])
    floor = np.concatenate([program.low, np.zeros(width - n_pools)])
    ceiling = np.concatenate([upper, np.full(n_pools, np.inf)])
    answer = _solve(cost, rows, (low, high), (floor, ceiling), n_pools, time_limit_s)
    route = answer[at_share:at_short].reshape(n_classes, n_pools)
    return plan_of(cluster, program, load_per_s, capacity_per_s, answer[:n_pools], route, answer[at_short:at_start])


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
