"""The ticks that pages are made of: those of the last hour or so, in memory, cut by what a reader filters for."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...env.contract import BoolArray, Cluster
from .ticks import RawTick, SeenTick, UnreadableTick, seen_tick

MOST_TICKS: Final = 20_000
"""In memory: 100 MB or so."""
MOST_DRAWN: Final = 1500
"""An hour of ticks of 5 s, twice."""


class History:
    """Ticks in their order; a new one makes those fall out that are older than the span."""

    def __init__(self, span_s: float) -> None:
        """`span_s` of the wall's seconds are kept, up to the newest tick."""
        self.span_s = span_s
        self.ticks: list[SeenTick] = []
        self.skipped = ""
        """Why the newest tick that could not be shown was not; empty where all could."""

    def add(self, raws: Iterable[RawTick]) -> int:
        """Take in ticks that follow; how many of them can be shown."""
        before = len(self.ticks)
        for raw in raws:
            try:
                tick = seen_tick(raw, self.ticks[-1] if self.ticks else None)
            except UnreadableTick as error:
                self.skipped = str(error)
                continue
            if self.ticks and _again(tick, self.ticks[-1]):
                continue
            self.skipped = ""
            self.ticks.append(tick)
        added = len(self.ticks) - before
        self._forget()
        return added

    @property
    def newest(self) -> SeenTick | None:
        """The last one."""
        return self.ticks[-1] if self.ticks else None

    def last(self, span_s: float) -> list[SeenTick]:
        """Those of the newest `span_s` seconds of the newest cluster: earlier ones had other pools or classes."""
        if not self.ticks:
            return []
        newest = self.ticks[-1]
        first = bisect.bisect_left(self.ticks, newest.wall_s - span_s, key=lambda tick: tick.wall_s)
        found = self.ticks[first:]
        names = _names(newest.cluster)
        for i in range(len(found) - 1, -1, -1):
            if _names(found[i].cluster) != names:
                return found[i + 1 :]
        return found

    def find(self, tick_id: str) -> tuple[SeenTick | None, SeenTick | None]:
        """A tick by its id, and the one before it; the newest if no id is given. None where there is none."""
        for i in range(len(self.ticks) - 1, -1, -1):
            if not tick_id or self.ticks[i].id == tick_id:
                return self.ticks[i], self.ticks[i - 1] if i else None
        return None, None

    def _forget(self) -> None:
        if not self.ticks:
            return
        since_s = self.ticks[-1].wall_s - self.span_s
        first = bisect.bisect_left(self.ticks, since_s, key=lambda tick: tick.wall_s)
        first = max(first, len(self.ticks) - MOST_TICKS)
        if first:
            del self.ticks[:first]


def thinned(ticks: Sequence[SeenTick]) -> list[SeenTick]:
    """No more than a figure can show: every second, third, ... tick by its number, and the newest.

    By their numbers, so that the same ones stay while others follow.
    """
    stride = math.ceil(len(ticks) / MOST_DRAWN)
    if stride <= 1:
        return list(ticks)
    return [tick for tick in ticks[:-1] if tick.decision.tick % stride == 0] + [ticks[-1]]


def _again(tick: SeenTick, before: SeenTick) -> bool:
    """An append whose answer was lost is stored twice."""
    key = (tick.decision.tick, tick.decision.time_s, tick.decision.fencing_token, tick.wall_s)
    return key == (before.decision.tick, before.decision.time_s, before.decision.fencing_token, before.wall_s)


def _names(cluster: Cluster) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return cluster.class_names, cluster.pool_names


@dataclass(frozen=True)
class Filter:
    """What a reader wants to see; nothing named means all."""

    classes: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    span_s: float = 3600.0

    def class_mask(self, cluster: Cluster) -> BoolArray:
        """`[C]`"""
        return _mask(self.classes, cluster.class_names)

    def pool_mask(self, cluster: Cluster) -> BoolArray:
        """`[P]`"""
        return _mask(self.pools, cluster.pool_names)


def _mask(wanted: Sequence[str], names: Sequence[str]) -> BoolArray:
    """Names that are no longer there are no filter."""
    own = np.array([name in wanted for name in names], dtype=np.bool_)
    return own if own.any() else np.ones(len(names), dtype=np.bool_)
