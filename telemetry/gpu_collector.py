"""The GPUs of every pool at a tick: DCGM exporters over HTTP, NVML on the own host; what one of them lacks hides no other.

A page that several pools share is read once a tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from ..env.scenario.sources import GpuMetrics
from .dcgm_page import LabelledGpu, parse_dcgm_page
from .fetching import page_or_why
from .gpu_readings import GpuReading, PoolGpus
from .metrics_page import PageError
from .nvml import Nvml, NvmlError


class GpuLibrary(Protocol):
    """Whoever reads the own host's GPUs; blocking."""

    def read(self, gpus: tuple[int | str, ...]) -> tuple[GpuReading, ...]:
        """These GPUs, all if none is named; NvmlError if they cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class _Answer:
    """The newest good answer of one source for one pool."""

    gpus: tuple[GpuReading, ...]
    at_s: float


class GpuCollector:
    """Asks every source of every pool at each tick, and remembers the last good answer of each.

    The session is the caller's. `clock` gives the decider's seconds, `timeout_s` is of the wall. An answer older than
    `fresh_s` is none.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        sources: Mapping[str, GpuMetrics],
        fresh_s: float,
        timeout_s: float = 1.0,
        library: GpuLibrary | None = None,
    ) -> None:
        """`sources` by pool; pools without any are left out. NVML is loaded when it is first asked."""
        self._session, self._clock, self._sources = session, clock, dict(sources)
        self._fresh_s, self._timeout_s = fresh_s, timeout_s
        self._library: GpuLibrary = library or Nvml()
        self._known: dict[tuple[str, str], _Answer] = {}
        self._first_asked_s: float | None = None
        self._reading: asyncio.Future[tuple[GpuReading, ...]] | None = None

    async def collect(self) -> Mapping[str, PoolGpus]:
        """The GPUs by pool."""
        now_s = self._clock()
        if self._first_asked_s is None:
            self._first_asked_s = now_s
        urls = {url for source in self._sources.values() for url in source.dcgm}
        pages = dict(zip(urls, await asyncio.gather(*(self._page(url) for url in urls)), strict=True))
        return {pool: await self._pool(pool, source, pages) for pool, source in self._sources.items()}

    async def _page(self, url: str) -> tuple[LabelledGpu, ...] | PageError:
        try:
            async with asyncio.timeout(self._timeout_s):
                return parse_dcgm_page(await page_or_why(self._session, url), url)
        except TimeoutError:
            return PageError(f"{url}: no page within {self._timeout_s:g} s")
        except PageError as error:
            return error

    async def _pool(
        self, pool: str, source: GpuMetrics, pages: Mapping[str, tuple[LabelledGpu, ...] | PageError]
    ) -> PoolGpus:
        errors, names = [], []
        for url in source.dcgm:
            names.append(url)
            try:
                self._known[pool, url] = _Answer(_of_pool(pages[url], source, url), self._clock())
            except PageError as error:
                errors.append(str(error))
        if source.nvml is not None:
            names.append("nvml")
            try:
                self._known[pool, "nvml"] = _Answer(await self._own(source.nvml), self._clock())
            except NvmlError as error:
                errors.append(str(error))
        return self._together(pool, names, errors)

    def _together(self, pool: str, names: list[str], errors: list[str]) -> PoolGpus:
        now_s, asked_s = self._clock(), self._first_asked_s or 0.0
        answers = [self._known.get((pool, name)) for name in names]
        fresh = [a for a in answers if a is not None and now_s - a.at_s <= self._fresh_s]
        oldest_s = min((asked_s if answer is None else answer.at_s for answer in answers), default=asked_s)
        gpus = tuple(gpu for answer in fresh for gpu in answer.gpus)
        return PoolGpus(gpus, now_s - oldest_s, len(fresh) == len(names), tuple(errors))

    async def _own(self, gpus: tuple[int | str, ...]) -> tuple[GpuReading, ...]:
        """Through NVML in a thread: a driver that hangs takes no more than the timeout, and no second thread."""
        if self._reading is not None and not self._reading.done():
            raise NvmlError("NVML: still busy with an earlier tick")
        self._reading = asyncio.ensure_future(asyncio.to_thread(self._library.read, gpus))
        await asyncio.wait({self._reading}, timeout=self._timeout_s)
        if not self._reading.done():
            raise NvmlError(f"NVML: no answer within {self._timeout_s:g} s")
        return self._reading.result()


def _of_pool(page: tuple[LabelledGpu, ...] | PageError, source: GpuMetrics, url: str) -> tuple[GpuReading, ...]:
    if isinstance(page, PageError):
        raise page
    own = tuple(gpu.reading for gpu in page if gpu.carries(source.labels))
    if not own:
        wanted = ", ".join(f"{key}={pattern}" for key, pattern in source.labels.items())
        seen = ", ".join(f"{key}={page[0].labels.get(key, '(none)')}" for key in source.labels)
        raise PageError(f"{url}: none of its {len(page)} GPUs carries {wanted}; the first one has {seen}")
    return own
