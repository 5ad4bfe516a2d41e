"""How machines come and go, and what they cost, as a record shows it: cold starts, losses, price moves. Pure.

Symbols: `T` ticks, `P` pools.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from ...env.contract import FloatArray
from ...env.scenario import Scenario
from ...telemetry.record import Episode
from .estimates import Estimate, blocks, bootstrap, mean_of, rate_of

FEW_STARTS: Final = 3


@dataclass(frozen=True)
class Starts:
    """Cold starts of one pool that were seen from asking to serving."""

    seconds: FloatArray
    """`[N]` by decision, on the mean over the replicas that it started."""
    replicas: FloatArray
    """`[N]`"""


def starts_of(episodes: Sequence[Episode], p: int) -> Starts:
    """The cold starts of pool `p`: the rent that starting took, by the decision that caused it, over its price.

    A decision counts if all that it asked for was begun, nothing was taken back while it started, none slept that could be
    woken, and the record goes on well beyond.
    """
    seconds, replicas = [], []
    for episode in episodes:
        cluster, snapshot = episode.sitting.cluster, episode.snapshot
        name = cluster.pool_names[p]
        price = snapshot.plausible("usd_per_hr", cluster.usd_per_hr)[:, p]
        took: dict[int, float] = defaultdict(float)
        last: dict[int, int] = {}
        for t, rows in enumerate(episode.scaling):
            for row in rows:
                if row.pool == name and row.part == "cold_start" and row.usd > 0 and math.isfinite(row.usd):
                    took[row.tick] += row.usd / price[t] * 3600.0
                    last[row.tick] = t
        row_of = {int(tick): t for t, tick in enumerate(episode.tick)}
        wanted = episode.in_force.replicas[:, p]
        ready, starting, asleep = (np.nan_to_num(getattr(snapshot, c)[:, p]) for c in ("ready", "starting", "asleep"))
        for tick, total_s in took.items():
            t = row_of.get(tick, len(episode))
            if t + 1 >= len(episode):
                continue
            asked = float(np.rint(wanted[t] - ready[t] - starting[t]))
            end = last[tick]
            begun = ready[t + 1] + starting[t + 1] >= wanted[t] - 0.5
            kept = bool((wanted[t : end + 1] >= wanted[t] - 0.5).all())
            beyond = end + 2 < len(episode)
            if asked >= 1 and begun and kept and beyond and asleep[t] == 0:
                seconds.append(total_s / asked)
                replicas.append(asked)
    return Starts(np.array(seconds), np.array(replicas))


def cold_starts(episodes: Sequence[Episode], scenario: Scenario) -> dict[str, Estimate | None]:
    """Mean time from asking to serving of each pool; None where no start was seen whole.

    One start says little of a pool's mean: where fewer than `FEW_STARTS` were seen, the ratio to what was believed is drawn
    towards that of all pools, as if `FEW_STARTS` more had been seen of it.
    """
    seen = {name: starts_of(episodes, p) for p, name in enumerate(scenario.pool_names)}
    believed = {name: scenario.cold_start(name).mean_s for name in seen}
    count = sum(float(own.replicas.sum()) for own in seen.values())
    if not count:
        return dict.fromkeys(seen)
    ratio = sum(float((own.seconds * own.replicas).sum()) / believed[name] for name, own in seen.items()) / count
    found: dict[str, Estimate | None] = {}
    for name, own in seen.items():
        if not len(own.seconds):
            found[name] = None
            continue
        estimate = mean_of(own.seconds, own.replicas, scenario.pools[name].cold_start.spread_frac, believed[name])
        n = float(own.replicas.sum())
        if estimate is not None and n < FEW_STARTS < count:
            towards = (n * estimate.value + FEW_STARTS * ratio * believed[name]) / (n + FEW_STARTS) / estimate.value
            ends = {end: getattr(estimate, end) * towards for end in ("value", "low", "high")}
            estimate = replace(estimate, **ends, by=f"{estimate.by}, drawn towards the other pools'")
        found[name] = estimate
    return found


def losses(episode: Episode) -> FloatArray:
    """`[T, P]` replicas that stopped serving since the tick before though nobody asked for fewer."""
    ready, starting = (np.nan_to_num(getattr(episode.snapshot, c)) for c in ("ready", "starting"))
    wanted = np.rint(episode.in_force.replicas)
    lost: FloatArray = np.zeros(ready.shape)
    asked_away = np.maximum(ready[:-1] + starting[:-1] - wanted[:-1], 0.0)
    # A replica that goes by notice drains first: it is missing from `ready` all the same.
    lost[1:] = np.maximum(ready[:-1] - ready[1:] - asked_away, 0.0)
    unknown = ~np.isfinite(episode.snapshot.ready)
    lost[1:][unknown[1:] | unknown[:-1]] = 0.0
    return lost


def start_seconds(episode: Episode) -> tuple[FloatArray, FloatArray]:
    """How long starts took from being asked for to serving, by the row whose action asked for them.

    Replicas are taken to serve in the order in which they were asked for: whichever it truly was, as many serve at any time.
    When within its tick one began to serve is not known: half way.

    Returns:
        `[T, P]` seconds on the mean of a row's starts, NaN where none was seen whole; and how many were.
    """
    ready, starting, asleep = (_known(getattr(episode.snapshot, name)) for name in ("ready", "starting", "asleep"))
    came = np.rint(np.maximum(np.diff(ready, axis=0) + losses(episode)[1:], 0.0))
    change = np.rint(np.diff(starting, axis=0)) + came
    total, count = np.zeros(ready.shape), np.zeros(ready.shape)
    times = episode.time_s
    for p in range(ready.shape[1]):
        under_way = [0] * round(float(starting[0, p]))
        for t in range(len(change)):
            under_way += [t] * max(int(change[t, p]), 0)
            for _ in range(min(int(came[t, p]), len(under_way))):
                asked = under_way.pop(0)
                total[asked, p] += 0.5 * (times[t] + times[t + 1]) - times[asked]
                count[asked, p] += 1.0
            for _ in range(min(max(-int(change[t, p]), 0), len(under_way))):
                under_way.pop()  # given up: the last to come is the first to go
    count[asleep > 0] = 0.0  # one that is woken does not start
    seconds = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return seconds, count


def start_fracs(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Of each episode `[T, P]`: how long the starts took that a row's action asked for, over the mean of their pool in all
    episodes; 1 where none was seen."""
    seen = [start_seconds(episode) for episode in episodes]
    total = sum(np.nansum(seconds * count, axis=0) for seconds, count in seen)
    mean = total / np.maximum(sum(count.sum(axis=0) for _, count in seen), 1.0)
    return [np.where(np.isfinite(own), own / np.where(mean > 0, mean, np.nan), 1.0) for own, _ in seen]


def _known(column: FloatArray) -> FloatArray:
    """`[T, P]` with what was not known at a tick as it was known last; 0 before that."""
    rows = np.where(np.isfinite(column), np.arange(len(column))[:, None], 0)
    last = np.maximum.accumulate(rows, axis=0)
    return np.nan_to_num(np.take_along_axis(column, last, axis=0))


def loss_rate(episodes: Sequence[Episode], p: int, believed_per_hr: float) -> Estimate | None:
    """Replicas lost per replica and hour: machine preemptions of a spot pool, crashes of another one."""
    events, hours = 0.0, 0.0
    for episode in episodes:
        events += float(losses(episode)[:, p].sum())
        ready = np.nan_to_num(episode.snapshot.ready[:-1, p])
        hours += float((ready * np.diff(episode.time_s)).sum()) / 3600.0
    return rate_of(round(events), hours, believed_per_hr)


@dataclass(frozen=True)
class PriceMoves:
    """What a replica of a pool cost over the record."""

    mean_usd_per_hr: Estimate | None
    moves_per_day: Estimate | None
    low_usd_per_hr: float
    high_usd_per_hr: float

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "mean_usd_per_hr": self.mean_usd_per_hr.as_json() if self.mean_usd_per_hr else None,
            "moves_per_day": self.moves_per_day.as_json() if self.moves_per_day else None,
            "low_usd_per_hr": self.low_usd_per_hr,
            "high_usd_per_hr": self.high_usd_per_hr,
        }


def price_moves(episodes: Sequence[Episode], p: int, believed: float, rng: np.random.Generator) -> PriceMoves | None:
    """The prices of pool `p`; None where none was known."""
    prices = [episode.snapshot.usd_per_hr[:, p] for episode in episodes]
    known = np.concatenate([own[np.isfinite(own)] for own in prices])
    if not len(known):
        return None
    # Each stood until the next look.
    stood_s = [np.append(episode.lasted_s[1:], episode.tick_s) for episode in episodes]
    weights = np.concatenate([s[np.isfinite(own)] for s, own in zip(stood_s, prices, strict=True)])
    moves = sum(int((np.diff(own[np.isfinite(own)]) != 0.0).sum()) for own in prices)
    days = sum(episode.duration_s for episode in episodes) / 86_400.0
    mean: Estimate | None
    if np.ptp(known) == 0.0:
        # Nothing moved: there is nothing to be uncertain of.
        mean = Estimate(float(known[0]), float(known[0]), float(known[0]), len(known), "never moved", believed)
    else:
        block = blocks(len(known))
        count = np.bincount(block, weights=weights)
        total = np.bincount(block, weights=known * weights)
        mean = bootstrap(lambda w: (w @ total) / (w @ count), len(count), rng, believed)
    return PriceMoves(mean, rate_of(moves, days), float(known.min()), float(known.max()))
