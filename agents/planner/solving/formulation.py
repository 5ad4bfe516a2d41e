"""The planner's program as a matrix: of pools that run, and of machines to rent.

Least rent over whole counts `n`, whole units rented `u` and routing shares `x` (see `program`), subject to:

    routed    sum_o x[r,o] + short[r] = 1           every row of shares is routed, or short
    carried   sum_r work[r,o] x[r,o] <= n[o]        the load of an option fits its replicas
    started   n[o] - running[o] <= start[o]         starts are what is wanted beyond what runs
    fitted    sum_o gpus[f,o] n[o] <= unit[f] u[f]  an offer's units hold the GPUs of its replicas
    limits    named rows over n, u and x            stock, budget, spot share, floors

Without renting (`Renting`) a replica has a price of its own, and the last two kinds of rows are not there: this is what
a running fleet is planned again with, thousands of times by `branching`.

`x[r,o] <= n[o]` follows where `n` is whole, and is far stronger than `carried` where `work[r,o]` is small: such rows
are added where a solution of the linear program breaks them (`links`).

Symbols: `R` rows of shares (a class each, or a bucket), `O` options (or pools), `F` offers, `L` limits, `X` pairs of a
row and an option that can serve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....env.contract import BoolArray, FloatArray, IntArray
from ..composition import BoundKind
from .highs import Mip
from .program import Program

__all__ = ["Columns", "Limit", "Renting", "links", "mip_of", "with_links"]


@dataclass(frozen=True, eq=False)
class Limit:
    """One wish or market limit: a weighted sum of counts, units or shares that must not go beyond a number."""

    kind: BoundKind
    subject: str
    unit: str
    at_most: bool
    limit: float
    index: int
    """As of a `Bound`."""
    step: float
    """The least that more of it comes in, in its unit; 0 for any part."""
    counts: FloatArray | None = None
    """`[O]` weights."""
    units: FloatArray | None = None
    """`[F]` weights."""
    shares: FloatArray | None = None
    """`[R, O]` weights."""
    shares_of: FloatArray | None = None
    """`[R, O]` weights of the total that `shares` may be so much of, where something may be short."""


@dataclass(frozen=True, eq=False)
class Renting:
    """What replicas stand on."""

    gpus: FloatArray
    """`[F, O]` GPUs of the offer that a replica takes."""
    unit_gpus: FloatArray
    """`[F]`"""
    unit_usd_per_hr: FloatArray
    """`[F]`"""


@dataclass(frozen=True, eq=False)
class Columns:
    """Where what stands: counts `[O]`, shares `[X]`, shortfalls `[R]`, starts, units `[F]`."""

    options: int
    share_row: IntArray
    """`[X]`"""
    share_option: IntArray
    """`[X]`"""
    rows: int
    start_option: IntArray
    offers: int
    limit_row: int
    """The matrix's row of the first limit."""

    @property
    def share(self) -> int:
        """The first share."""
        return self.options

    @property
    def short(self) -> int:
        """The first shortfall."""
        return self.share + len(self.share_row)

    @property
    def start(self) -> int:
        """The first start."""
        return self.short + self.rows

    @property
    def unit(self) -> int:
        """The first unit."""
        return self.start + len(self.start_option)

    @property
    def width(self) -> int:
        """Of all."""
        return self.unit + self.offers

    def counts(self, x: FloatArray) -> FloatArray:
        """`[O]` of a solution, whole."""
        return _wholes(x[: self.options])

    def shares(self, x: FloatArray) -> FloatArray:
        """`[R, O]` of a solution."""
        shares = np.zeros((self.rows, self.options))
        shares[self.share_row, self.share_option] = x[self.share : self.short]
        return shares

    def shortfalls(self, x: FloatArray) -> FloatArray:
        """`[R]` of a solution."""
        return np.asarray(np.clip(x[self.short : self.start], 0.0, 1.0), dtype=np.float64)

    def units(self, x: FloatArray) -> FloatArray:
        """`[F]` of a solution, whole."""
        return _wholes(x[self.unit : self.width])


def _wholes(values: FloatArray) -> FloatArray:
    return np.asarray(np.round(np.maximum(values, 0.0)) + 0.0, dtype=np.float64)  # no minus zeros


class _Rows:
    """Rows of a matrix as they are written down."""

    def __init__(self) -> None:
        self.row: list[IntArray] = []
        self.column: list[IntArray] = []
        self.value: list[FloatArray] = []
        self.low: list[FloatArray] = []
        self.high: list[FloatArray] = []
        self.count = 0

    def block(self, count: int, low: float | FloatArray, high: float | FloatArray) -> int:
        """Open `count` rows; the first one's number."""
        self.low.append(np.broadcast_to(np.asarray(low, dtype=np.float64), (count,)))
        self.high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), (count,)))
        self.count += count
        return self.count - count

    def put(self, row: IntArray, column: IntArray, value: float | FloatArray) -> None:
        """Entries; zeros are left out."""
        values = np.broadcast_to(np.asarray(value, dtype=np.float64), row.shape)
        there = values != 0.0
        self.row.append(row[there])
        self.column.append(column[there])
        self.value.append(values[there])


def mip_of(
    program: Program, renting: Renting | None = None, limits: Sequence[Limit] = (), whole_loads: bool = False
) -> tuple[Mip, Columns]:
    """The matrix of one program (no batch axis), and where its parts stand.

    Args:
        whole_loads: nothing may be short.
    """
    rows_n, options_n = program.work.shape
    share_row, share_option = np.nonzero(program.usable)
    starting = np.flatnonzero(program.start_usd > 0.0)
    offers_n = 0 if renting is None else len(renting.unit_gpus)
    before_limits = rows_n + options_n + len(starting) + offers_n
    columns = Columns(options_n, share_row, share_option, rows_n, starting, offers_n, before_limits)
    pairs = columns.share + np.arange(len(share_row))
    counts, shorts = np.arange(options_n), columns.short + np.arange(rows_n)
    starts = columns.start + np.arange(len(starting))
    units = columns.unit + np.arange(offers_n)

    rows = _Rows()
    routed = rows.block(rows_n, 1.0, 1.0)
    rows.put(routed + share_row, pairs, 1.0)
    rows.put(routed + np.arange(rows_n), shorts, 1.0)
    carried = rows.block(options_n, -np.inf, 0.0)
    rows.put(carried + share_option, pairs, program.work[share_row, share_option])
    rows.put(carried + counts, counts, -1.0)
    started = rows.block(len(starting), -np.inf, program.running[starting])
    rows.put(started + np.arange(len(starting)), starting, 1.0)
    rows.put(started + np.arange(len(starting)), starts, -1.0)
    if renting is not None:
        # GPUs that are sold one by one are rented as they are needed: an equation, which presolve takes out.
        fitted = rows.block(offers_n, np.where(renting.unit_gpus == 1.0, 0.0, -np.inf), 0.0)
        offer, option = np.nonzero(renting.gpus)
        rows.put(fitted + offer, option, renting.gpus[offer, option])
        rows.put(fitted + np.arange(offers_n), units, -renting.unit_gpus)
    for limit in limits:
        side = limit.limit if limit.shares_of is None else 0.0
        own = rows.block(1, *((-np.inf, side) if limit.at_most else (side, np.inf)))
        for weights, at in ((limit.counts, counts), (limit.units, units)):
            if weights is not None:
                rows.put(np.full(len(at), own), at, weights)
        if limit.shares is not None:
            weights = limit.shares - (0.0 if limit.shares_of is None else limit.limit * limit.shares_of)
            rows.put(np.full(len(pairs), own), pairs, weights[share_row, share_option])

    cost, lower = np.zeros(columns.width), np.zeros(columns.width)
    upper = np.full(columns.width, np.inf)
    cost[:options_n] = program.usd_per_hr if renting is None else 0.0
    cost[pairs] = program.share_usd[share_row, share_option]
    cost[shorts] = program.short_usd
    cost[starts] = program.start_usd[starting]
    lower[:options_n], upper[:options_n] = program.low, program.high
    upper[columns.share : columns.start] = 1.0
    if whole_loads:
        upper[shorts] = 0.0
    if renting is not None:
        cost[units] = renting.unit_usd_per_hr
    whole = np.zeros(columns.width, dtype=np.bool_)
    whole[:options_n] = True
    whole[units] = True
    return (
        Mip(
            cost,
            lower,
            upper,
            whole,
            np.concatenate(rows.low),
            np.concatenate(rows.high),
            np.concatenate(rows.row),
            np.concatenate(rows.column),
            np.concatenate(rows.value),
        ),
        columns,
    )


def links(columns: Columns, work: FloatArray, x: FloatArray, kept: BoolArray, least: float) -> IntArray:
    """Pairs `X` whose `x[r,o] <= n[o]` a solution breaks by more than `least`; those `kept` `[X]` are there already."""
    share = x[columns.share : columns.short]
    broken = share - x[columns.share_option] > least
    useful = work[columns.share_row, columns.share_option] < 1.0
    return np.flatnonzero(broken & useful & ~kept)


def with_links(mip: Mip, columns: Columns, pairs: IntArray) -> Mip:
    """The program with `x[r,o] <= n[o]` for these pairs."""
    own = np.arange(len(pairs))
    return mip.with_rows(
        np.full(len(pairs), -np.inf),
        np.zeros(len(pairs)),
        np.concatenate([own, own]),
        np.concatenate([columns.share + pairs, columns.share_option[pairs]]),
        np.concatenate([np.ones(len(pairs)), np.full(len(pairs), -1.0)]),
    )
