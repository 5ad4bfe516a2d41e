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
        self.keeping: asyncio.Task[None] | None = None
        """The watch, while it lasts."""

    def rest(self) -> None:
        """Watch it no more: it is to be stopped."""
        if self.keeping:
            self.keeping.cancel()

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
    keeping = keeper.keeping = asyncio.create_task(keeper.keep(), name="envoy keeper")
    try:
        yield keeper
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


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
