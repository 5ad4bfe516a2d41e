"""From a problem in the words of `composition` to the arrays of `formulation`.

Symbols: `B` buckets, `R` rows of shares, `O` options of the problem, `K` of them that matter, `F` offers, `C` classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ....env.contract import BoolArray, FloatArray, IntArray
from ....env.market.offers import Offer
from ..composition import Bound, Option, Problem
from ..fleet import capacities, gpus_of_offers, list_usd_per_hr, spot_options
from .formulation import Limit, Renting
from .program import STEADINESS, Program

__all__ = ["NEGLIGIBLE", "Posed", "bounds_of", "offer_name", "posed"]

NEGLIGIBLE = 1e-3
"""Share of a class's requests that an option it is routed to may be unable to serve within target, where a class is
routed whole: they miss, and are charged at the dearest bucket that it can serve. Beyond it the class cannot go there."""


@dataclass(frozen=True, eq=False)
class Posed:
    """A problem as arrays, without what cannot be in the best answer."""

    problem: Problem
    option: IntArray
    """`[K]` of the problem's options: those that serve something and are not beaten by another on the same machines."""
    row_of_bucket: IntArray
    """`[B]` the row that routes it; -1 without demand."""
    row_class: IntArray
    """`[R]`"""
    row_rate_per_s: FloatArray
    """`[R]` requests/s, head-room left out."""
    program: Program
    """`[R, K]`"""
    renting: Renting
    """`[F, K]`"""
    limits: tuple[Limit, ...]

    @property
    def spot(self) -> BoolArray:
        """`[K]` whether its machines may be taken away."""
        return spot_options(self.problem)[self.option]


def posed(problem: Problem) -> Posed:
    """The arrays of a problem."""
    row_of_bucket, row_class, row_rate = _rows(problem)
    work = _work(problem, row_of_bucket, len(row_class))
    usable = np.isfinite(work)
    forced = np.array([option.min_replicas > 0 for option in problem.options], dtype=np.bool_)
    wanted = usable.any(axis=0) | forced
    gpus = gpus_of_offers(problem).T
    wanted &= ~_beaten(problem, work, gpus, wanted)
    kept = np.flatnonzero(wanted)
    work, usable, gpus = work[:, kept], usable[:, kept], gpus[:, kept]
    work[~usable] = 0.0
    options = [problem.options[o] for o in kept.tolist()]
    price = list_usd_per_hr(problem)[kept]
    wishes = problem.wishes
    # More than carries everything that it can serve, or fills a floor, is never of use.
    low = np.array([float(option.min_replicas) for option in options])
    floor = max(wishes.min_replicas, wishes.min_on_demand_replicas)
    high = np.maximum.reduce([np.ceil(work.sum(axis=0) - 1e-9), low, np.full(len(low), float(floor))])
    program = Program(
        work=work,
        usable=usable,
        usd_per_hr=price,
        start_usd=np.array([option.start_usd for option in options]),
        share_usd=STEADINESS * work * price,
        short_usd=np.zeros(()),
        running=np.array([float(option.running) for option in options]),
        low=np.zeros(len(low)),
        high=high,
    )
    renting = Renting(
        gpus=gpus,
        unit_gpus=np.array([float(offer.gpus) for offer in problem.offers]),
        unit_usd_per_hr=np.array([offer.usd_per_hr for offer in problem.offers]),
    )
    bare = Posed(problem, kept, row_of_bucket, row_class, row_rate, program, renting, ())
    return replace(bare, limits=tuple(_limits(bare, options)))


def offer_name(offer: Offer) -> str:
    """For people: `L4 spot, us-east1 of gcp`."""
    kind = " spot" if offer.kind == "spot" else ""
    where = " of ".join(part for part in (offer.region, offer.provider) if part)
    return f"{offer.gpu}{kind}{', ' if where else ''}{where}"


def bounds_of(own: Posed, counts: FloatArray, units: FloatArray, shares: FloatArray) -> tuple[Bound, ...]:
    """How much of each limit is used by counts `[K]`, units `[F]` and shares `[R, K]`."""
    bounds = []
    for limit in own.limits:
        used = 0.0
        for weights, amounts in ((limit.counts, counts), (limit.units, units), (limit.shares, shares)):
            used += 0.0 if weights is None else float((weights * amounts).sum())
        if limit.shares_of is not None:
            used /= max(float((limit.shares_of * shares).sum()), 1e-12)
        slack = limit.limit - used if limit.at_most else used - limit.limit
        room = limit.step
        if limit.kind == "budget":  # what one more of the cheapest unit would take
            room = float(own.renting.unit_usd_per_hr.min(initial=np.inf))
        tight = slack < room - 1e-6 if room > 0.0 else slack < 1e-6
        bounds.append(Bound(limit.kind, limit.subject, used, limit.limit, limit.unit, limit.index, tight))
    return tuple(bounds)


def _rows(problem: Problem) -> tuple[IntArray, IntArray, FloatArray]:
    """The row of each bucket `[B]`, and of each row its class and rate `[R]`."""
    demand = problem.demand
    wanted = demand.rate_per_s > 0.0
    row_of_bucket = np.full(len(wanted), -1, dtype=np.int64)
    if problem.wishes.route_by_length:
        row_class = demand.class_index[wanted]
        row_of_bucket[wanted] = np.arange(len(row_class))
    else:
        row_class, row_of_bucket[wanted] = np.unique(demand.class_index[wanted], return_inverse=True)
    rate = np.bincount(row_of_bucket[wanted], weights=demand.rate_per_s[wanted], minlength=len(row_class))
    return row_of_bucket, row_class, np.asarray(rate, dtype=np.float64)


def _work(problem: Problem, row_of_bucket: IntArray, rows: int) -> FloatArray:
    """`[R, O]` replicas that a whole row takes, head-room included; infinite where the option cannot serve it."""
    capacity = capacities(problem)
    wanted = row_of_bucket >= 0
    rate, row = problem.demand.rate_per_s[wanted, None], row_of_bucket[wanted]
    capacity = capacity[wanted]
    able = capacity > 0.0
    replica_s = np.divide(1.0, capacity, out=np.zeros_like(capacity), where=able)
    work, unable, total, dearest = (np.zeros((rows, capacity.shape[1])) for _ in range(4))
    np.add.at(work, row, rate * replica_s)
    np.add.at(unable, row, np.where(able, 0.0, rate))
    np.add.at(total, row, np.broadcast_to(rate, able.shape))
    np.maximum.at(dearest, row, replica_s)
    work += unable * dearest
    serves = (unable <= NEGLIGIBLE * total) & (work > 0.0)
    wholes: FloatArray = np.where(serves, work * problem.wishes.headroom, np.inf)
    return wholes


def _beaten(problem: Problem, work: FloatArray, gpus: FloatArray, wanted: BoolArray) -> BoolArray:
    """`[O]` options that another one on the same machines replaces at no loss: whole copies of it take no more GPUs
    and carry no less of anything.

    Only options that may be had or left alone are compared: none runs, none has counts of its own.
    """
    beaten = np.zeros(len(wanted), dtype=np.bool_)
    groups: dict[tuple[object, ...], list[int]] = {}
    for o in np.flatnonzero(wanted).tolist():
        option = problem.options[o]
        if not _tied(option):
            groups.setdefault((option.offers, option.layout.model), []).append(o)
    for group in groups.values():
        # Ties go to the wider capacity per GPU that comes first.
        for weak in group:
            for strong in group:
                if strong == weak or beaten[strong]:
                    continue
                used = gpus[:, strong] > 0.0
                copies = int((gpus[used, weak] / gpus[used, strong]).min())
                if copies < 1:
                    continue
                better = (work[:, strong] <= work[:, weak] * copies * (1.0 + 1e-12)) | np.isinf(work[:, weak])
                same = copies == 1 and np.array_equal(gpus[:, weak], gpus[:, strong])
                if better.all() and not (same and strong > weak and np.array_equal(work[:, weak], work[:, strong])):
                    beaten[weak] = True
                    break
    return beaten


def _tied(option: Option) -> bool:
    return bool(option.running or option.start_usd or option.min_replicas or option.max_replicas is not None)


def _said_by_counts(problem: Problem, f: int, gpus: int) -> bool:
    """Whether the most replicas of the one option that takes an offer already keep to its stock, as of a pool."""
    own = [option for option in problem.options if f in option.offers]
    if len(own) != 1 or own[0].max_replicas is None:
        return False
    each = list(own[0].layout.gpus.values())[own[0].offers.index(f)]
    unit = problem.offers[f].gpus
    return -(-own[0].max_replicas * each // unit) * unit <= gpus


def _limits(own: Posed, options: list[Option]) -> Iterator[Limit]:
    """Market limits and wishes, in the order in which people are told of them."""
    problem, wishes = own.problem, own.problem.wishes
    offers = problem.offers
    unit_gpus = own.renting.unit_gpus
    for f, offer in enumerate(offers):
        if offer.stock is not None and not _said_by_counts(problem, f, offer.stock * offer.gpus):
            only = np.zeros(len(offers))
            only[f] = offer.gpus
            limit = float(offer.stock * offer.gpus)
            yield Limit("stock", offer_name(offer), "GPUs", True, limit, f, float(offer.gpus), units=only)
    for i, stock in enumerate(problem.stock):
        covered = np.array([stock.covers(offer) for offer in offers], dtype=np.bool_)
        if covered.any():
            name = stock.name if stock.region is None else f"{stock.name} in {stock.region or 'no region'}"
            step = float(unit_gpus[covered].min())
            several = covered * unit_gpus
            yield Limit("shared stock", name, "GPUs", True, float(stock.gpus), i, step, units=several)
    if wishes.budget_usd_per_hr is not None:
        rent = own.renting.unit_usd_per_hr
        yield Limit("budget", "", "$/h", True, wishes.budget_usd_per_hr, -1, 0.0, units=rent)
    spot = own.spot
    if wishes.max_spot_share < 1.0 and spot.any():
        for c in np.unique(own.row_class).tolist():
            ours = np.where(own.row_class == c, own.row_rate_per_s, 0.0)
            every = np.repeat((ours / ours.sum())[:, None], len(spot), axis=1)
            name, most = problem.demand.class_names[c], wishes.max_spot_share
            yield Limit("spot share", name, "of requests", True, most, c, 0.0, shares=every * spot, shares_of=every)
    serving = own.program.usable.any(axis=0)
    models = np.array([option.layout.model for option in options])
    for model in dict.fromkeys(models[serving].tolist()):
        ours = np.where((models == model) & serving, 1.0, 0.0)
        least = float(wishes.min_on_demand_replicas)
        if least > 0.0:
            yield Limit("on-demand floor", model, "replicas", False, least, -1, 1.0, counts=ours * ~spot)
        least = float(wishes.min_replicas)
        if least > 0.0:
            yield Limit("replica floor", model, "replicas", False, least, -1, 1.0, counts=ours)
    for k, option in enumerate(options):
        only = np.zeros(len(options))
        only[k] = 1.0
        o, highest, least = int(own.option[k]), option.max_replicas, float(option.min_replicas)
        if highest is not None and highest < own.program.high[k]:
            yield Limit("most replicas", option.name, "replicas", True, float(highest), o, 1.0, counts=only)
        if least > 0.0:
            yield Limit("least replicas", option.name, "replicas", False, least, o, 1.0, counts=only)
