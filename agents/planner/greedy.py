"""A greedy mix: what one rents who serves each kind of request where it is cheapest, one kind after the other.

Symbols: `B` buckets of demand, `O` options, `F` offers, `K` kinds of requests (classes, or buckets where those are
routed on their own).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ...env.contract import FloatArray, IntArray
from .composition import Composition, Problem
from .fleet import gpus_of_offers, list_usd_per_hr, spot_options

_NOTHING = 1e-9
"""A smaller share is none."""


def greedy(problem: Problem) -> Composition:
    """Kinds of requests in turn, the dearest first, each where a request costs least.

    A kind first fills what replicas already rented have to spare, then whole replicas of the option with the least
    dollars per request, as far as stock, budget and the limits of spot reach, then the next option; what is left over
    after whole replicas goes to the cheapest single replica that carries it. Last come the replicas that the wishes'
    least counts ask for.

    Returns:
        Shares of less than 1 where stock or budget end before the load is carried. `bound` is 0: it proves nothing.
    """
    began = time.perf_counter()
    rented = _Rented(problem)
    kinds = _kinds(problem)
    works = [_work(problem, kind) for kind in kinds]
    cheapest = [float(np.min(work * rented.usd_per_hr, initial=np.inf)) for work in works]
    for o, option in enumerate(problem.options):
        rented.add(o, option.min_replicas)
    for k in sorted(range(len(kinds)), key=lambda k: -cheapest[k] if np.isfinite(cheapest[k]) else 0.0):
        _place(rented, kinds[k], works[k], problem.wishes.max_spot_share)
    _top_up(rented)
    return Composition(
        replicas=rented.replicas,
        units=rented.units(rented.replicas),
        share=rented.share,
        usd_per_hr=rented.bill(rented.replicas),
        bound=0.0,
        solve_s=time.perf_counter() - began,
        served_per_s=problem.demand.rate_per_s * rented.share.sum(axis=1),
        proven=False,
    )


@dataclass(eq=False)
class _Rented:
    """What is rented so far, and what it has to spare; changed in place."""

    problem: Problem

    def __post_init__(self) -> None:
        """Nothing is rented yet."""
        problem, offers = self.problem, self.problem.offers
        self.gpus = gpus_of_offers(problem)
        self.usd_per_hr = list_usd_per_hr(problem)
        self.spot = spot_options(problem)
        self.unit_gpus = np.array([offer.gpus for offer in offers], dtype=np.float64)
        self.unit_usd = np.array([offer.usd_per_hr for offer in offers])
        self.stock = np.array([np.inf if offer.stock is None else offer.stock for offer in offers])
        covered = [[limit.covers(offer) for offer in offers] for limit in problem.stock]
        self.shared_gpus = np.array(covered, dtype=np.float64).reshape(-1, len(offers)) * self.unit_gpus
        self.shared_limit = np.array([limit.gpus for limit in problem.stock], dtype=np.float64)
        self.most = np.array([np.inf if o.max_replicas is None else o.max_replicas for o in problem.options])
        self.replicas = np.zeros(len(problem.options))
        self.spare = np.zeros(len(problem.options))
        self.share = np.zeros((len(problem.demand.class_index), len(problem.options)))

    def units(self, replicas: FloatArray) -> FloatArray:
        """`[F]` whole units that so many replicas take."""
        taken: FloatArray = np.ceil(replicas @ self.gpus / self.unit_gpus - _NOTHING) + 0.0  # no minus zeros
        return taken

    def bill(self, replicas: FloatArray) -> float:
        """Dollars per hour."""
        return float(self.units(replicas) @ self.unit_usd)

    def room(self, option: int, wanted: int) -> int:
        """How many of `wanted` further replicas limits, stock and budget allow."""
        low, high = 0, int(min(wanted, self.most[option] - self.replicas[option]))
        while low < high:
            middle = (low + high + 1) // 2
            if self._possible(option, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _possible(self, option: int, more: int) -> bool:
        replicas = self.replicas.copy()
        replicas[option] += more
        budget = self.problem.wishes.budget_usd_per_hr
        units = self.units(replicas)
        within = budget is None or float(units @ self.unit_usd) <= budget + _NOTHING
        in_stock = (units <= self.stock).all() and (self.shared_gpus @ units <= self.shared_limit).all()
        return within and bool(in_stock)

    def add(self, option: int, wanted: int) -> int:
        """Rent up to `wanted` more replicas; how many could be had."""
        had = self.room(option, wanted)
        self.replicas[option] += had
        self.spare[option] += had
        return had


def _kinds(problem: Problem) -> list[IntArray]:
    """Buckets that are routed as one."""
    demand = problem.demand
    if problem.wishes.route_by_length:
        return [np.array([b]) for b in np.flatnonzero(demand.rate_per_s > 0)]
    classes = range(len(demand.class_names))
    kinds = [np.flatnonzero((demand.class_index == c) & (demand.rate_per_s > 0)) for c in classes]
    return [kind for kind in kinds if len(kind)]


def _work(problem: Problem, kind: IntArray) -> FloatArray:
    """`[O]` replicas that the whole kind would take, head-room included; inf where it cannot be served."""
    rate = problem.demand.rate_per_s[kind] * problem.wishes.headroom
    capacity = np.array([option.capacity_per_s[kind] for option in problem.options]).reshape(-1, len(kind))
    each = np.divide(rate, capacity, out=np.full(capacity.shape, np.inf), where=capacity > 0)
    work: FloatArray = each.sum(axis=1)
    return work


def _place(rented: _Rented, kind: IntArray, work: FloatArray, max_spot_share: float) -> None:
    """Serve one kind."""
    left, spot_left = 1.0, max_spot_share
    order = [int(o) for o in np.argsort(work * rented.usd_per_hr, kind="stable") if np.isfinite(work[o])]

    def put(option: int, share: float) -> None:
        nonlocal left, spot_left
        rented.share[kind, option] += share
        rented.spare[option] = max(rented.spare[option] - share * work[option], 0.0)
        left -= share
        if rented.spot[option]:
            spot_left -= share

    def allowed(option: int) -> float:
        return min(left, spot_left) if rented.spot[option] else left

    for option in order:  # what is paid for already
        put(option, min(allowed(option), rented.spare[option] / work[option]))
    for option in order:
        whole = int(allowed(option) * work[option] + _NOTHING)
        had = rented.add(option, whole)
        if had:
            put(option, min(allowed(option), rented.spare[option] / work[option]))
        if left <= _NOTHING:
            return
        if had < whole:
            continue  # sold out: the next one
        last = _one_more(rented, order, [allowed(o) for o in range(len(work))], work, left)
        if last is not None:
            rented.add(last, 1)
            put(last, left)
            return
        # No single replica takes all that is left.
        if allowed(option) > _NOTHING and rented.add(option, 1):
            put(option, min(allowed(option), rented.spare[option] / work[option]))


def _one_more(rented: _Rented, order: list[int], allowed: list[float], work: FloatArray, share: float) -> int | None:
    """The cheapest single further replica that carries a share of the kind whole; None if there is none."""
    able = [o for o in order if work[o] * share <= 1.0 + _NOTHING and allowed[o] >= share - _NOTHING]
    able = [o for o in able if rented.room(o, 1)]
    return min(able, key=lambda o: float(rented.usd_per_hr[o]), default=None)


def _top_up(rented: _Rented) -> None:
    """The least counts of each model, with the cheapest replicas that can be had."""
    wishes, options = rented.problem.wishes, rented.problem.options
    for model in dict.fromkeys(option.layout.model for option in options):
        own = [o for o, option in enumerate(options) if option.layout.model == model]
        for least, candidates in (
            (wishes.min_on_demand_replicas, [o for o in own if not rented.spot[o]]),
            (wishes.min_replicas, own),
        ):
            for option in sorted(candidates, key=lambda o: float(rented.usd_per_hr[o])):
                missing = least - int(rented.replicas[candidates].sum())
                if missing > 0:
                    rented.add(option, missing)
