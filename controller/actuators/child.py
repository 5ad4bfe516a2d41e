"""One replica's process: its command line, its port, its log, its end. Linux only (process file descriptors)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from ...engine_plugin import poolpilot_engine
from .envoy_config import Endpoint

_SHIM: Final = Path(__file__).with_name("die_with_parent.py")
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_PORT_TAKEN: Final = re.compile(rb"address already in use|EADDRINUSE", re.IGNORECASE)
_TAIL_BYTES: Final = 4096
_LAST_WAIT_S: Final = 5.0
"""A killed process is gone within milliseconds, unless it hangs in the kernel."""


@dataclass(frozen=True, slots=True)
class ReplicaCommand:
    """How a pool's replicas are started.

    Raises:
        ValueError: a placeholder that nobody fills in, or no `{port}`.
    """

    argv: tuple[str, ...]
    """`{host}`, `{port}` and `{cap_file}` are filled in; other braces, such as JSON's, stay as they are."""
    cap_file: Path | None = None
    """The pool's file of caps."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own."""

    def __post_init__(self) -> None:
        """Refuse a template that cannot work before anything is rented."""
        if not any("{port}" in part for part in self.argv):
            raise ValueError(f"command {' '.join(self.argv)!r}: no {{port}}; all replicas would take the same port")
        filled = self._filled(Endpoint("127.0.0.1", 1))
        for part, name in ((p, n) for p in self.argv for n in _PLACEHOLDER.findall(p)):
            if name not in filled:
                wanted = ", ".join(f"{{{known}}}" for known in filled)
                raise ValueError(f"command part {part!r}: nothing to fill in for {{{name}}}; known are {wanted}")

    def fill(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The command line of the replica that is to listen at `endpoint`."""
        filled = self._filled(endpoint)
        return tuple(_PLACEHOLDER.sub(lambda m: filled[m[1]], part) for part in self.argv)

    def _filled(self, endpoint: Endpoint) -> dict[str, str]:
        known = {"host": endpoint.host, "port": str(endpoint.port)}
        return known if self.cap_file is None else {**known, "cap_file": str(self.cap_file)}


def lacks_shutdown_timeout(argv: Sequence[str]) -> bool:
    """Whether a command starts vLLM such that SIGTERM cuts whatever still streams."""
    serves = any(re.search(r"\bvllm\b", part) for part in argv)
    return serves and not any(part.startswith("--shutdown-timeout") for part in argv)


def plugin_environment(cap_file: Path) -> dict[str, str]:
    """What lets a vLLM server load the engine plugin, should its command ask for it, and tells it the caps' file."""
    # That folder holds the plugin alone: nothing else of ours gets into vLLM's environment.
    folders = [str(Path(poolpilot_engine.__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {poolpilot_engine.SOURCE_VARIABLE: str(cap_file), "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def free_port(host: str, *, keep_free: bool) -> int:
    """A TCP port that nobody has.

    Args:
        host: address to listen at.
        keep_free: leave the port behind in TIME_WAIT: for a minute the kernel hands it to nobody who asks for any
            port, nor to outgoing connections, and servers that set SO_REUSEADDR (nearly all) may listen on it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, 0))
        port = int(listener.getsockname()[1])
        if keep_free:
            listener.listen(1)
            with socket.create_connection((host, port)):
                listener.accept()[0].close()  # who closes first keeps the port in TIME_WAIT
    return port


class Child:
    """A process, started here or found running, that is signalled and awaited without any race on its pid."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        """Watch `pid` from the running event loop. ProcessLookupError if there is no such process."""
        self.pid = pid
        self._popen = popen
        self._pidfd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        """Its exit status, negative for a signal; None where it was not started here."""
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    def launch(cls, argv: tuple[str, ...], environment: Mapping[str, str], log: Path, *, die_with_parent: bool) -> Self:
        """Start a process in a session of its own, so that a Ctrl-C at the terminal stops it in our order only.

        To die with its parent means, to the kernel, with the thread that starts it: run the event loop in the main one.

        Raises:
            OSError: the program or its log cannot be opened.
        """
        if die_with_parent:
            argv = (sys.executable, "-I", str(_SHIM), str(os.getpid()), *argv)
        with log.open("ab") as output:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        return cls(popen.pid, popen)

    @property
    def running(self) -> bool:
        """Whether its end has not been seen yet."""
        return not self.exited.done()

    def terminate(self) -> None:
        """SIGTERM, to the process alone: a server stops its own workers in its own order."""
        if self.running:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to the process and all of its session that is left."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait_now(self) -> None:
        """Return when a killed process is gone: for the way out, where nothing can be awaited any more."""
        if self.running:
            watch = select.poll()
            watch.register(self._pidfd, select.POLLIN)
            if watch.poll(_LAST_WAIT_S * 1000):
                self._on_exit()

    def forget(self) -> None:
        """Watch it no longer and leave it running."""
        if self.running:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self.exited.cancel()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        status = None
        if self._popen is not None:
            # Workers that outlived it hold memory and GPUs. Until it is reaped its pid, and so its group, is its own.
            self.kill()
            status = self._popen.wait()
        os.close(self._pidfd)
        self.exited.set_result(status)


def log_end(log: Path) -> int:
    """Bytes in a log; 0 if it is not there."""
    return log.stat().st_size if log.exists() else 0


def says_port_taken(log: Path, since: int) -> bool:
    """Whether a process that just died says, after byte `since` of its log, that its port was taken."""
    return bool(_PORT_TAKEN.search(_tail(log, since)))


def last_words(log: Path, since: int) -> str:
    """The last line of a log that says anything; empty if none."""
    lines = [line.strip() for line in _tail(log, since).decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _tail(log: Path, since: int) -> bytes:
    with log.open("rb") as file:
        file.seek(max(since, log_end(log) - _TAIL_BYTES))
        return file.read(_TAIL_BYTES)
