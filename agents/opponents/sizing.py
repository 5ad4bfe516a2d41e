"""What planner-based rules share: the load to be ready for, the cheapest fleet that carries it, and who serves what.

The program is the planner's (`agents.planner.solving`), posed anew at a tick with the rule's own head-room and doubts.
Plain arrays in and out. Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from ...env.contract import BoolArray, Cluster, Column, FloatArray, Plan, Snapshot
from ..planner.solving.program import START_HORIZON_S
from ..planner.solving.together import quick_plan, rows_of

QUEUE_AVERSION: Final = 4.0
"""A queue of a quarter of a replica's batch halves the weight of its pool."""
DEALING_ROUNDS: Final = 8
"""How often shares are moved from fuller pools to emptier ones."""
ADVANTAGE: Final = 3
"""How strongly a class keeps to the pools that are better for it than for others."""
DEALING_SLACK: Final = 0.03
"""Dealing ends about so far from the best that could be dealt; the program's own answer must not be found too small."""
LEAST_USE: Final = 1e-3
"""A pool emptier than this attracts no more work than one that is as empty."""
FEWEST: Final = 0.25
"""A load smaller than this many replicas is no more bursty than one of that size."""
WORTH_A_CHANGE: Final = 0.02
"""Share of the rent that another mix must save at least."""
OUT_OF_STOCK: Final = 0.5
"""Replicas asked for beyond those up or starting: the provider has not answered, or has taken one away."""


def over(above: FloatArray, below: FloatArray) -> FloatArray:
    """`above / below`, 0 where `below` is not positive."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def within(snapshot: Snapshot, name: str, instead: FloatArray | float) -> FloatArray:
    """A column, `instead` where it is unknown, cut to what can be."""
    column: Column = vars(Snapshot)[name]
    values: FloatArray = getattr(snapshot, name)
    return np.where(np.isnan(values), instead, np.clip(values, 0.0, column.high))


def capacity_of(plan: Plan, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` requests/s of one replica within target, 0 where the pool does not serve the class."""
    return np.where(cluster.serves, np.clip(np.nan_to_num(plan.capacity_per_s), 0.0, None), 0.0)


def load_now(snapshot: Snapshot, plan: Plan) -> FloatArray:
    """`[..., C]` requests/s that arrive now: seen over the window or expected of the next minute; else as planned."""
    return _known_rate(np.fmax(snapshot.arrival_rate_per_s, snapshot.forecast_per_s[..., 0]), plan)


def load_ahead(snapshot: Snapshot, plan: Plan, cluster: Cluster, steps: int) -> FloatArray:
    """`[..., C]` the most that is seen or forecast within `steps` steps; deferrable work at its mean rate.

    Work that may wait is carried at its mean: its peaks are what waiting is for.
    """
    seen = np.fmax(snapshot.arrival_rate_per_s, np.fmax.reduce(snapshot.forecast_per_s[..., :steps], axis=-1))
    patient = np.fmin(seen, snapshot.forecast_per_s[..., -1])
    return _known_rate(np.where(cluster.targets.deferrable, patient, seen), plan)


def _known_rate(rate_per_s: FloatArray, plan: Plan) -> FloatArray:
    return np.where(np.isnan(rate_per_s), plan.load_per_s, np.clip(rate_per_s, 0.0, Snapshot.arrival_rate_per_s.high))


def burst_factor(load_per_s: FloatArray, capacity: FloatArray, headroom: float, burst: float) -> FloatArray:
    """`[..., C]` head-room: `headroom`, plus `burst` over the square root of the load in replicas.

    The fewer replicas share a load the less its bursts even out; classes that meet in a pool share it.
    """
    usable = capacity > 0
    together = (usable[..., :, None, :] & usable[..., None, :, :]).any(axis=-1)
    size = over(load_per_s, capacity.max(axis=-1))
    shared = np.where(together, size[..., None, :], 0.0).sum(axis=-1)
    factor: FloatArray = headroom + burst / np.sqrt(np.maximum(shared, FEWEST))
    return factor


def backlog(snapshot: Snapshot, route: FloatArray, load_per_s: FloatArray, cluster: Cluster) -> FloatArray:
    """`[..., C]` requests that wait in the pools' queues, by class as far as the routing tells; deferrable ones may."""
    rate = load_per_s[..., None] * route
    share = over(rate, rate.sum(axis=-2, keepdims=True))
    waiting = (within(snapshot, "waiting", 0.0)[..., None, :] * share).sum(axis=-1)
    return np.where(cluster.targets.deferrable, 0.0, waiting)


def dealt(
    load_per_s: FloatArray, capacity: FloatArray, replicas: FloatArray, weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Shares `[..., C, P]` that load all replicas about alike, and how full that makes each pool `[..., P]`.

    A class that no replica serves has shares of 0. `weight` `[..., P]` below 1 makes a pool's replicas count less.
    """
    counted = replicas if weight is None else replicas * weight
    shares = capacity * _advantage(load_per_s, capacity) ** ADVANTAGE * counted[..., None, :]
    shares = over(shares, shares.sum(axis=-1, keepdims=True))
    for _ in range(DEALING_ROUNDS):
        full = over(over(load_per_s[..., None] * shares, capacity).sum(axis=-2), counted)
        shares = shares / np.sqrt(np.maximum(full, LEAST_USE))[..., None, :]
        shares = over(shares, shares.sum(axis=-1, keepdims=True))
    return shares, over(over(load_per_s[..., None] * shares, capacity).sum(axis=-2), counted)


def _advantage(load_per_s: FloatArray, capacity: FloatArray) -> FloatArray:
    """`[..., C, P]` how much better a pool is for a class than for the others, each beside its own best pool."""
    beside = over(capacity, capacity.max(axis=-1, keepdims=True))
    meant = ((load_per_s > 0)[..., None] & (capacity > 0)).astype(np.float64)
    usual = over((beside * meant).sum(axis=-2), meant.sum(axis=-2))
    return over(beside, usual[..., None, :])


def carries(load_per_s: FloatArray, capacity: FloatArray, replicas: FloatArray, most: float = 1.0) -> BoolArray:
    """`[...]` whether replicas carry a load without any being fuller than `most`; what nobody could serve is let be."""
    _, full = dealt(load_per_s, capacity, replicas)
    reached = ((capacity * replicas[..., None, :]).sum(axis=-1) > 0) | (load_per_s <= 0) | (capacity <= 0).all(axis=-1)
    return np.asarray((full <= most + DEALING_SLACK).all(axis=-1) & reached.all(axis=-1))


def in_hand(snapshot: Snapshot, plan: Plan, cluster: Cluster) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`[..., P]` replicas ready, those and the starting ones, and those asked for; as planned where unknown."""
    ready = np.minimum(within(snapshot, "ready", plan.replicas), cluster.max_replicas)
    hand = np.minimum(ready + within(snapshot, "starting", 0.0), cluster.max_replicas)
    return ready, hand, np.clip(within(snapshot, "target", plan.replicas), 0.0, cluster.max_replicas)


def unanswered(snapshot: Snapshot) -> BoolArray:
    """`[..., P]` pools with fewer replicas up or starting than were asked for."""
    return np.asarray(snapshot.target > snapshot.ready + snapshot.starting + OUT_OF_STOCK)  # unknown compares as False


def price_now(snapshot: Snapshot, cluster: Cluster) -> FloatArray:
    """`[..., P]` $/h of a replica."""
    return within(snapshot, "usd_per_hr", cluster.usd_per_hr)


def cheapest_fleet(
    load_per_s: FloatArray,
    capacity: FloatArray,
    cluster: Cluster,
    most: FloatArray,
    usd_per_hr: FloatArray,
    hand: FloatArray | None,
    payback_s: float,
) -> tuple[FloatArray, FloatArray]:
    """The planner's counts `[..., P]` and shares `[..., C, P]` for a load with head-room.

    Args:
        most: `[..., P]` counts that may be had.
        hand: `[..., P]` replicas that need no start; without it starts are free.
        payback_s: the rent of a cold start must come back within about this long.
    """
    cluster = replace(
        cluster,
        max_replicas=np.floor(np.maximum(most, cluster.min_replicas)),
        cold_start_s=cluster.cold_start_s * (START_HORIZON_S / max(payback_s, 1.0)),
    )
    plan = quick_plan(cluster, load_per_s, capacity, usd_per_hr, hand)
    return plan.replicas, plan.route


def steady_fleet(
    load_per_s: FloatArray,
    capacity: FloatArray,
    cluster: Cluster,
    most: FloatArray,
    usd_per_hr: FloatArray,
    hand: FloatArray,
    current: FloatArray,
    review: BoolArray,
    payback_s: float,
    deadband: float,
) -> FloatArray:
    """`[..., P]` the present fleet while it carries the load, else the cheapest that does.

    Where it is time for a `review` `[...]` a fleet that is cheaper by more than a hair, its cold starts included, and
    carries `deadband` more than the load takes its place. So a mix is not changed for another that costs the same, and
    a replica is not sent away to be missed a minute later.
    """
    fits = carries(load_per_s, capacity, current) & (current <= most + 1.0).all(axis=-1)
    asked = np.asarray(review | ~fits)
    if not asked.any():
        return current
    wanted = load_per_s * np.where(fits, 1.0 + deadband, 1.0)[..., None]
    best = np.array(current)
    if asked.ndim:  # only the clusters whose turn it is: solving is most of the rule's time
        rows = np.flatnonzero(asked)
        best[rows], _ = cheapest_fleet(
            wanted[rows],
            capacity[rows],
            rows_of(cluster, rows),
            most[rows],
            usd_per_hr[rows],
            hand[rows],
            payback_s,
        )
    else:
        best, _ = cheapest_fleet(wanted, capacity, cluster, most, usd_per_hr, hand, payback_s)
    start = usd_per_hr * cluster.cold_start_s / max(payback_s, 1.0)

    def rent(counts: FloatArray) -> FloatArray:
        total: FloatArray = (usd_per_hr * counts + start * np.maximum(counts - hand, 0.0)).sum(axis=-1)
        return total

    better = rent(best) < rent(current) * (1.0 - WORTH_A_CHANGE)
    return np.where((asked & (better | ~fits))[..., None], best, current)


def made_before_broken(
    wanted: FloatArray,
    load_per_s: FloatArray,
    capacity: FloatArray,
    ready: FloatArray,
    hand: FloatArray,
    most_full: float,
) -> FloatArray:
    """`[..., P]` what is wanted, but no replica goes before those that stay and are ready carry the load."""
    enough = carries(load_per_s, capacity, np.minimum(ready, wanted), most_full)
    return np.where(enough[..., None], wanted, np.maximum(wanted, hand))


def routed(
    load_per_s: FloatArray, capacity: FloatArray, ready: FloatArray, snapshot: Snapshot, plan: Plan, cluster: Cluster
) -> FloatArray:
    """`[..., C, P]` shares over the ready replicas, all about equally full, less where there is a queue.

    A class that no ready replica serves is routed as planned.
    """
    queue = over(within(snapshot, "waiting", 0.0), ready * cluster.max_batch_cap)
    shares, _ = dealt(np.maximum(load_per_s, LEAST_USE), capacity, ready, 1.0 / (1.0 + QUEUE_AVERSION * queue))
    anyone = np.where(cluster.serves, ready[..., None, :], 0.0)
    for instead in (anyone, np.where(cluster.serves, plan.route, 0.0), cluster.serves.astype(np.float64)):
        none = shares.sum(axis=-1, keepdims=True) <= 0
        shares = np.where(none, over(instead, instead.sum(axis=-1, keepdims=True)), shares)
    return shares
