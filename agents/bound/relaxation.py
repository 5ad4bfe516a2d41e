"""The clairvoyant lower bound: no policy that meets so many requests of each class can pay less.

`certified` proves a bound from prices that are put on the constraints; any prices will do. `best_prices` finds good ones
by a linear program over groups of like requests. docs/bound.md holds the argument.

Symbols: `N` requests, `C` classes, `P` pools, `T` stretches of time, `G` sets of pools of which one replica must stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...env.contract import BoolArray, FloatArray, IntArray
from ..planner.solving.highs import Mip, relaxed

_QUANTILES = 2
"""Groups by weight, of the requests of one class that come and end in the same stretches."""
_MOST_STRETCHES_TRIED = 3
"""Stretches of a group's time in which the linear program may serve it, evenly spread."""

_TIME_LIMIT_S = 3600.0
"""Far beyond what any of these takes: a limit that bites would make the bound depend on what else the machine does."""
_SHORT_FACTOR = 10.0
"""A request that fits nowhere counts as so many times the dearest."""


@dataclass(frozen=True, eq=False)
class Hindsight:
    """One episode as it is known when it is over."""

    class_index: IntArray
    """`[N]`"""
    first: IntArray
    """`[N]` stretch in which the request arrives."""
    last: IntArray
    """`[N]` last stretch in which it may still be worked on if it is to meet its targets; none before `first`."""
    work_s: FloatArray
    """`[N, P]` engine seconds that it takes at least; infinite where it cannot be served."""
    owed_s: FloatArray
    """`[N, P]` engine seconds on top that others may have spent for it, before it came."""
    owed_since: IntArray
    """`[N]` stretch before which they did not."""
    own_usd: FloatArray
    """`[N]` what it costs at least beside a replica's time: bytes sent."""
    length_s: FloatArray
    """`[T]`"""
    rent_usd_per_s: FloatArray
    """`[T, P]` least price of a rented second, idle power included."""
    busy_usd_per_s: FloatArray
    """`[P]` what a busy second costs at least beyond an idle one."""
    least_s: FloatArray
    """`[T, P]` replica-seconds that are rented whatever is decided."""
    most_s: FloatArray
    """`[T, P]` most replica-seconds in which work can be done that meets its targets; infinite where nobody knows."""
    kept: BoolArray
    """`[G, P]` sets of pools of which one replica at least is always rented."""


@dataclass(frozen=True, eq=False)
class Prices:
    """What the constraints are worth; all 0 or more, and `least + kept` at most the rent."""

    least: FloatArray
    """`[T, P]` of a second that must be rented."""
    most: FloatArray
    """`[T, P]` of a second that cannot be had."""
    kept: FloatArray
    """`[T, G]` of a second that one of a set of pools must be rented."""


def no_prices(past: Hindsight) -> Prices:
    """As if no count were ever forced or scarce."""
    shape = past.rent_usd_per_s.shape
    return Prices(np.zeros(shape), np.zeros(shape), np.zeros((shape[0], len(past.kept))))


def certified(past: Hindsight, met: IntArray, prices: Prices) -> float:
    """Dollars that meeting `met` `[C]` requests of each class costs at least: weak duality, whatever the prices.

    Whichever requests they are: of each class the cheapest are taken.
    """
    return certificate(past, prices, len(met)).usd(met)


@dataclass(frozen=True, eq=False)
class Certificate:
    """What prices prove of an episode, for any number of requests met."""

    fixed_usd: float
    """Whatever is met; may be below 0."""
    cheapest_usd: tuple[FloatArray, ...]
    """For each class `[n + 1]`: what its cheapest 0, 1, 2, ... requests cost together."""

    def usd(self, met: IntArray) -> float:
        """Dollars that meeting `met` `[C]` requests of each class costs at least."""
        total = self.fixed_usd
        for c, (count, own) in enumerate(zip(met.tolist(), self.cheapest_usd, strict=True)):
            if count >= len(own):
                raise ValueError(f"met: {count} of class {c}, wanted at most the {len(own) - 1} that came in time")
            total += float(own[count])
        return max(total, 0.0)


def certificate(past: Hindsight, prices: Prices, n_classes: int) -> Certificate:
    """What these prices prove, whatever is met."""
    least, kept, most = _within_rent(past, prices)
    cost = _cheapest_usd(past, second_usd(past, prices))
    fixed = float((least * past.least_s).sum() + (kept * past.length_s[:, None]).sum())
    fixed -= float(np.where(most > 0, most * np.where(most > 0, past.most_s, 0.0), 0.0).sum())
    by_class = (np.sort(cost[past.class_index == c]) for c in range(n_classes))
    return Certificate(fixed, tuple(np.concatenate([[0.0], np.cumsum(own)]) for own in by_class))


def best_prices(past: Hindsight, met: IntArray) -> Prices:
    """Prices under which `certified` is nearly as high as it can be, from a linear program over groups of requests."""
    if not past.least_s.any() and not len(past.kept) and np.isinf(past.most_s).all():
        return no_prices(past)
    answer = relaxed(_program(past, met, _groups(past)), _TIME_LIMIT_S)
    if answer.x is None or answer.row_dual is None:
        return no_prices(past)
    shape, dual = past.rent_usd_per_s.shape, answer.row_dual
    scarce = np.isfinite(past.most_s)
    work_usd = np.maximum(dual[: scarce.size].reshape(shape), 0.0)
    most = np.zeros(shape)
    most[scarce] = np.maximum(-dual[scarce.size : scarce.size + int(scarce.sum())], 0.0)
    kept = np.maximum(dual[len(dual) - shape[0] * len(past.kept) :].reshape(shape[0], len(past.kept)), 0.0)
    return Prices(np.maximum(past.rent_usd_per_s - work_usd - kept @ past.kept, 0.0), most, kept)


def _program(past: Hindsight, met: IntArray, groups: _Groups) -> Mip:
    """Least rent. Rows: work is within what is rented `[T * P]`, and within what can be had where that is known; no group
    serves more than it has; every class is met, or short; of every set one is kept `[T * G]`."""
    stretches, n_pools = past.rent_usd_per_s.shape
    n_sets, n_classes, width = len(past.kept), len(met), stretches * n_pools
    # Columns: rented seconds [T * P], then requests of a group in a pool and a stretch.
    column = width + np.arange(len(groups.of))
    place = groups.stretch * n_pools + groups.pool
    work_s = groups.work_s[groups.of, groups.pool]
    counted = np.minimum(met, np.bincount(groups.class_index, weights=groups.size, minlength=n_classes))
    rented = np.arange(width)
    scarce = np.flatnonzero(np.isfinite(past.most_s.ravel()))
    row_of_scarce = np.full(width, -1)
    row_of_scarce[scarce] = np.arange(len(scarce))
    binding = row_of_scarce[place] >= 0
    at_most = width
    at_group = at_most + len(scarce)
    at_class = at_group + len(groups.size)
    at_kept = at_class + n_classes
    sets, pools = np.nonzero(past.kept)
    kept_rows = (at_kept + np.arange(stretches)[:, None] * n_sets + sets).ravel()
    kept_columns = (np.arange(stretches)[:, None] * n_pools + pools).ravel()
    row = [rented, place, at_most + row_of_scarce[place[binding]], at_group + groups.of]
    row += [at_class + groups.class_index[groups.of], kept_rows]
    columns = [rented, column, column[binding], column, column, kept_columns]
    value = [np.ones(width), -work_s, work_s[binding], np.ones(len(column)), np.ones(len(column))]
    value += [np.ones(len(kept_rows))]
    # The groups' mean work in the few stretches tried may not fit though the requests did: a class may then be short.
    short = width + len(column) + np.arange(n_classes)
    row += [at_class + np.arange(n_classes)]
    columns += [short]
    value += [np.ones(n_classes)]
    none = np.full(len(scarce) + len(groups.size), -np.inf)
    usd = past.busy_usd_per_s[groups.pool] * work_s + groups.own_usd[groups.of]
    dearest_usd = float((usd + work_s * past.rent_usd_per_s.max(axis=0)[groups.pool]).max(initial=0.0))
    return Mip(
        cost=np.concatenate([past.rent_usd_per_s.ravel(), usd, np.full(n_classes, _SHORT_FACTOR * dearest_usd)]),
        lower=np.concatenate([past.least_s.ravel(), np.zeros(len(column) + n_classes)]),
        upper=np.full(width + len(column) + n_classes, np.inf),
        whole=np.zeros(width + len(column) + n_classes, dtype=np.bool_),
        row=np.concatenate(row),
        column=np.concatenate(columns),
        value=np.concatenate(value),
        row_lower=np.concatenate([np.zeros(width), none, counted, np.repeat(past.length_s, n_sets)]),
        row_upper=np.concatenate(
            [
                np.full(width, np.inf),
                past.most_s.ravel()[scarce],
                groups.size,
                np.full(n_classes + stretches * n_sets, np.inf),
            ]
        ),
    )


def second_usd(past: Hindsight, prices: Prices) -> FloatArray:
    """`[T, P]` what a busy second costs a request at these prices."""
    least, kept, most = _within_rent(past, prices)
    usd: FloatArray = past.rent_usd_per_s - least - kept @ past.kept + most + past.busy_usd_per_s
    return usd


def _within_rent(past: Hindsight, prices: Prices) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least, kept and most as they must be for the argument to hold: not negative, the first two within the rent."""
    kept, most = np.maximum(prices.kept, 0.0), np.maximum(prices.most, 0.0)
    asked = kept @ past.kept
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(asked > past.rent_usd_per_s, past.rent_usd_per_s / asked, 1.0).min(axis=1, initial=1.0)
    kept = kept * share[:, None]
    room = np.maximum(past.rent_usd_per_s - kept @ past.kept, 0.0)
    return np.clip(prices.least, 0.0, room), kept, np.where(np.isfinite(past.most_s), most, 0.0)


def _cheapest_usd(past: Hindsight, busy_usd_per_s: FloatArray) -> FloatArray:
    """`[N]` dollars of each request where and when it costs least, a busy second costing `[T, P]`."""
    ranges = _RangeMinima(busy_usd_per_s)
    where = _product(past.work_s, ranges.within(past.first, past.last))
    if past.owed_s.any():
        where = where + past.owed_s * ranges.within(past.owed_since, past.last)
    cost: FloatArray = where.min(axis=1) + past.own_usd
    return cost


def _product(work_s: FloatArray, usd_per_s: FloatArray) -> FloatArray:
    """Work times price, infinite where the work cannot be done even if a second is free."""
    product: FloatArray = np.where(np.isfinite(work_s), np.where(np.isfinite(work_s), work_s, 0.0) * usd_per_s, np.inf)
    return product


class _RangeMinima:
    """The least of each column between two rows, for many pairs at once: minima over spans of powers of two."""

    def __init__(self, values: FloatArray) -> None:
        """`values` `[T, P]`."""
        self._levels = [values]
        span = 1
        while 2 * span <= len(values):
            last = self._levels[-1]
            self._levels.append(np.minimum(last[:-span], last[span:]))
            span *= 2

    def within(self, first: IntArray, last: IntArray) -> FloatArray:
        """`[N, P]` least values in rows `first` to `last`, both included."""
        level = np.log2(last - first + 1.0).astype(np.int64)
        out = np.empty((len(first), self._levels[0].shape[1]))
        for k in np.unique(level).tolist():
            own = level == k
            table = self._levels[k]
            out[own] = np.minimum(table[first[own]], table[last[own] - (1 << k) + 1])
        return out


@dataclass(frozen=True, eq=False)
class _Groups:
    """Like requests, and where and when each group may be served. Symbols: `M` groups, `E` places."""

    class_index: IntArray
    """`[M]`"""
    size: FloatArray
    """`[M]` requests."""
    work_s: FloatArray
    """`[M, P]` mean."""
    own_usd: FloatArray
    """`[M]` mean."""
    of: IntArray
    """`[E]` group."""
    pool: IntArray
    """`[E]`"""
    stretch: IntArray
    """`[E]`"""


def _groups(past: Hindsight) -> _Groups:
    able = np.isfinite(past.work_s)
    work_s = np.where(able, past.work_s, 0.0) + past.owed_s
    weight = work_s.sum(axis=1)
    order = np.lexsort((weight, past.last, past.first, past.class_index))
    keys = np.stack([past.class_index, past.first, past.last], axis=1)[order]
    starts = np.concatenate([[True], (np.diff(keys, axis=0) != 0).any(axis=1)])
    run = np.cumsum(starts) - 1
    begins = np.flatnonzero(starts)
    length = np.diff(np.append(begins, len(order)))
    quantile = (np.arange(len(order)) - begins[run]) * _QUANTILES // length[run]
    _, group, size = np.unique(run * _QUANTILES + quantile, return_inverse=True, return_counts=True)
    member = np.zeros(len(size), dtype=np.int64)
    member[group] = order
    n_pools = past.work_s.shape[1]
    work = np.zeros((len(size), n_pools))
    np.add.at(work, group, work_s[order])
    own = np.bincount(group, weights=past.own_usd[order], minlength=len(size)) / size
    first, last, serves = past.first[member], past.last[member], able[member]
    tried = np.unique(np.linspace(0.0, 1.0, _MOST_STRETCHES_TRIED))
    stretch = np.rint(first[:, None] + tried * (last - first)[:, None]).astype(np.int64)
    fresh = np.concatenate([np.ones((len(size), 1), dtype=np.bool_), np.diff(stretch, axis=1) > 0], axis=1)
    of, at, pool = np.nonzero(fresh[:, :, None] & serves[:, None, :])
    return _Groups(
        class_index=past.class_index[member],
        size=size.astype(np.float64),
        work_s=work / size[:, None],
        own_usd=own,
        of=of,
        pool=pool,
        stretch=stretch[of, at],
    )
