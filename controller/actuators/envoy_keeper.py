"""Keeps an Envoy of our own running: one that dies is started again at once, on the same ports and files."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from ..fencing import UNFENCED, Fence, Fenced
from . import envoy_process
from .child import Child
from .envoy_process import EnvoyStartError, RunningEnvoy
from .replicas import backoff_s

_LOG: Final = logging.getLogger(__name__)
_FIRST_BACKOFF_S: Final = 0.5
_MOST_BACKOFF_S: Final = 30.0


class EnvoyKeeper:
    """Watches one Envoy. What it had in flight is lost with it; the next one goes on from the files that it left."""

    def __init__(self, envoy: RunningEnvoy, fence: Fence = UNFENCED) -> None:
        """Nothing is watched before `keep`."""
        self.envoy = envoy
        """The one that runs now, or ran last."""
        self._fence = fence
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep it from now on."""
        self._keeping = asyncio.create_task(self.keep(), name="envoy keeper")

    async def leave(self) -> None:
        """Keep it no longer; the one that runs goes on."""
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None

    async def stop(self) -> None:
        """Stop it, and do not take that for its death."""
        await self.leave()
        await envoy_process.stop(self.envoy)

    async def keep(self) -> None:
        """Start it again whenever it dies, until cancelled, or until another sidecar leads."""
        failures = 0
        while True:
            if failures == 0:
                await _ended(self.envoy.pid)
                _LOG.error("Envoy (process %d) has ended; starting it again on %s", self.envoy.pid, self.envoy.url)
            try:
                self.envoy = await _again(self.envoy, self._fence)
            except Fenced as fenced:
                _LOG.warning("Envoy is left to the sidecar that leads now: %s", fenced)
                return
            except (EnvoyStartError, OSError) as error:
                failures += 1
                wait_s = backoff_s(failures, _FIRST_BACKOFF_S, _MOST_BACKOFF_S)
                _LOG.error("Envoy does not start: %s; next attempt in %g s", error, wait_s)
                await asyncio.sleep(wait_s)
            else:
                failures = 0
                _LOG.warning("Envoy serves again on %s (process %d)", self.envoy.url, self.envoy.pid)


@asynccontextmanager
async def kept(envoy: RunningEnvoy, fence: Fence = UNFENCED) -> AsyncIterator[EnvoyKeeper]:
    """An Envoy that is started again as long as the block lasts; at its end the one that runs then is left alone."""
    keeper = EnvoyKeeper(envoy, fence)
    keeper.start()
    try:
        yield keeper
    finally:
        await keeper.leave()


async def _ended(pid: int) -> None:
    """Return when the process is gone, whoever started it."""
    try:
        process = Child(pid)
    except ProcessLookupError:
        return
    try:
        await asyncio.shield(process.exited)
    finally:
        process.forget()
    _reap(pid)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # an earlier sidecar's, which init has reaped
        os.waitpid(pid, os.WNOHANG)


async def _again(envoy: RunningEnvoy, fence: Fence) -> RunningEnvoy:
    listener, admin = urlsplit(envoy.url), urlsplit(envoy.admin_url)
    return await envoy_process.start(
        envoy.folder,
        host=listener.hostname or "127.0.0.1",
        port=listener.port or 0,
        admin_port=admin.port or 0,
        outlives_us=True,
        fence=fence,
    )
