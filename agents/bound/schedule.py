"""The clairvoyant plan: whole replicas, step by step, for a load that is known ahead, cold starts paid for.

Beside the bound, which nobody can reach, it is a mark that somebody could: its schedule is replayed in the simulator like
any policy (`agents.opponents.scheduled`), queueing, luck and guard included. It minimises rent and the rent of cold starts
over whole counts `n` and routed load `x`, subject to: every class's load of a step routed, or short; per pool and step, the
sum over classes of load / capacity at most `n`; counts between the pool's least and most; fewer only as fast as the guard
lets them go.

Symbols: `C` classes, `P` pools, `S` steps of time, `K` ticks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...env.contract import FloatArray, IntArray
from ..planner.solving.highs import Mip, Tuning, solve

_SHORT_FACTOR = 30.0
"""Load that fits nowhere costs so many times what it would in the dearest pool."""
_TUNING = Tuning(gap=0.03, time_limit_s=3600.0, most_nodes=60)
"""What it takes to come closer is better spent on another head-room. No search that ends ever takes so long: a limit on
time would make the plan depend on what else the machine does."""


@dataclass(frozen=True, eq=False)
class Ahead:
    """What the plan is made for."""

    step_s: float
    load_per_s: FloatArray
    """`[S, C]` requests per second, head-room included."""
    capacity_per_s: FloatArray
    """`[C, P]` that one replica truly serves within the targets, if it serves nothing else; 0 where it cannot."""
    usd_per_hr: FloatArray
    """`[S, P]` of a replica."""
    least: FloatArray
    """`[P]` replicas."""
    most: FloatArray
    """`[S, P]` replicas that can be had."""
    start: FloatArray
    """`[P]` replicas that serve when the first step begins."""
    cold_start_s: FloatArray
    """`[P]` from asking to serving."""
    drops: IntArray
    """`[2]` a pool loses at most so many replicas in so many steps."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Counts and shares, known ahead."""

    replicas: FloatArray
    """`[S, P]` that serve, whole."""
    route: FloatArray
    """`[S, C, P]` rows sum to 1 where a class has load that is served."""


def cheapest_schedule(ahead: Ahead) -> Schedule:
    """The schedule with the least rent under which every step's load fits, within 3 % of the best or nearly so.

    Raises:
        RuntimeError: none was found.
    """
    (steps, n_classes), n_pools = ahead.load_per_s.shape, len(ahead.least)
    cls, pool = np.nonzero(ahead.capacity_per_s > 0.0)
    width, pairs = steps * n_pools, len(cls)
    hours = ahead.step_s / 3600.0
    # Columns: counts [S * P], starts [S * P], load by pair [S * pairs], short [S * C].
    at_start, at_load, at_short = width, 2 * width, 2 * width + steps * pairs
    total = at_short + steps * n_classes
    work = 1.0 / ahead.capacity_per_s[cls, pool]
    dearest = (ahead.usd_per_hr.max() * work).max(initial=1.0)
    step = np.arange(steps)
    count_of = (step[:, None] * n_pools + np.arange(n_pools)).ravel()
    load_of = (at_load + step[:, None] * pairs + np.arange(pairs)).ravel()
    # Rows: load fits [S * P]; every class routed [S * C]; starts [S * P]; drops [S * P].
    at_class = width
    at_begin = at_class + steps * n_classes
    at_drop = at_begin + width
    before = np.arange(n_pools, width)
    span = int(ahead.drops[1])
    since = np.arange(span * n_pools, width)
    entries = [
        (count_of, count_of, -np.ones(width)),
        ((step[:, None] * n_pools + pool).ravel(), load_of, np.tile(work, steps)),
        ((at_class + step[:, None] * n_classes + cls).ravel(), load_of, np.ones(steps * pairs)),
        (at_class + np.arange(steps * n_classes), at_short + np.arange(steps * n_classes), np.ones(steps * n_classes)),
        (at_begin + count_of, at_start + count_of, np.ones(width)),
        (at_begin + count_of, count_of, -np.ones(width)),
        (at_begin + before, before - n_pools, np.ones(len(before))),
        (at_drop + count_of, count_of, np.ones(width)),
        (at_drop + since, since - span * n_pools, -np.ones(len(since))),
    ]
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    first = np.zeros((steps, n_pools))
    first[0] = -ahead.start
    served = np.isin(np.arange(n_classes), cls)
    load = np.where(served, ahead.load_per_s, 0.0)
    least = np.minimum(np.broadcast_to(ahead.least, ahead.most.shape), ahead.most)
    high = np.full(total, np.inf)
    high[:width] = ahead.most.ravel()
    low = np.zeros(total)
    low[:width] = least.ravel()
    start_usd = ahead.usd_per_hr * ahead.cold_start_s / 3600.0
    answer = solve(
        Mip(
            cost=np.concatenate(
                [
                    (ahead.usd_per_hr * hours).ravel(),
                    start_usd.ravel(),
                    np.zeros(steps * pairs),
                    np.full(steps * n_classes, _SHORT_FACTOR * dearest * hours),
                ]
            ),
            lower=low,
            upper=high,
            row=row,
            column=column,
            value=value,
            row_lower=np.concatenate(
                [np.full(width, -np.inf), load.ravel(), first.ravel(), _least_change(ahead).ravel()]
            ),
            row_upper=np.concatenate([np.zeros(width), load.ravel(), np.full(2 * width, np.inf)]),
            whole=np.arange(total) < width,
        ),
        _TUNING,
    )
    if answer.x is None:
        raise RuntimeError(f"no schedule found: {answer.status}")
    counts = np.rint(answer.x[:width]).reshape(steps, n_pools)
    route = np.zeros((steps, n_classes, n_pools))
    route[:, cls, pool] = answer.x[at_load:at_short].reshape(steps, pairs)
    sums = route.sum(axis=-1, keepdims=True)
    return Schedule(counts, np.divide(route, sums, out=np.zeros_like(route), where=sums > 1e-9))


def _least_change(ahead: Ahead) -> FloatArray:
    """`[S, P]` least difference of each count to that some steps before (of the first ones: least count), as far as the
    guard lets a pool shrink. Where machines are taken away, it shrinks as it must."""
    lost, span = float(ahead.drops[0]), int(ahead.drops[1])
    change = np.full(ahead.most.shape, -lost)
    change[:span] = np.minimum(ahead.start - lost, ahead.most[:span])
    fewer = ahead.most[span:] < ahead.most[: len(ahead.most) - span]
    change[span:][fewer] = -np.inf
    return change


def asked_ahead(replicas: FloatArray, ahead_ticks: IntArray) -> FloatArray:
    """`[K, P]` counts to ask for, so that `replicas` `[K, P]` serve: each pool's starts so many ticks `[P]` before.

    What is needed again within that time is kept.
    """
    asked = replicas.copy()
    for p, ticks in enumerate(ahead_ticks.tolist()):
        for later in range(1, min(ticks, len(replicas) - 1) + 1):
            asked[:-later, p] = np.maximum(asked[:-later, p], replicas[later:, p])
    return asked
