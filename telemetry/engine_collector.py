"""Scrape the metrics pages of all replicas at once; one slow or broken replica delays and hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from .engine_page import EnginePage, PageError, parse_engine_page
from .readings import EngineUse, ReplicaReading, use_between

MAX_PAGE_BYTES: Final = 8 * 2**20
"""A larger page is refused; vLLM's is about 100 kB."""


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


class EngineCollector:
    """Reads every replica's page, and remembers the last good one of each to take differences from.

    The session is the caller's, and stays open. `clock` gives the decider's seconds: in an emulation that runs
    `speed_up` times faster than the wall it must run faster too, so that rates and ages come out in emulated time. The
    timeout is in seconds of the wall.
    """

    def __init__(self, session: aiohttp.ClientSession, clock: Callable[[], float], timeout_s: float = 1.0) -> None:
        """Nothing is asked before `collect`."""
        self._session = session
        self._clock = clock
        self._timeout_s = timeout_s
        self._known: dict[str, _Known] = {}

    async def collect(self, replicas: Sequence[ReplicaEndpoint]) -> tuple[ReplicaReading, ...]:
        """A reading of each replica, in the given order; replicas that are not named any more are forgotten."""
        now_s = self._clock()
        self._known = {r.name: self._known.get(r.name, _Known(now_s)) for r in replicas}
        return tuple(await asyncio.gather(*(self._read(replica) for replica in replicas)))

    async def _read(self, replica: ReplicaEndpoint) -> ReplicaReading:
        known = self._known[replica.name]
        try:
            async with asyncio.timeout(self._timeout_s):
                text = await self._fetch(replica.metrics_url)
            page = parse_engine_page(text, replica.metrics_url)
        except TimeoutError:
            return self._missed(replica, known, f"{replica.metrics_url}: no page within {self._timeout_s:g} s")
        except PageError as error:
            return self._missed(replica, known, str(error))
        except (aiohttp.ClientError, OSError) as error:
            return self._missed(replica, known, f"{replica.metrics_url}: {type(error).__name__}: {error}")
        at_s = self._clock()
        self._known[replica.name] = _Known(known.first_asked_s, page, at_s)
        return ReplicaReading(replica.pool, replica.name, replica.draining, page, 0.0, _use(known, page, at_s))

    async def _fetch(self, url: str) -> str:
        async with self._session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise PageError(f"{url}: HTTP status {response.status}, wanted 200 and a metrics page")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_PAGE_BYTES:
                    raise PageError(f"{url}: more than {MAX_PAGE_BYTES} bytes, wanted a metrics page below that")
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PageError(f"{url}: not UTF-8 text ({error.reason} at byte {error.start})") from None

    def _missed(self, replica: ReplicaEndpoint, known: _Known, error: str) -> ReplicaReading:
        since_s = known.first_asked_s if known.page is None else known.page_at_s
        age_s = self._clock() - since_s
        return ReplicaReading(replica.pool, replica.name, replica.draining, known.page, age_s, None, error)


def _use(known: _Known, page: EnginePage, at_s: float) -> EngineUse | None:
    if known.page is None or at_s <= known.page_at_s:
        return None
    return use_between(known.page, page, at_s - known.page_at_s)
