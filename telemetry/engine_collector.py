"""Read the metrics pages of all replicas at every tick; one slow or broken replica delays and hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import aiohttp

from .engine_page import EnginePage, PageError, parse_engine_page
from .fetching import page_or_why
from .readings import EngineUse, ReplicaReading, use_between

AT_ONCE: Final = 64
"""Pages asked for at a time. A thousand at once would all wait for each other on one core, and all be late."""
LATE_AT_ONCE: Final = 16
"""Of these, for replicas that did not answer in time at their last tick: they cannot take the places of the others."""


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """Where one replica's metrics page is."""

    pool: str
    name: str
    """Unique in the cluster."""
    metrics_url: str
    draining: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What the collector remembers of a replica."""

    first_asked_s: float
    page: EnginePage | None = None
    page_at_s: float = 0.0
    late: bool = False
    """It did not answer in time when it was last asked."""


class EngineCollector:
    """Reads every replica's page, and remembers the last good one of each to take differences from.

    The session is the caller's, and stays open. `clock` gives the decider's seconds: in an emulation that runs
    `speed_up` times faster than the wall it must run faster too, so that rates and ages come out in emulated time.
    Patience is in seconds of the wall: `timeout_s` for one page, counted from when it is asked for, and `budget_s` for
    all of them, after which the rest is missing at this tick.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        timeout_s: float = 1.0,
        budget_s: float = 2.5,
    ) -> None:
        """Nothing is asked before `collect`."""
        self._session = session
        self._clock = clock
        self._timeout_s, self._budget_s = timeout_s, max(budget_s, timeout_s)
        self._known: dict[str, _Known] = {}
        self._asked: set[str] = set()

    async def collect(self, replicas: Sequence[ReplicaEndpoint]) -> tuple[ReplicaReading, ...]:
        """A reading of each replica, in the given order; replicas that are not named any more are forgotten."""
        now_s = self._clock()
        self._known = {r.name: self._known.get(r.name, _Known(now_s)) for r in replicas}
        self._asked = set()
        prompt, late = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(LATE_AT_ONCE)
        tasks = [
            asyncio.create_task(self._read(replica, late if self._known[replica.name].late else prompt))
            for replica in replicas
        ]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=self._budget_s)
        finally:
            for task in tasks:
                task.cancel()  # nothing is left behind, whether time ran out or the caller was stopped
        return tuple(
            task.result() if task.done() and not task.cancelled() else self._out_of_time(replica)
            for replica, task in zip(replicas, tasks, strict=True)
        )

    async def _read(self, replica: ReplicaEndpoint, turn: asyncio.Semaphore) -> ReplicaReading:
        async with turn:
            self._asked.add(replica.name)
            known = self._known[replica.name]
            try:
                async with asyncio.timeout(self._timeout_s):
                    text = await page_or_why(self._session, replica.metrics_url)
                page = parse_engine_page(text, replica.metrics_url)
            except TimeoutError:
                return self._late(replica, f"no page within {self._timeout_s:g} s")
            except PageError as error:
                return self._missed(replica, str(error))
        at_s = self._clock()
        self._known[replica.name] = _Known(known.first_asked_s, page, at_s)
        return ReplicaReading(replica.pool, replica.name, replica.draining, page, 0.0, _use(known, page, at_s))

    def _out_of_time(self, replica: ReplicaEndpoint) -> ReplicaReading:
        if replica.name in self._asked:
            return self._late(replica, f"no page when the {self._budget_s:g} s for all replicas were over")
        return self._missed(replica, f"{replica.metrics_url}: its turn did not come within {self._budget_s:g} s")

    def _late(self, replica: ReplicaEndpoint, why: str) -> ReplicaReading:
        self._known[replica.name] = replace(self._known[replica.name], late=True)
        return self._missed(replica, f"{replica.metrics_url}: {why}")

    def _missed(self, replica: ReplicaEndpoint, error: str) -> ReplicaReading:
        known = self._known[replica.name]
        since_s = known.first_asked_s if known.page is None else known.page_at_s
        age_s = self._clock() - since_s
        return ReplicaReading(replica.pool, replica.name, replica.draining, known.page, age_s, None, error)


def _use(known: _Known, page: EnginePage, at_s: float) -> EngineUse | None:
    if known.page is None or at_s <= known.page_at_s:
        return None
    return use_between(known.page, page, at_s - known.page_at_s)
