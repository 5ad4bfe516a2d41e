"""Why a problem has no answer: which limits clash, and what would have to give.

Three questions, each a small search over the problem's own program. How much of each class can be carried at all? Which
limits clash: a set from which none can be taken without the rest becoming possible (deletion filter; Chinneck and
Dravnieks 1991), over whole wishes rather than rows. And of these, which one would do if it alone gave way, and by how
much: each is given room at a price, and the least room is what is needed.

Symbols: `R` rows of shares, `L` limits, `C` classes.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....env.contract import FloatArray, IntArray
from ..composition import Problem
from ..solving.formulation import mip_of, with_links
from ..solving.highs import Mip, Tuning, relaxed, solve
from ..solving.posing import Posed, posed
from ..solving.search import Unsolved, cheapest, linked, run
from .conflict import Clash, Conflict, Remedy, Shortage
from .levers import Lever

__all__ = ["conflict_of"]

MOST_LEFT_OUT = 0.99
"""Of a class's load; to carry hardly any of it is no remedy."""
GAP = 5e-3
"""To which the least rent is known when it is held against a budget, before the budget itself is tried."""


def conflict_of(problem: Problem, levers: Sequence[Lever] = (), time_limit_s: float = 10.0) -> Conflict | None:
    """Why a problem has no answer; None if it has one.

    Args:
        problem: as it was posed.
        levers: what could be asked for less strictly, each tried on its own.
        time_limit_s: for all of it; where time runs out, less is said.
    """
    until_s = time.monotonic() + time_limit_s
    search = _Search(posed(problem), until_s)
    if search.possible(search.parts):
        return None
    kept, minimal = search.clashing()
    remedies = [remedy for own in kept if (remedy := search.alone(own)) is not None]
    frac = search.carried_frac()
    if frac * problem.wishes.headroom >= 1.0:
        would = math.floor(frac * problem.wishes.headroom * 1000.0) / 1000.0
        change = 1.0 - would / problem.wishes.headroom
        remedies.append(Remedy("head-room", "", f"{problem.wishes.headroom:g}", f"at most {would:g}", would, change))
    remedies.sort(key=lambda remedy: remedy.change)
    # A class whose load is not part of the clash can ask for what it likes: the rest clashes all the same.
    clashing = {search.clash(own).subject for own in kept if own.kind == "load"} | {""}
    for lever in levers:
        if lever.subject in clashing and (remedy := _tried(lever, until_s)) is not None:
            remedies.append(remedy)
    together = () if any(r.kind not in ("load", "head-room") for r in remedies) else search.together()
    clashes = tuple(search.clash(own) for own in kept)
    return Conflict(search.shortages(kept), frac, clashes, tuple(remedies), together, minimal)


@dataclass(frozen=True, slots=True)
class _Part:
    """One wish: a limit of the problem, or the load of a class."""

    kind: str
    index: int
    """Of the limit, or the class."""


class _Search:
    """A posed problem whose parts can be left out or given room."""

    def __init__(self, own: Posed, until_s: float) -> None:
        self.own = own
        self.until_s = until_s
        mip, self.columns = mip_of(own.program, own.renting, own.limits)
        self.rent = np.zeros(len(mip.cost))
        self.rent[self.columns.unit :] = own.renting.unit_usd_per_hr
        # The rows that make the linear program of the cheapest answer strong make every other one strong as well.
        self.mip = mip
        self.classes = np.unique(own.row_class).tolist()
        # Who could be left out first is named last: what people can least change, the load, stays longest.
        order = {"most replicas": 0, "least replicas": 0, "replica floor": 1, "on-demand floor": 1, "spot share": 2}
        limits = [_Part("limit", i) for i in range(len(own.limits))]
        limits.sort(key=lambda part: order.get(own.limits[part.index].kind, 3))
        self.parts = [*limits, *(_Part("load", c) for c in self.classes)]
        unlimited = replace(self._only([part for part in self.parts if self._kind(part) != "budget"]), cost=self.rent)
        pairs = linked(unlimited, self.columns, own.program.work, until_s)[2]
        self.mip = with_links(mip, self.columns, pairs)

    def possible(self, parts: Sequence[_Part]) -> bool:
        """Whether there is an answer to these parts alone; what is not known when time runs out counts as possible: it
        is not said to clash."""
        budget = self.own.problem.wishes.budget_usd_per_hr
        others = [part for part in parts if self._kind(part) != "budget"]
        mip = replace(self._only(others), cost=self.rent)
        if relaxed(mip, self._left_s()).status == "infeasible":
            return False
        limited = budget is not None and len(others) < len(parts)
        try:
            # Disproving a budget as a row takes long where it is just below the least rent: that is bounded instead.
            answer = run(mip, self.columns, self.own.program.work, GAP if limited else 1.0, self._left_s() / 3.0)
        except Unsolved:
            return True
        if answer.x is None or budget is None or not limited:
            return answer.x is not None
        if self.rent @ answer.x <= budget + 1e-9:
            return True
        return answer.bound <= budget and _feasible(self._only(parts), self._left_s())

    def _kind(self, part: _Part) -> str:
        return part.kind if part.kind == "load" else self.own.limits[part.index].kind

    def clashing(self) -> tuple[list[_Part], bool]:
        """A set of parts that cannot be had together, and whether they could be without any one of them."""
        kept = self._proof()
        kinds: dict[str, list[_Part]] = {}
        for part in kept:
            kinds.setdefault(self._kind(part), []).append(part)
        # Whole kinds first: most stocks are mostly in nobody's way.
        for some in (*kinds.values(), *([part] for part in kept)):
            if time.monotonic() > self.until_s:
                return kept, False
            rest = [part for part in kept if part not in some]
            if len(rest) < len(kept) and not self.possible(rest):
                kept = rest
        return kept, True

    def _proof(self) -> list[_Part]:
        """Parts that already cannot be had together: those that have a price where room for any part has one. Where
        only whole counts make it impossible, all."""
        mip = self._only(self.parts)
        if relaxed(mip, self._left_s()).status != "infeasible":
            return list(self.parts)
        for part in self.parts:
            mip = self._roomy(mip, part)
        room = np.arange(self.columns.width, len(mip.cost))
        upper, cost = mip.upper.copy(), mip.cost.copy()
        upper[room] = np.inf
        cost[room] = self._weights(self.parts)
        dual = relaxed(replace(mip, cost=cost, upper=upper), self._left_s()).row_dual
        if dual is None:
            return list(self.parts)
        priced = np.abs(dual) > 1e-9
        return [part for part in self.parts if priced[self._rows(part)].any()]

    def _rows(self, part: _Part) -> IntArray:
        if part.kind == "load":
            return np.flatnonzero(self.own.row_class == part.index)
        return np.array([self.columns.limit_row + part.index])

    def clash(self, part: _Part) -> Clash:
        if part.kind == "load":
            return Clash("load", self._class(part.index), self._rate(part.index), "requests/s")
        limit = self.own.limits[part.index]
        return Clash(limit.kind, limit.subject, limit.limit, limit.unit)

    def alone(self, part: _Part) -> Remedy | None:
        """What one part would have to be if all others stay as they are."""
        if self._kind(part) == "budget":
            return self._least_budget(part)
        mip = self._only(self.parts)
        extra = self._roomy(mip, part)
        room = _least_room(extra, [len(mip.cost)], self._left_s())
        if room is None or (part.kind == "load" and room.amounts[0] > MOST_LEFT_OUT):
            return None
        return self._remedy(part, float(room.amounts[0]))

    def _least_budget(self, part: _Part) -> Remedy | None:
        others = replace(self._only([other for other in self.parts if other is not part]), cost=self.rent)
        try:
            answer = run(others, self.columns, self.own.program.work, GAP, self._left_s())
        except Unsolved:
            return None
        return None if answer.x is None else self._remedy(part, answer.cost - self.own.limits[part.index].limit)

    def together(self) -> tuple[Remedy, ...]:
        """The least change of limits that together would do, each weighed by what it is now; none if none would."""
        mip = self._only(self.parts)
        first = len(mip.cost)
        parts = [part for part in self.parts if part.kind != "load"]
        for part in parts:
            mip = self._roomy(mip, part)
        room = _least_room(mip, list(range(first, len(mip.cost))), self._left_s(), self._weights(parts))
        if room is None:
            return ()
        return tuple(self._remedy(part, float(z)) for part, z in zip(parts, room.amounts, strict=True) if z > 1e-6)

    def carried_frac(self) -> float:
        """Share of every class's load that could be carried."""
        mip = self._only(self.parts)
        rows = np.arange(len(self.own.row_class))
        room = _least_room(mip.with_column(0.0, 1.0, False, rows, np.ones(len(rows))), [len(mip.cost)], self._left_s())
        return 0.0 if room is None else 1.0 - float(room.amounts[0])

    def shortages(self, kept: Sequence[_Part]) -> tuple[Shortage, ...]:
        """The classes that clash, with what can be carried of each."""
        demand, own = self.own.problem.demand, self.own
        found = []
        for part in kept:
            if part.kind != "load":
                continue
            c = part.index
            only = [p for p in self.parts if p.kind != "load" or p is part]
            beside, alone = (
                _least_room(self._roomy(self._only(parts), part), [self.columns.width], self._left_s())
                for parts in (self.parts, only)
            )
            rate = self._rate(c)
            mine = own.row_class == c
            serving = int(own.program.usable[mine].all(axis=0).sum())
            barred = Counter(
                next((why for b in np.flatnonzero(demand.class_index == c) if (why := option.why_not[b])), "")
                for option in own.problem.options
                if option.why_not
            )
            barred.pop("", None)
            found.append(
                Shortage(
                    self._class(c),
                    rate,
                    None if beside is None else rate * (1.0 - beside.least),
                    0.0 if alone is None else rate * (1.0 - alone.least),
                    tuple(barred.most_common(3)),
                    serving,
                )
            )
        return tuple(found)

    def _only(self, parts: Sequence[_Part]) -> Mip:
        """The program with these parts alone, and no cost."""
        mip = self.mip
        low, high, upper = mip.row_lower.copy(), mip.row_upper.copy(), mip.upper.copy()
        limits = {part.index for part in parts if part.kind == "limit"}
        loads = {part.index for part in parts if part.kind == "load"}
        for i in range(len(self.own.limits)):
            if i not in limits:
                low[self.columns.limit_row + i], high[self.columns.limit_row + i] = -np.inf, np.inf
        short = np.array([c not in loads for c in self.own.row_class.tolist()], dtype=np.bool_)
        upper[self.columns.short : self.columns.start] = np.where(short, 1.0, 0.0)
        return replace(mip, cost=np.zeros(len(mip.cost)), upper=upper, row_lower=low, row_upper=high)

    def _roomy(self, mip: Mip, part: _Part) -> Mip:
        """The program with a column at the end that gives a part room."""
        row = self._rows(part)
        if part.kind == "load":
            return mip.with_column(0.0, 1.0, False, row, np.ones(len(row)))
        limit = self.own.limits[part.index]
        step = limit.step or 1.0
        most = 1.0 - limit.limit if limit.kind == "spot share" else np.inf
        most = limit.limit / step if not limit.at_most else most
        return mip.with_column(0.0, most, limit.step > 0.0, row, np.array([-step if limit.at_most else step]))

    def _remedy(self, part: _Part, room: float) -> Remedy:
        if part.kind == "load":
            rate = self._rate(part.index)
            would = math.floor(rate * (1.0 - room) * 1000.0) / 1000.0
            return Remedy(
                "load",
                self._class(part.index),
                f"{rate:.3g} requests/s",
                f"at most {would:.3g} requests/s",
                would,
                room,
            )
        limit = self.own.limits[part.index]
        step = limit.step or 1.0
        if limit.step:
            room = round(room)
        value = limit.limit + step * room if limit.at_most else max(limit.limit - step * room, 0.0)
        if limit.kind == "budget":
            value = math.ceil(value * 100.0 - 1e-6) / 100.0
        if limit.kind == "spot share":
            value = math.ceil(value * 1000.0 - 1e-6) / 1000.0
        shown = "at least" if limit.at_most else "at most"
        change = abs(value - limit.limit) / max(limit.limit, limit.step, 1e-3)
        now, needed = f"{limit.limit:g} {limit.unit}", f"{shown} {value:g} {limit.unit}"
        return Remedy(limit.kind, limit.subject, now, needed, value, change)

    def _weights(self, parts: Sequence[_Part]) -> FloatArray:
        """What room of each part costs: its share of what the part is now."""
        weights = []
        for part in parts:
            limit = None if part.kind == "load" else self.own.limits[part.index]
            weights.append(3.0 if limit is None else (limit.step or 1.0) / max(limit.limit, limit.step, 1e-3))
        return np.array(weights)

    def _class(self, c: int) -> str:
        return self.own.problem.demand.class_names[c]

    def _rate(self, c: int) -> float:
        return float(self.own.row_rate_per_s[self.own.row_class == c].sum())

    def _left_s(self) -> float:
        return max(self.until_s - time.monotonic(), 0.2)


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """Room that is enough."""

    amounts: FloatArray
    least: float
    """No less of it, weighed, is enough."""


def _feasible(mip: Mip, time_limit_s: float) -> bool:
    """Whether a program has any point, as far as is known in time."""
    if relaxed(mip, time_limit_s).status == "infeasible":
        return False
    return solve(mip, Tuning(gap=1.0, time_limit_s=max(time_limit_s / 4.0, 0.2))).status != "infeasible"


def _least_room(
    mip: Mip, columns: Sequence[int], time_limit_s: float, weights: FloatArray | None = None
) -> _Room | None:
    """The least room in these columns with which there is a point; None if no room is enough."""
    cost = np.zeros(len(mip.cost))
    cost[list(columns)] = 1.0 if weights is None else weights
    own = replace(mip, cost=cost)
    if relaxed(own, time_limit_s).status == "infeasible":
        return None
    answer = solve(own, Tuning(gap=1e-3, time_limit_s=max(time_limit_s / 3.0, 0.2)))
    return None if answer.x is None else _Room(answer.x[list(columns)], max(answer.bound, 0.0))


def _tried(lever: Lever, until_s: float) -> Remedy | None:
    """The strictest setting of a lever that makes the problem possible, by halving: looser is never worse."""
    settings = list(lever.settings)
    if not settings or time.monotonic() > until_s or not _answered(settings[-1].problem(), until_s):
        return None
    low, high = 0, len(settings) - 1
    while low < high:
        middle = (low + high) // 2
        if _answered(settings[middle].problem(), until_s):
            high = middle
        else:
            low = middle + 1
    return Remedy(lever.kind, lever.subject, lever.now, settings[high].label)


def _answered(problem: Problem, until_s: float) -> bool:
    own = posed(problem)
    left_s = until_s - time.monotonic()
    if left_s <= 0.0 or not own.program.usable.any(axis=1).all():
        return False
    try:
        return cheapest(own, 1.0, left_s) is not None
    except Unsolved:
        return False
