"""An emulated replica from its loading to its end: load, serve, watch the cap file, drain."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from ..sim.engine_state import PS_PER_S
from .cap_file import CapFile, Caps
from .pacing import PacedSession
from .process import address_of, process_age_s
from .replica import ReplicaSpec
from .server import Server
from .session import Session

CAP_POLL_S: Final = 0.1
"""Between two looks at the cap file, in seconds of the wall."""
BACKLOG: Final = 1024
_LAST_WRITES_S: Final = 1.0
"""What is left to be written at the end has so long."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a replica is served."""

    names: tuple[str, ...]
    """The model's in requests; the first one labels the metrics."""
    speed_up: float = 1.0
    """Simulated seconds that pass in one real second."""
    stream_interval: int = 1
    """Iterations between two events of a stream."""
    load_s: float = 0.0
    """Simulated seconds from the start of the process until it serves."""
    shutdown_timeout_s: float = 30.0
    """Real seconds that requests in flight are given after SIGTERM."""
    cap_file: Path | None = None
    dev_mode: bool = False


def run(spec: ReplicaSpec, settings: ServeSettings, bound: socket.socket) -> None:
    """Serve on a socket that does not listen yet until SIGTERM or SIGINT, finish what is in flight, and return.

    Needs a process of its own: it handles signals, and prints one line when it serves.
    """
    asyncio.run(_serve(spec, settings, bound))


def warm_up(spec: ReplicaSpec) -> None:
    """Run compiled code once, so that no request waits for it to be loaded (or, the first time, compiled)."""
    session = Session(spec)
    session.submit(0, 1, 3, streams=True)
    ticket = session.submit(0, 1, 2)
    session.set_limits(0, 1, spec.flags.max_num_batched_tokens)
    session.abort(1, ticket)
    session.sleep(PS_PER_S, 1)
    session.wake_up(PS_PER_S)
    session.figures(PS_PER_S)


async def _serve(spec: ReplicaSpec, settings: ServeSettings, bound: socket.socket) -> None:
    stopping = _stop_event()
    # What the process itself needs to start is a part of the loading time.
    if await _happens(stopping.wait(), settings.load_s / settings.speed_up - process_age_s()):
        return
    paced = PacedSession(Session(spec, settings.stream_interval), settings.speed_up)
    server = Server(spec, settings.names, paced, dev_mode=settings.dev_mode)
    watch = _watch_caps(spec, settings, paced, server)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=_LAST_WRITES_S)
    await runner.setup()
    try:
        await web.SockSite(runner, bound, backlog=BACKLOG).start()
        print(f"serving {settings.names[0]} on {address_of(bound)}", flush=True)
        await stopping.wait()
        server.draining = True
        await _happens(paced.all_ended(), settings.shutdown_timeout_s)
    finally:
        if watch is not None:
            watch.cancel()
        await runner.cleanup()


def _stop_event() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one ends the process at once."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopping.is_set():
            sys.stderr.write("second signal: not waiting for requests in flight\n")
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stopping


def _watch_caps(
    spec: ReplicaSpec, settings: ServeSettings, paced: PacedSession, server: Server
) -> asyncio.Task[None] | None:
    if settings.cap_file is None:
        return None
    file = CapFile(settings.cap_file, Caps(0, spec.flags.max_num_seqs, spec.flags.max_num_batched_tokens))
    server.cap_file_errors = lambda: file.errors
    return asyncio.create_task(_poll(file, paced))


async def _poll(file: CapFile, paced: PacedSession) -> None:
    while True:
        if file.poll():
            paced.apply(file.caps)
        await asyncio.sleep(CAP_POLL_S)


async def _happens(what: Awaitable[object], within_s: float) -> bool:
    """Wait for something, but not longer; whether it happened."""
    try:
        async with asyncio.timeout(within_s):
            await what
    except TimeoutError:
        return False
    return True
