"""What a replica of each pool costs now, and how old that price is: from the scenario, or from files that somebody keeps
up to date (our own format or a SkyPilot catalogue, `env.market`).

A file that changed is read again off the tick's path. One that is gone, broken, or older than the pool's `max_age_s` is a
trouble that names it; the last price is kept.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import Final

import numpy as np

from ..env.catalog.gpus import gpu
from ..env.contract import FloatArray
from ..env.market.load import prices as series_of
from ..env.market.offers import Offer
from ..env.market.price_list import read_price_list
from ..env.market.series import SeriesError, StepSeries
from ..env.scenario import Scenario
from ..env.scenario.pools import Pool
from ..env.scenario.sources import PriceFeed

_DAY: Final = timedelta(days=1)
_FROM_WHOLE_WORLD: Final = timezone(timedelta(hours=-12))
"""Where a day ends last: a price of a day may have been told until then."""


@dataclass(frozen=True, slots=True)
class Quote:
    """One replica's price, and since when it is known."""

    usd_per_hr: float
    told_at_s: float
    """Unix seconds; NaN for a price that the scenario states."""


@dataclass(frozen=True)
class Prices:
    """Of all pools at a tick."""

    usd_per_hr: FloatArray
    """`[P]` of one replica."""
    age_s: FloatArray
    """`[P]` seconds of the wall since a feed told it; NaN where the scenario states the price."""
    troubles: tuple[str, ...] = ()
    """Feeds that cannot be read, or are old, in words."""


@dataclass
class _Feed:
    """One pool's file as last read."""

    pool: str
    path: Path
    quote: Quote
    stamp: tuple[int, int] | None = None
    """Of the file that `quote` or `error` comes from."""
    error: str = ""
    reading: asyncio.Task[Quote] | None = field(default=None, repr=False)


class PriceBook:
    """The prices of a scenario's pools, followed."""

    def __init__(self, scenario: Scenario, wall_s: Callable[[], float]) -> None:
        """`wall_s` gives Unix seconds. No feed is read before `now`.

        Raises:
            SeriesError: a price series of the scenario cannot be used.
        """
        self._scenario, self._wall_s = scenario, wall_s
        self._series: dict[str, StepSeries] = {}
        self._feeds: dict[str, _Feed] = {}
        for name, pool in scenario.pools.items():
            if pool.price.feed is not None:
                stated = Quote(pool.price.usd_per_hr, math.nan)
                self._feeds[name] = _Feed(name, scenario.base_dir / pool.price.feed.path, stated)
            else:
                self._series[name] = series_of(name, pool.price, scenario.duration_s, scenario.base_dir)

    async def now(self, time_s: float, patience_s: float = 0.0) -> Prices:
        """The prices at `time_s` of the decider's clock.

        Args:
            time_s: where in a scenario's own series the price is looked up.
            patience_s: how long a file that changed is waited for; a longer reading counts at a later tick.
        """
        for feed in self._feeds.values():
            self._follow(feed)
        reading = [feed.reading for feed in self._feeds.values() if feed.reading is not None]
        if reading and patience_s > 0:
            await asyncio.wait(reading, timeout=patience_s)
        for feed in self._feeds.values():
            self._take(feed)
        names = self._scenario.pool_names
        quotes = [self._quote(name, time_s) for name in names]
        age_s = np.maximum(self._wall_s() - np.array([quote.told_at_s for quote in quotes]), 0.0)
        troubles = [trouble for name, age in zip(names, age_s, strict=True) if (trouble := self._trouble(name, age))]
        return Prices(np.array([quote.usd_per_hr for quote in quotes]), age_s, tuple(troubles))

    def _follow(self, feed: _Feed) -> None:
        """Begin to read the file if it is another than last time."""
        try:
            status = feed.path.stat()
        except OSError as error:
            feed.stamp, feed.error = None, f"{feed.path}: {error.strerror}; wanted a file of prices"
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if feed.reading is None and stamp != feed.stamp:
            feed.stamp = stamp
            pool = self._scenario.pools[feed.pool]
            feed.reading = asyncio.create_task(asyncio.to_thread(quote_of, feed.path, pool, status.st_mtime))

    def _take(self, feed: _Feed) -> None:
        if feed.reading is None or not feed.reading.done():
            return
        reading, feed.reading = feed.reading, None
        try:
            feed.quote, feed.error = reading.result(), ""
        except (SeriesError, OSError) as error:
            feed.error = str(error)

    def _quote(self, name: str, time_s: float) -> Quote:
        if name in self._feeds:
            return self._feeds[name].quote
        series = self._series[name]
        at = int(np.searchsorted(series.from_s, time_s, side="right")) - 1
        return Quote(float(series.values[max(at, 0)]), math.nan)

    def _trouble(self, name: str, age_s: float) -> str:
        feed, wanted = self._feeds.get(name), self._scenario.pools[name].price.feed
        if feed is None or wanted is None:
            return ""
        kept = f"{feed.quote.usd_per_hr:g} $/h kept"
        if feed.error:
            return f"price of {name}: {feed.error}; {kept}"
        if age_s > wanted.max_age_s:
            return f"price of {name}: {feed.path}: {age_s:.0f} s old, wanted {wanted.max_age_s:g} s at most; {kept}"
        return ""


def quote_of(path: Path, pool: Pool, written_at_s: float) -> Quote:
    """What one replica costs by the file's cheapest fitting offers, each GPU type for itself.

    A price is as old as the file, or as the end of the day that its row names where that is older.

    Args:
        path: of the file.
        pool: whose `price.feed` says which offers fit.
        written_at_s: when the file was written, Unix seconds.

    Raises:
        SeriesError: the file cannot be used, or has no fitting offer.
    """
    feed = pool.price.feed
    if feed is None:
        raise ValueError("pool without a price feed")
    offers = read_price_list(path, feed.provider, feed.as_of).offers
    needed = _gpus(pool)
    parts = [_cheapest(offers, name, feed, pool.price.kind, path) for name in needed]
    usd = math.fsum(count * offer.usd_per_gpu_hr for offer, count in zip(parts, needed.values(), strict=True))
    return Quote(usd, min(_told_at_s(offer, written_at_s) for offer in parts))


def _gpus(pool: Pool) -> Mapping[str, int]:
    """How many GPUs of which type a replica has."""
    if pool.stages is None:
        return {gpu(pool.gpu).name: pool.gpus}
    counts: dict[str, int] = {}
    for stage in pool.stages:
        name = gpu(stage.gpu).name
        counts[name] = counts.get(name, 0) + stage.tensor_parallel
    return counts


def _cheapest(offers: tuple[Offer, ...], wanted: str, feed: PriceFeed, kind: str, path: Path) -> Offer:
    fit = [
        offer
        for offer in offers
        if offer.gpu == wanted
        and offer.kind == kind
        and feed.provider in (None, offer.provider)
        and feed.region in (None, offer.region)
        and feed.instance in (None, offer.instance)
    ]
    if not fit:
        where = ", ".join(f"{n} {v}" for n in ("provider", "region", "instance") if (v := getattr(feed, n)) is not None)
        limits = f" with {where}" if where else ""
        raise SeriesError(f"{path}: no {kind} offer of {wanted}{limits} among {len(offers)} offers")
    return min(fit, key=lambda offer: offer.usd_per_gpu_hr)


def _told_at_s(offer: Offer, written_at_s: float) -> float:
    if offer.as_of is None:
        return written_at_s
    ends = datetime.combine(offer.as_of + _DAY, time(), _FROM_WHOLE_WORLD)
    return min(written_at_s, ends.timestamp())
