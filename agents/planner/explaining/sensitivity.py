"""What binds a composition, and what would change with one more GPU, a looser target, a cheaper price, a higher budget.

By solving again, each change on its own, and the present problem first, as closely as the others: a change that gains
less than the solver's gap says so instead of a figure that is noise. What one more request per second of each class costs
at the margin comes from the linear program's duals.

Break-even prices are exact up to the gap: as an offer's price falls to a share `f`, the bill of a composition that uses it
falls along a line `rest + f * rent`. Where the least of these lines meets today's bill is found by going from a line to
the lower one at its meeting point (Dinkelbach 1967), some solves for each offer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..composition import Bound, Composition, Infeasible, Problem
from ..fleet import gpus_of_offers
from ..solving.formulation import mip_of
from ..solving.milp import compose
from ..solving.posing import offer_name, posed
from ..solving.search import Unsolved, linked
from .levers import Lever, Setting

__all__ = ["BreakEven", "Change", "Marginal", "Sensitivity", "loosened", "sensitivities"]

CHEAPER = 0.9
"""Price that is tried, as a share of today's."""
MORE_BUDGET = 1.1
MORE_SPOT = 0.1
GAP = 1e-3
"""To which all is solved again."""
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that could be otherwise, and the best answer then."""

    kind: str
    """As of a `Bound` or a `Lever`, or `price`."""
    subject: str
    now: str
    then: str
    usd_per_hr: float
    """The bill then, less the bill now: below 0 it saves."""
    served_per_s: float
    """Requests/s served then, less those served now."""
    noise: bool
    """Less changes than the solver's gap can tell from nothing."""


@dataclass(frozen=True, slots=True)
class Marginal:
    """What more of a class costs."""

    name: str
    usd_per_million_requests: float
    """At the margin of the linear program, head-room included: whole replicas left out, as where load grows much."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """An offer that is not rented, and the price at which it would be."""

    offer: str
    usd_per_gpu_hr: float
    """Now."""
    below_usd_per_gpu_hr: float
    """At a lower price than this it is rented; 0: at none."""


@dataclass(frozen=True)
class Sensitivity:
    """How a composition depends on what was asked and offered."""

    binding: tuple[Bound, ...]
    """Limits that leave no room."""
    changes: tuple[Change, ...]
    marginals: tuple[Marginal, ...]
    """Empty where goodput was wanted."""
    break_even: tuple[BreakEven, ...]
    """Empty where goodput was wanted."""
    left_out: tuple[str, ...]
    """Questions that time ran out for."""
    usd_per_hr: float = 0.0
    """The present bill, solved as closely as the changes: what they are told against."""


def sensitivities(
    problem: Problem,
    composition: Composition,
    *,
    levers: Sequence[Lever] = (),
    time_limit_s: float = 20.0,
    gap: float = GAP,
) -> Sensitivity:
    """What would change.

    Args:
        problem: that was answered.
        composition: the answer, the cheapest or that of most goodput (each request counting the same).
        levers: what could be asked for less strictly; the first setting of each is tried.
        time_limit_s: for all of it. Limits that bind come first, then prices, break-even prices and levers.
        gap: to which each is solved.
    """
    search = _Again(problem, composition, time.monotonic() + time_limit_s, gap)
    marginals: tuple[Marginal, ...] = ()
    break_even: list[BreakEven] = []
    changes = [then for question in _questions(problem, composition) if (then := search.change(question))]
    if composition.objective == "cost":
        marginals = _marginals(problem, search.until_s)
        idle = [f for f in range(len(problem.offers)) if composition.units[f] < 0.5]
        break_even = [own for f in idle if (own := search.break_even(f))]
    for lever in levers:
        if lever.settings and (
            then := search.change(_Question(lever.kind, lever.subject, lever.now, lever.settings[0]))
        ):
            changes.append(then)
    # A stock that is not used up may still be too small for a better mix: told only where it is.
    slack = [own for own in composition.bounds if not own.tight and own.kind in ("stock", "shared stock")]
    for question in (_one_more(problem, composition, bound, bound.subject) for bound in slack):
        if (then := search.change(question)) and not then.noise:
            changes.append(then)
    return Sensitivity(
        binding=composition.binding,
        changes=tuple(changes),
        marginals=marginals,
        break_even=tuple(break_even),
        left_out=tuple(search.left_out),
        usd_per_hr=search.now.usd_per_hr,
    )


def loosened(problem: Problem, bound: Bound, gpus: int = 1) -> tuple[Problem, float]:
    """The problem with a little more of what a limit allows, and the limit's new value: of stock as many units as hold
    `gpus` more, of counts one, of a budget a tenth."""
    wishes, i = problem.wishes, bound.index
    if bound.kind == "stock":
        units = (problem.offers[i].stock or 0) - (-gpus // problem.offers[i].gpus)
        offers = tuple(replace(o, stock=units) if f == i else o for f, o in enumerate(problem.offers))
        return replace(problem, offers=offers), float(units * problem.offers[i].gpus)
    if bound.kind == "shared stock":
        unit = min(offer.gpus for offer in problem.offers if problem.stock[i].covers(offer))
        most = problem.stock[i].gpus - (-gpus // unit) * unit
        stock = tuple(replace(limit, gpus=most) if k == i else limit for k, limit in enumerate(problem.stock))
        return replace(problem, stock=stock), float(most)
    if bound.kind in ("most replicas", "least replicas"):
        options = list(problem.options)
        count = int(bound.limit) + (1 if bound.kind == "most replicas" else -1)
        one = options[i]
        most = bound.kind == "most replicas"
        options[i] = replace(one, max_replicas=count) if most else replace(one, min_replicas=count)
        return replace(problem, options=tuple(options)), float(count)
    if bound.kind == "budget":
        value: float = bound.limit * MORE_BUDGET
        return replace(problem, wishes=replace(wishes, budget_usd_per_hr=value)), value
    if bound.kind == "spot share":
        value = min(bound.limit + MORE_SPOT, 1.0)
        return replace(problem, wishes=replace(wishes, max_spot_share=value)), value
    least = int(bound.limit) - 1
    if bound.kind == "on-demand floor":
        return replace(problem, wishes=replace(wishes, min_on_demand_replicas=least)), float(least)
    return replace(problem, wishes=replace(wishes, min_replicas=least)), float(least)


@dataclass(frozen=True, slots=True)
class _Question:
    kind: str
    subject: str
    now: str
    then: Setting


def _questions(problem: Problem, composition: Composition) -> Iterator[_Question]:
    """What is asked of limits and prices, the most telling first."""
    of_all = {"spot share", "on-demand floor", "replica floor"}  # one wish for all classes or models
    asked = set()
    for bound in composition.binding:
        if bound.kind == "budget" and composition.objective == "cost":
            continue  # the cheapest composition is within it, and stays the cheapest beyond
        subject = "" if bound.kind in of_all else bound.subject
        if (bound.kind, subject) not in asked:
            asked.add((bound.kind, subject))
            yield _one_more(problem, composition, bound, subject)
    rented = {problem.offers[f].gpu for f in np.flatnonzero(composition.units > 0.5).tolist()}
    # For a GPU that is not rented the break-even price says more.
    every = dict.fromkeys(offer.gpu for offer in problem.offers)
    for gpu in (name for name in every if name in rented or composition.objective == "goodput"):
        usd = min(offer.usd_per_gpu_hr for offer in problem.offers if offer.gpu == gpu)
        cheaper = _priced(problem, [f for f, offer in enumerate(problem.offers) if offer.gpu == gpu], CHEAPER)
        then = Setting(f"{usd * CHEAPER:.4g} $/h", partial(_as_it_is, cheaper))
        yield _Question("price", gpu, f"{usd:.4g} $/h", then)


def _as_it_is(problem: Problem) -> Problem:
    return problem


def _one_more(problem: Problem, composition: Composition, bound: Bound, subject: str) -> _Question:
    wider, value = loosened(problem, bound, _replica_gpus(problem, composition, bound))
    then = Setting(f"{value:g} {bound.unit}", partial(_as_it_is, wider))
    return _Question(bound.kind, subject, f"{bound.limit:g} {bound.unit}", then)


def _replica_gpus(problem: Problem, composition: Composition, bound: Bound) -> int:
    """GPUs that one more replica takes of a stock: of the smallest that the composition has there, or could have."""
    if bound.kind not in ("stock", "shared stock"):
        return 1
    taken = gpus_of_offers(problem)
    if bound.kind == "stock":
        own = taken[:, bound.index]
    else:
        own = taken[:, [problem.stock[bound.index].covers(offer) for offer in problem.offers]].sum(axis=1)
    there = (own > 0.0) & (composition.replicas > 0.5)
    return int(own[there if there.any() else own > 0.0].min(initial=np.inf if (own > 0.0).any() else 1.0))


def _priced(problem: Problem, offers: Sequence[int], factor: float) -> Problem:
    """The problem with these offers' prices times `factor`."""
    own = set(offers)
    changed = tuple(
        replace(offer, usd_per_hr=offer.usd_per_hr * factor) if f in own else offer
        for f, offer in enumerate(problem.offers)
    )
    return replace(problem, offers=changed)


class _Again:
    """Answers questions by solving again, while there is time."""

    def __init__(self, problem: Problem, composition: Composition, until_s: float, gap: float) -> None:
        self.problem, self.until_s, self.gap = problem, until_s, gap
        self.goodput = composition.objective == "goodput"
        self.left_out: list[str] = []
        closer = self._solved(problem) if composition.gap > gap else composition
        self.now = composition if closer is None else self._better(composition, closer)

    def change(self, question: _Question) -> Change | None:
        """The best answer to a looser problem; the present one is allowed there too."""
        then = self._solved(question.then.problem()) if time.monotonic() < self.until_s else None
        if then is None:
            self.left_out.append(f"{question.kind} {question.subject}".strip())
            return None
        usd, served = then.usd_per_hr - self.now.usd_per_hr, _served(then) - _served(self.now)
        if question.kind == "price":  # the present composition at the new price is an answer
            rent = sum(
                units * offer.usd_per_hr
                for units, offer in zip(self.now.units, self.problem.offers, strict=True)
                if offer.gpu == question.subject
            )
            if not self.goodput:
                usd = min(usd, -(1.0 - CHEAPER) * float(rent))
        elif not self.goodput:
            usd = min(usd, 0.0)
        if self.goodput:
            noise = served <= self.gap * max(_served(self.now), 1e-9)
        else:
            noise = -usd <= self.gap * max(self.now.usd_per_hr, 1e-9)
        return Change(question.kind, question.subject, question.now, question.then.label, usd, served, noise)

    def break_even(self, f: int) -> BreakEven | None:
        """The price at which an offer that is not rented would be."""
        offer = self.problem.offers[f]
        bill = self.now.usd_per_hr * (1.0 - self.gap)
        factor = 0.0
        for _ in range(_ROUNDS):
            # A price of exactly nothing would make any number of units as good as another.
            then = self._solved(_priced(self.problem, [f], max(factor, 1e-6)))
            if then is None:
                self.left_out.append(f"break-even price of {offer_name(offer)}")
                return None
            rent = float(then.units[f]) * offer.usd_per_hr
            rest = then.usd_per_hr - rent * max(factor, 1e-6)
            if rent <= 0.0 or rest + factor * rent >= bill:
                break
            factor = min((bill - rest) / rent, 1.0)
        return BreakEven(offer_name(offer), offer.usd_per_gpu_hr, factor * offer.usd_per_gpu_hr)

    def _solved(self, problem: Problem) -> Composition | None:
        left_s = self.until_s - time.monotonic()
        if left_s <= 0.0:
            return None
        try:
            return compose(problem, goodput=self.goodput, gap=self.gap, time_limit_s=left_s)
        except (Infeasible, Unsolved):
            return None

    def _better(self, one: Composition, other: Composition) -> Composition:
        if self.goodput:
            return other if _served(other) > _served(one) else one
        return other if other.usd_per_hr < one.usd_per_hr else one


def _served(composition: Composition) -> float:
    return float(composition.served_per_s.sum())


def _marginals(problem: Problem, until_s: float) -> tuple[Marginal, ...]:
    """$ per million requests of each class, from the duals of the rows that route it."""
    own = posed(problem)
    mip, columns = mip_of(own.program, own.renting, own.limits, whole_loads=True)
    linear = linked(mip, columns, own.program.work, max(until_s, time.monotonic() + 1.0))[0]
    if linear.row_dual is None or linear.status != "solved":
        return ()
    found = []
    for c in np.unique(own.row_class).tolist():
        rows = np.flatnonzero(own.row_class == c)
        usd_per_hr = float(linear.row_dual[rows].sum())
        per_million = usd_per_hr / own.row_rate_per_s[rows].sum() / 3600.0 * 1e6
        found.append(Marginal(problem.demand.class_names[c], max(per_million, 0.0)))
    return tuple(found)
