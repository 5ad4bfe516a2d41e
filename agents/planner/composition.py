"""Which machines to rent, how many replicas of which layout to run on them, and who is served where: the problem and
its answer.

Symbols: `B` buckets of demand, `O` options, `F` offers, `C` classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...env.contract import FloatArray
from ...env.market.offers import Offer, StockLimit
from .demand import Demand
from .layouts import Layout

__all__ = ["Composition", "Option", "Problem", "Wishes"]


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
    """What one more replica than are running costs to start."""
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
    """No plan can be cheaper (or, for goodput, serve more) than this."""
    solve_s: float
