"""Finds a posed problem's best answer: cheapest, or most goodput and then cheapest.

A problem of some hundred options is mostly options that no good answer uses. So the linear program comes first, with
the rows that tie shares to counts added where it breaks them; then the whole program over the few options that the
linear one values; and only if that answer is not yet within the gap, the whole one without the options whose reduced
cost alone exceeds what is left to gain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from ....env.contract import BoolArray, FloatArray, IntArray
from .formulation import Columns, links, mip_of, with_links
from .highs import Answer, Mip, Tuning, relaxed, solve
from .posing import Posed
from .program import STEADINESS

__all__ = ["Found", "Unsolved", "cheapest", "linked", "most_goodput", "run"]

_LINK_ROUNDS = 6
_BROKEN = 1e-3
"""Shares of a row beyond an option's count that are worth a row of the matrix."""
_SMALL_SHARES = 600
"""Programs with fewer shares are handed to the solver whole."""
_CORE_OPTIONS = 24
_CORE_TIME = 0.4
"""Share of the time that the few options may take."""


class Unsolved(ValueError):
    """Time ran out before any answer was found."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best answer found."""

    counts: FloatArray
    """`[K]`"""
    units: FloatArray
    """`[F]`"""
    shares: FloatArray
    """`[R, K]`"""
    short: FloatArray
    """`[R]`"""
    cost: float
    """Of the program: rent, starts and steadiness, or value not served."""
    bound: float
    """No answer costs less."""
    proven: bool


def cheapest(own: Posed, gap: float, time_limit_s: float) -> Found | None:
    """The cheapest answer that carries everything; None if there is none.

    Raises:
        Unsolved: no answer in time.
    """
    if not own.program.usable.any(axis=1).all():
        return None
    # The cheapest answer keeps to a budget if any does; as a row, a budget just below it takes long to disprove.
    until_s = time.monotonic() + time_limit_s
    budget = own.problem.wishes.budget_usd_per_hr
    free = [limit for limit in own.limits if limit.kind != "budget"]
    mip, columns = mip_of(own.program, own.renting, free, whole_loads=True)
    found = _found(run(mip, columns, own.program.work, gap, time_limit_s), columns)
    if found is None or budget is None or own.renting.unit_usd_per_hr @ found.units <= budget + 1e-9:
        return found
    starts = float(own.program.start_usd.sum())
    if starts == 0.0 and found.bound > budget * (1.0 + STEADINESS) + 1e-9:
        return None
    mip, columns = mip_of(own.program, own.renting, own.limits, whole_loads=True)
    left_s = max(until_s - time.monotonic(), 0.1 * time_limit_s)
    return _found(run(mip, columns, own.program.work, gap, left_s), columns)


def most_goodput(
    own: Posed, value_per_s: FloatArray, gap: float, time_limit_s: float, in_proportion: bool = False
) -> Found | None:
    """The answer that serves most, and of such the cheapest; None if the floors alone cannot be had.

    Args:
        value_per_s: `[R]` what serving the whole row is worth.
        in_proportion: every row is served the same share.

    Raises:
        Unsolved: no answer in time.
    """
    began = time.monotonic()
    mip, columns = mip_of(own.program, own.renting, own.limits)
    shorts = np.arange(columns.short, columns.start)
    if in_proportion:
        first, others = np.zeros(len(shorts) - 1, dtype=np.int64), np.arange(len(shorts) - 1)
        mip = mip.with_rows(
            np.zeros(len(others)),
            np.zeros(len(others)),
            np.concatenate([others, others]),
            np.concatenate([shorts[first], shorts[1:]]),
            np.concatenate([np.full(len(others), -1.0), np.ones(len(others))]),
        )
    lost = np.zeros(columns.width)
    lost[shorts] = value_per_s
    total = float(value_per_s.sum())
    # The gap is a share of what is served, which at worst is nothing: what is left to gain is told in value.
    served = run(replace(mip, cost=lost), columns, own.program.work, gap, 0.6 * time_limit_s, offset=-total)
    found = _found(served, columns)
    if found is None:
        return None
    # Of all that serve as much, the cheapest.
    kept = mip.with_rows(
        np.array([-np.inf]),
        np.array([found.cost + 1e-6 * max(total, 1e-9)]),
        np.zeros(len(shorts), dtype=np.int64),
        shorts,
        value_per_s,
    )
    left_s = max(time_limit_s - (time.monotonic() - began), 0.2 * time_limit_s)
    thrifty = run(kept, columns, own.program.work, gap, left_s, start=served.x)
    cheaper = _found(thrifty, columns) or found
    return replace(
        cheaper,
        cost=float(lost @ thrifty.x) if thrifty.x is not None else found.cost,
        bound=found.bound,
        proven=found.proven,
    )


def run(
    mip: Mip,
    columns: Columns,
    work: FloatArray,
    gap: float,
    time_limit_s: float,
    start: FloatArray | None = None,
    offset: float = 0.0,
) -> Answer:
    """Solve a program of `formulation` within `gap`.

    Args:
        start: a point that is known to be allowed.
        offset: a constant that belongs to the cost: the gap is a share of both.

    Raises:
        Unsolved: no answer in time.
    """
    until_s = time.monotonic() + time_limit_s
    if len(columns.share_row) <= _SMALL_SHARES:
        return _checked(_in_one(mip, gap, time_limit_s, start, offset))
    linear, mip, _ = linked(mip, columns, work, until_s)
    if linear.status == "stopped":
        raise Unsolved("not even the linear program in time: raise the time limit, or offer fewer options")
    if linear.status == "infeasible":
        return linear
    best = Answer("stopped", start, float(mip.cost @ start) if start is not None else np.inf, linear.bound)
    reduced = _option_costs(columns, linear)
    order = np.argsort(reduced, kind="stable")
    core = np.zeros(columns.options, dtype=np.bool_)
    core[order[:_CORE_OPTIONS]] = True
    assert linear.x is not None
    core |= linear.x[: columns.options] > 1e-7
    if start is not None:
        core |= start[: columns.options] > 0.5
    first = _in_one(_without(mip, columns, ~core), gap / 2.0, _CORE_TIME * time_limit_s, start, offset)
    if first.x is not None and first.cost < best.cost:
        best = replace(first, bound=linear.bound, status="stopped")
    allowed = gap * abs(best.cost + offset)
    if best.x is not None and best.cost - linear.bound <= allowed:
        return replace(best, status="solved")
    # Whoever uses an option of such a reduced cost gains less than the gap.
    enough = best.cost - allowed if best.x is not None else np.inf
    hopeless = linear.bound + reduced > enough
    left_s = until_s - time.monotonic()
    if left_s > 0.0:
        last = _in_one(_without(mip, columns, hopeless), gap, left_s, best.x, offset)
        if last.status == "infeasible":
            return last if best.x is None else replace(best, status="solved", bound=max(enough, linear.bound))
        bound = max(min(last.bound, enough), linear.bound)
        if last.x is None or last.cost > best.cost:
            last = replace(best, status=last.status)
        best = replace(last, bound=min(bound, last.cost))
    return _checked(best)


def _in_one(mip: Mip, gap: float, time_limit_s: float, start: FloatArray | None, offset: float) -> Answer:
    if offset:
        # A column that is always 1 carries the constant, so that the solver's gap is a share of the whole.
        mip = mip.with_column(offset, 1.0, False, np.zeros(0, dtype=np.int64), np.zeros(0))
        mip = replace(mip, lower=np.append(mip.lower[:-1], 1.0))
        start = None if start is None else np.append(start, 1.0)
    answer = solve(mip, Tuning(gap, time_limit_s), start)
    if not offset:
        return answer
    x = None if answer.x is None else answer.x[:-1]
    return replace(answer, x=x, cost=answer.cost - offset, bound=answer.bound - offset)


def _checked(answer: Answer) -> Answer:
    if answer.status == "stopped" and answer.x is None:
        raise Unsolved("no composition found in time: raise the time limit, or offer fewer options")
    return answer


def linked(mip: Mip, columns: Columns, work: FloatArray, until_s: float) -> tuple[Answer, Mip, IntArray]:
    """The linear program; the program with the rows that it broke, and of which pairs these are."""
    kept: BoolArray = np.zeros(len(columns.share_row), dtype=np.bool_)
    for _ in range(_LINK_ROUNDS):
        linear = relaxed(mip, max(until_s - time.monotonic(), 1.0))
        if linear.x is None:
            break
        broken = links(columns, work, linear.x, kept, _BROKEN)
        if not len(broken):
            break
        kept[broken] = True
        mip = with_links(mip, columns, broken)
    return linear, mip, np.flatnonzero(kept)


def _option_costs(columns: Columns, linear: Answer) -> FloatArray:
    """`[O]` what one replica of an option adds to the linear program's cost, at least."""
    assert linear.column_dual is not None
    costs: FloatArray = np.maximum(linear.column_dual[: columns.options], 0.0)
    return costs


def _without(mip: Mip, columns: Columns, options: BoolArray) -> Mip:
    """The program in which these options `[O]` have no replicas, its columns in place."""
    upper = mip.upper.copy()
    upper[: columns.options][options] = np.minimum(
        upper[: columns.options][options], mip.lower[: columns.options][options]
    )
    gone = options[columns.share_option]
    upper[columns.share : columns.short][gone] = 0.0
    return replace(mip, upper=upper)


def _found(answer: Answer, columns: Columns) -> Found | None:
    if answer.x is None:
        return None
    return Found(
        columns.counts(answer.x),
        columns.units(answer.x),
        columns.shares(answer.x),
        columns.shortfalls(answer.x),
        answer.cost,
        answer.bound,
        answer.status == "solved",
    )
