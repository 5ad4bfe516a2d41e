"""Mixed-integer programs as arrays, and HiGHS that solves them.

Symbols: `V` columns, `R` rows, `E` entries of the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import highspy
import numpy as np

from ....env.contract import BoolArray, FloatArray, IntArray

__all__ = ["Answer", "Mip", "Tuning", "relaxed", "solve"]

INFINITE = np.inf


@dataclass(frozen=True, eq=False)
class Mip:
    """Least `cost @ x` with `x` within its bounds, `matrix @ x` within its bounds and some of `x` whole."""

    cost: FloatArray
    """`[V]`"""
    lower: FloatArray
    """`[V]`"""
    upper: FloatArray
    """`[V]`"""
    whole: BoolArray
    """`[V]`"""
    row_lower: FloatArray
    """`[R]`"""
    row_upper: FloatArray
    """`[R]`"""
    row: IntArray
    """`[E]` of the matrix's entries, in any order; no place twice."""
    column: IntArray
    """`[E]`"""
    value: FloatArray
    """`[E]`"""

    def with_rows(self, low: FloatArray, high: FloatArray, row: IntArray, column: IntArray, value: FloatArray) -> Mip:
        """The same with more rows below, `row` counted from the first new one."""
        return replace(
            self,
            row_lower=np.concatenate([self.row_lower, low]),
            row_upper=np.concatenate([self.row_upper, high]),
            row=np.concatenate([self.row, row + len(self.row_lower)]),
            column=np.concatenate([self.column, column]),
            value=np.concatenate([self.value, value]),
        )

    def with_column(self, cost: float, upper: float, whole: bool, rows: IntArray, values: FloatArray) -> Mip:
        """The same with one more column at the end, from 0 to `upper`, that has `values` in `rows`."""
        return replace(
            self,
            cost=np.append(self.cost, cost),
            lower=np.append(self.lower, 0.0),
            upper=np.append(self.upper, upper),
            whole=np.append(self.whole, whole),
            row=np.concatenate([self.row, rows]),
            column=np.concatenate([self.column, np.full(len(rows), len(self.cost), dtype=np.int64)]),
            value=np.concatenate([self.value, values]),
        )

    def activity(self, x: FloatArray) -> FloatArray:
        """`[R]` what the rows add up to at `x` `[V]`."""
        sums = np.bincount(self.row, weights=self.value * x[self.column], minlength=len(self.row_lower))
        return np.asarray(sums, dtype=np.float64)

    def holds(self, x: FloatArray, tolerance: float = 1e-6) -> bool:
        """Whether `x` keeps to all bounds and wholenesses."""
        seen = self.activity(x)
        within = (x >= self.lower - tolerance) & (x <= self.upper + tolerance)
        rows = (seen >= self.row_lower - tolerance) & (seen <= self.row_upper + tolerance)
        return bool(within.all() and rows.all() and (np.abs(x - np.round(x))[self.whole] <= tolerance).all())


@dataclass(frozen=True, slots=True)
class Tuning:
    """How hard HiGHS tries."""

    gap: float = 1e-3
    """Stop when no better point can gain more than this share."""
    time_limit_s: float = 10.0
    most_nodes: int | None = None
    """Stop after so many nodes: unlike time, the same on a machine with other work."""
    small: bool = False
    """Programs of a few dozen columns are solved by branching alone sooner than presolve and heuristics are set up."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What HiGHS found."""

    status: Literal["solved", "infeasible", "stopped"]
    """Stopped: out of time, with or without a point."""
    x: FloatArray | None
    """`[V]`"""
    cost: float
    """Of `x`; infinite without one."""
    bound: float
    """No point costs less."""
    row_dual: FloatArray | None = None
    """`[R]` of a linear program: what the cost falls by if a row's bound moves up by one, negated."""
    column_dual: FloatArray | None = None
    """`[V]` reduced costs of a linear program."""


def solve(mip: Mip, tuning: Tuning, start: FloatArray | None = None) -> Answer:
    """Solve a program, from the point `start` `[V]` where one is known."""
    if not len(mip.cost):
        return _empty(mip)
    solver = _solver(tuning)
    solver.passModel(_model(mip))
    if start is not None:
        point = highspy.HighsSolution()
        point.col_value = start.tolist()
        solver.setSolution(point)
    return _answer(solver, mip)


def relaxed(mip: Mip, time_limit_s: float = 60.0) -> Answer:
    """The program with nothing whole, with its duals."""
    return solve(replace(mip, whole=np.zeros_like(mip.whole)), Tuning(time_limit_s=time_limit_s))


def _empty(mip: Mip) -> Answer:
    """A program without columns, of which HiGHS gives no point."""
    if not mip.holds(np.zeros(0)):
        return Answer("infeasible", None, INFINITE, INFINITE)
    return Answer("solved", np.zeros(0), 0.0, 0.0, np.zeros(len(mip.row_lower)), np.zeros(0))


def _solver(tuning: Tuning) -> Any:
    # The core class: the convenience class around it prints a banner to stdout before it can be silenced.
    solver: Any = highspy._core._Highs()
    options: dict[str, object] = {
        "output_flag": False,
        # One thread: the search of HiGHS is serial but for a few steps, and threads cost more to start than they save.
        "threads": 1,
        "time_limit": max(tuning.time_limit_s, 0.0),
        "mip_rel_gap": tuning.gap,
        "mip_abs_gap": 1e-7,
    }
    if tuning.most_nodes is not None:
        options["mip_max_nodes"] = tuning.most_nodes
    if tuning.small:
        options |= {"presolve": "off", "mip_heuristic_effort": 0.0, "mip_heuristic_run_feasibility_jump": False}
    for option, value in options.items():
        solver.setOptionValue(option, value)
    return solver


def _model(mip: Mip) -> Any:
    program = highspy.HighsLp()
    program.num_row_, program.num_col_ = len(mip.row_lower), len(mip.cost)
    program.col_cost_ = mip.cost
    program.col_lower_, program.col_upper_ = mip.lower, mip.upper
    program.row_lower_, program.row_upper_ = mip.row_lower, mip.row_upper
    order = np.lexsort((mip.column, mip.row))
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    starts = np.searchsorted(mip.row[order], np.arange(len(mip.row_lower) + 1))
    program.a_matrix_.start_ = starts.astype(np.int32)
    program.a_matrix_.index_ = mip.column[order].astype(np.int32)
    program.a_matrix_.value_ = mip.value[order]
    if mip.whole.any():
        kinds = highspy.HighsVarType
        program.integrality_ = [kinds.kInteger if yes else kinds.kContinuous for yes in mip.whole.tolist()]
    return program


def _answer(solver: Any, mip: Mip) -> Answer:
    solver.run()
    statuses, status = highspy.HighsModelStatus, solver.getModelStatus()
    if status in (statuses.kInfeasible, statuses.kUnboundedOrInfeasible):
        return Answer("infeasible", None, INFINITE, INFINITE)
    info, solution = solver.getInfo(), solver.getSolution()
    found = info.primal_solution_status == 2  # kSolutionStatusFeasible
    x = np.asarray(solution.col_value, dtype=np.float64) if found else None
    done = status in (statuses.kOptimal, statuses.kModelEmpty)
    cost = float(mip.cost @ x) if x is not None else INFINITE
    if not mip.whole.any():
        return Answer(
            "solved" if done else "stopped",
            x,
            cost,
            cost if done else -INFINITE,
            np.asarray(solution.row_dual, dtype=np.float64),
            np.asarray(solution.col_dual, dtype=np.float64),
        )
    return Answer("solved" if done else "stopped", x, cost, float(info.mip_dual_bound))
