"""Sparse linear programs, with whole numbers or without, handed to HiGHS.

Symbols: `V` columns, `M` rows, `E` entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from scipy.sparse import csr_matrix

from ...env.contract import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class SparseProgram:
    """Minimise `cost @ x` with `low <= x <= high` and `row_low <= A x <= row_high`."""

    cost: FloatArray
    """`[V]`"""
    low: FloatArray
    """`[V]`"""
    high: FloatArray
    """`[V]`"""
    row: IntArray
    """`[E]` of each entry of A; entries of one place are added up."""
    column: IntArray
    """`[E]`"""
    value: FloatArray
    """`[E]`"""
    row_low: FloatArray
    """`[M]`"""
    row_high: FloatArray
    """`[M]`"""
    whole: BoolArray | None = None
    """`[V]` whether the column must be a whole number; none must where left out."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What HiGHS found."""

    x: FloatArray
    """`[V]`"""
    row_dual: FloatArray
    """`[M]` what one more of a row's bound costs; zeros where columns must be whole."""
    bound: float
    """No point costs less."""


class NoAnswerError(RuntimeError):
    """HiGHS found no point within its time."""


def solved(program: SparseProgram, time_limit_s: float = 60.0, gap: float = 1e-3) -> Answer:
    """The cheapest point, whole numbers within `gap` of it.

    Raises:
        NoAnswerError: there is none, or none was found in time.
    """
    # The core class: the convenience class around it prints a banner to stdout before it can be silenced.
    solver: Any = highspy._core._Highs()
    for option, value in {
        "output_flag": False,
        "threads": 1,
        "time_limit": time_limit_s,
        "mip_rel_gap": gap,
    }.items():
        solver.setOptionValue(option, value)
    shape = (len(program.row_low), len(program.cost))
    matrix = csr_matrix((program.value, (program.row, program.column)), shape=shape)
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = shape
    model.col_cost_ = program.cost
    model.col_lower_, model.col_upper_ = program.low, program.high
    model.row_lower_, model.row_upper_ = program.row_low, program.row_high
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = matrix.indptr.astype(np.int32)
    model.a_matrix_.index_ = matrix.indices.astype(np.int32)
    model.a_matrix_.value_ = matrix.data
    if program.whole is not None:
        kinds = highspy.HighsVarType
        model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in program.whole.tolist()]
    solver.passModel(model)
    solver.run()
    solution, info = solver.getSolution(), solver.getInfo()
    x = np.asarray(solution.col_value, dtype=np.float64)
    if len(x) != len(program.cost) or info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        status = solver.modelStatusToString(solver.getModelStatus())
        raise NoAnswerError(f"no answer within {time_limit_s:g} s: {status}")
    if program.whole is not None:
        return Answer(x, np.zeros(shape[0]), float(info.mip_dual_bound))
    return Answer(x, np.asarray(solution.row_dual, dtype=np.float64), float(info.objective_function_value))
