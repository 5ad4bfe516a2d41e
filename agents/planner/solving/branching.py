"""The program of `program` solved by compiled branch and bound: thousands of small plans a second, for training.

A general solver spends milliseconds on setting up a program that has a dozen columns. Here a node is a bounded primal
simplex on one dense tableau that starts feasible: every class short, every pool at its least count. The judge in the
tests is the general solver.

Symbols: `B` clusters, `C` classes, `P` pools, `V` columns: shares `[C * P]` (class by class), replicas at the running
rate `[P]`, replicas that must start first `[P]`, shortfalls `[C]`, slack `[P]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ....env.contract import FloatArray, IntArray
from .program import Program

MIP_GAP = 1e-3
"""A branch that can gain less than this share is not followed, as `milp` tells its solver."""
MOST_NODES = 4000
"""The best plan so far is taken after this many nodes; plans of training have tens."""
_MOST_PIVOTS = 400
_DANTZIG_PIVOTS = 60
"""After so many pivots the first improving column is taken instead of the steepest, which cannot cycle (Bland 1977)."""
_TINY = 1e-9
_WHOLE = 1e-6
_DEEPEST = 128

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    kernel: Any = njit(cache=True, nogil=True)(function)
    return cast(Function, kernel)


class _Tableau(NamedTuple):
    """Room for a node, reused by all."""

    rows: FloatArray
    """`[C + P, V]`"""
    reduced: FloatArray
    """`[V]` reduced costs."""
    room: FloatArray
    """`[V]` upper bounds."""
    value: FloatArray
    """`[C + P]` of the basic columns."""
    basic: IntArray
    """`[C + P]` columns."""
    place: IntArray
    """`[V]` row of a basic column; -1 at its lower bound, -2 at its upper."""


@_compiled
def solve_one(program: Program, replicas: FloatArray, route: FloatArray, short: FloatArray) -> int:
    """Write the cheapest counts `[P]`, shares `[C, P]` and shortfalls `[C]`; the number of nodes looked at."""
    n_classes, n_pools = program.work.shape
    height, width = n_classes + n_pools, n_classes * n_pools + 3 * n_pools + n_classes
    tableau = _Tableau(
        np.empty((height, width)),
        np.empty(width),
        np.empty(width),
        np.empty(height),
        np.empty(height, dtype=np.int64),
        np.empty(width, dtype=np.int64),
    )
    lows, highs = np.empty((_DEEPEST, n_pools)), np.empty((_DEEPEST, n_pools))
    counts, rounded = np.empty(n_pools), np.empty(n_pools)
    lows[0] = program.low
    highs[0] = program.high
    depth, nodes, best = 1, 0, math.inf
    replicas[:] = program.low
    while depth > 0 and nodes < MOST_NODES:
        depth -= 1
        nodes += 1
        low, high = lows[depth].copy(), highs[depth].copy()
        cost = _relaxed(program, tableau, low, high, counts)
        if cost >= best - MIP_GAP * abs(best):
            continue
        # Rounded up, what the relaxed counts carry still fits: a plan at once, and often the best.
        for p in range(n_pools):
            rounded[p] = math.ceil(counts[p] - _WHOLE)
        whole = cost + _rent(program, rounded) - _rent(program, counts)
        if whole < best:
            best = whole
            replicas[:] = rounded
        pool = _most_split(counts)
        if pool < 0 or cost >= best - MIP_GAP * abs(best) or depth + 2 > _DEEPEST:
            continue
        down = math.floor(counts[pool])
        lows[depth], highs[depth] = low, high
        lows[depth + 1], highs[depth + 1] = low, high
        highs[depth, pool] = down
        lows[depth + 1, pool] = down + 1.0  # looked at first: it leaves less short
        depth += 2
    _relaxed(program, tableau, replicas, replicas, counts)
    _read(program, tableau, route, short)
    return nodes


@_compiled
def _rent(program: Program, counts: FloatArray) -> float:
    total = 0.0
    for p in range(len(counts)):
        total += program.usd_per_hr[p] * counts[p]
        total += program.start_usd[p] * max(counts[p] - program.running[p], 0.0)
    return total


@_compiled
def _most_split(counts: FloatArray) -> int:
    """The pool whose count is furthest from whole; -1 if all are whole."""
    pool, furthest = -1, _WHOLE
    for p in range(len(counts)):
        away = abs(counts[p] - np.rint(counts[p]))
        if away > furthest:
            pool, furthest = p, away
    return pool


@_compiled
def _relaxed(program: Program, tableau: _Tableau, low: FloatArray, high: FloatArray, counts: FloatArray) -> float:
    """Least cost with counts between `low` and `high`, whole or not; writes `counts` `[P]`."""
    n_classes, n_pools = program.work.shape
    at_rate = n_classes * n_pools
    at_start = at_rate + n_pools
    _set_up(program, tableau, low, high)
    for pivots in range(_MOST_PIVOTS):
        if not _improve(tableau, pivots < _DANTZIG_PIVOTS):
            break
    for p in range(n_pools):
        counts[p] = low[p] + _value(tableau, at_rate + p) + _value(tableau, at_start + p)
    cost = _rent(program, counts)
    for c in range(n_classes):
        # What nobody can serve (padding, too) costs every plan the same: it must not widen the gap.
        if program.usable[c].any():
            cost += float(program.short_usd) * _value(tableau, at_start + n_pools + c)
        for p in range(n_pools):
            cost += float(program.share_usd[c, p]) * _value(tableau, c * n_pools + p)
    return cost


@_compiled
def _set_up(program: Program, tableau: _Tableau, low: FloatArray, high: FloatArray) -> None:
    """Every class short, every pool at its least count: a vertex."""
    n_classes, n_pools = program.work.shape
    at_rate = n_classes * n_pools
    at_start = at_rate + n_pools
    at_short = at_start + n_pools
    at_slack = at_short + n_classes
    tableau.rows[:] = 0.0
    tableau.place[:] = -1
    tableau.room[:] = math.inf
    tableau.reduced[:] = 0.0
    for c in range(n_classes):
        for p in range(n_pools):
            share = c * n_pools + p
            if program.usable[c, p]:
                tableau.rows[c, share] = 1.0
                tableau.rows[n_classes + p, share] = program.work[c, p]
                tableau.reduced[share] = program.share_usd[c, p] - program.short_usd
            else:
                tableau.room[share] = 0.0
        tableau.rows[c, at_short + c] = 1.0
        tableau.basic[c] = at_short + c
        tableau.place[at_short + c] = c
        tableau.value[c] = 1.0
    for p in range(n_pools):
        row = n_classes + p
        before = min(max(program.running[p], low[p]), high[p])
        tableau.rows[row, at_rate + p] = -1.0
        tableau.rows[row, at_start + p] = -1.0
        tableau.room[at_rate + p] = before - low[p]
        tableau.room[at_start + p] = high[p] - before
        tableau.reduced[at_rate + p] = program.usd_per_hr[p]
        tableau.reduced[at_start + p] = program.usd_per_hr[p] + program.start_usd[p]
        tableau.rows[row, at_slack + p] = 1.0
        tableau.basic[row] = at_slack + p
        tableau.place[at_slack + p] = row
        tableau.value[row] = low[p]


@_compiled
def _value(tableau: _Tableau, column: int) -> float:
    place = tableau.place[column]
    if place >= 0:
        return float(tableau.value[place])
    return 0.0 if place == -1 else float(tableau.room[column])


@_compiled
def _improve(tableau: _Tableau, steepest: bool) -> bool:
    """One pivot of the bounded simplex; false at the optimum."""
    height, width = tableau.rows.shape
    column, gain = -1, _TINY
    for j in range(width):
        if tableau.place[j] >= 0 or tableau.room[j] <= _TINY:
            continue
        own = -tableau.reduced[j] if tableau.place[j] == -1 else tableau.reduced[j]
        if own > gain:
            column, gain = j, own
            if not steepest:
                break
    if column < 0:
        return False
    sign = 1.0 if tableau.place[column] == -1 else -1.0
    leaving, step, to_upper = -1, tableau.room[column], False
    for i in range(height):
        change = -sign * tableau.rows[i, column]
        limit = math.inf
        if change < -_TINY:
            limit = max(tableau.value[i], 0.0) / -change
        elif change > _TINY and tableau.room[tableau.basic[i]] < math.inf:
            limit = max(tableau.room[tableau.basic[i]] - tableau.value[i], 0.0) / change
        if limit < step:
            leaving, step, to_upper = i, limit, change > 0.0
    for i in range(height):
        tableau.value[i] -= sign * step * tableau.rows[i, column]
    if leaving < 0:
        tableau.place[column] = -2 if tableau.place[column] == -1 else -1
        return True
    entering = step if sign > 0.0 else tableau.room[column] - step
    _pivot(tableau, leaving, column)
    tableau.place[tableau.basic[leaving]] = -2 if to_upper else -1
    tableau.basic[leaving] = column
    tableau.place[column] = leaving
    tableau.value[leaving] = entering
    return True


@_compiled
def _pivot(tableau: _Tableau, row: int, column: int) -> None:
    height, width = tableau.rows.shape
    scale = 1.0 / tableau.rows[row, column]
    for j in range(width):
        tableau.rows[row, j] *= scale
    for i in range(height):
        times = tableau.rows[i, column]
        if i != row and times != 0.0:
            for j in range(width):
                tableau.rows[i, j] -= times * tableau.rows[row, j]
    times = tableau.reduced[column]
    for j in range(width):
        tableau.reduced[j] -= times * tableau.rows[row, j]


@_compiled
def _read(program: Program, tableau: _Tableau, route: FloatArray, short: FloatArray) -> None:
    n_classes, n_pools = program.work.shape
    for c in range(n_classes):
        short[c] = min(max(_value(tableau, n_classes * n_pools + 2 * n_pools + c), 0.0), 1.0)
        for p in range(n_pools):
            route[c, p] = min(max(_value(tableau, c * n_pools + p), 0.0), 1.0)


@_compiled
def solve_some(
    which: IntArray, every: Program, replicas: FloatArray, route: FloatArray, short: FloatArray
) -> NDArray[np.int64]:
    """`solve_one` for clusters `which` of programs with a leading axis `B` (`short_usd` `[B]` too); nodes of each."""
    nodes = np.empty(len(which), dtype=np.int64)
    for i in range(len(which)):
        b = which[i]
        one = Program(  # views of one row
            every.work[b],
            every.usable[b],
            every.usd_per_hr[b],
            every.start_usd[b],
            every.share_usd[b],
            every.short_usd[b],
            every.running[b],
            every.low[b],
            every.high[b],
        )
        nodes[i] = solve_one(one, replicas[b], route[b], short[b])
    return nodes
