"""Which machines to rent, how many replicas of which layout to run on them, and who is served where: the problem and
its answer.

Symbols: `B` buckets of demand, `O` options, `F` offers, `C` classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...env.contract import FloatArray
from ...env.market.offers import Offer, StockLimit
from .demand import Demand
from .layouts.layout import Layout

__all__ = ["Bound", "BoundKind", "Composition", "Infeasible", "Option", "Problem", "Wishes"]


@dataclass(frozen=True, eq=False)
class Option:
    """Replicas of one layout from one source of machines."""

    name: str
    """Unique, short, readable: a pool's name."""
    layout: Layout
    offers: tuple[int, ...]
    """Into the problem's offers, one for each GPU type of `layout.gpus`, in that order; all of one provider and region."""
    capacity_per_s: FloatArray
    """`[B]` requests/s of a bucket that one replica serves within the class's targets at the wanted attainment; 0 where it
    cannot (other model, quality below the class's floor, too long, too slow)."""
    running: int = 0
    """Replicas that are up now."""
    start_usd: float = 0.0
    """$/h that one more replica than are running adds to the bill it is weighed by: the rent of its cold start, spread
    over the time that a change of mix has to pay off in."""
    max_replicas: int | None = None
    min_replicas: int = 0
    why_not: tuple[str, ...] = ()
    """`[B]` what keeps it from serving a bucket, empty where it serves; left out: not told."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks of the whole, beside the classes' targets."""

    budget_usd_per_hr: float | None = None
    max_spot_share: float = 1.0
    """Most of any class's requests that spot machines may serve."""
    min_on_demand_replicas: int = 0
    """Of each model."""
    min_replicas: int = 0
    """Of each model: one may fail."""
    headroom: float = 1.1
    """Demand is planned for times this."""
    route_by_length: bool = False
    """Each bucket of a class may be routed on its own. False: a class's buckets share one row of shares, which is what a
    proxy that knows classes only can do, so that what is planned is what is applied."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What may be rented, what must be carried, and under which wishes."""

    offers: tuple[Offer, ...]
    options: tuple[Option, ...]
    demand: Demand
    wishes: Wishes = field(default_factory=Wishes)
    stock: tuple[StockLimit, ...] = ()
    """GPUs that can be had at most, each over all the offers that it covers together, beside the offers' own stock."""
    notes: tuple[str, ...] = ()
    """What people should know of how the problem came about, a line each: prices left out, classes nobody can serve."""


BoundKind = Literal[
    "stock",
    "shared stock",
    "budget",
    "spot share",
    "on-demand floor",
    "replica floor",
    "most replicas",
    "least replicas",
]
"""Stock is an offer's own; shared stock is an entry of `Problem.stock`, over several offers."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of the problem, and how much of it a composition uses."""

    kind: BoundKind
    subject: str
    """The offer, stock, class, model or option; empty for the budget."""
    used: float
    limit: float
    unit: str
    index: int
    """Of the offer, the entry of `Problem.stock`, the class or the option; -1 for what is of the whole or of a model."""
    tight: bool
    """No room for one more unit, replica, or share of the class; what follows from more is for `sensitivity` to say."""


@dataclass(frozen=True, eq=False)
class Composition:
    """An answer."""

    replicas: FloatArray
    """`[O]` whole."""
    units: FloatArray
    """`[F]` whole units rented of each offer."""
    share: FloatArray
    """`[B, O]` share of a bucket that an option serves; rows sum to 1 where all is carried."""
    usd_per_hr: float
    bound: float
    """No plan's bill, starts counted as `Option.start_usd` says, is lower than this; for goodput, none serves more."""
    solve_s: float
    objective: Literal["cost", "goodput"] = "cost"
    gap: float = 0.0
    """Share by which the best plan there may be could beat this one: of the bill weighed, or of the value served."""
    served_per_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    """`[B]` requests/s carried within their targets, head-room left out: at most the demand."""
    proven: bool = True
    """False: time ran out before the wanted gap was reached."""
    bounds: tuple[Bound, ...] = ()

    @property
    def binding(self) -> tuple[Bound, ...]:
        """The limits that leave no room."""
        return tuple(bound for bound in self.bounds if bound.tight)


class Infeasible(ValueError):
    """No composition keeps to all limits of a problem."""

    def __init__(self, problem: Problem) -> None:
        """`infeasible.conflict_of(problem)` says why, in some seconds."""
        super().__init__("no composition carries the demand within all limits")
        self.problem = problem
