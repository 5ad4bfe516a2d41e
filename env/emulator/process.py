"""The process of an emulated replica, apart from what it serves: its start, its port, its parent. Imports nothing slow."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_CERTIFICATES: Final = "SSL_CERT_FILE"


class ProcessError(ValueError):
    """The replica cannot be served; one line."""


@contextmanager
def lean_start() -> Iterator[None]:
    """Import aiohttp and numba, and run compiled code for the first time, in two thirds of the time.

    An emulated replica calls nobody and multiplies no matrices. So aiohttp need not read the certificates of all
    authorities (0.08 s), and numba need not find scipy's BLAS (0.2 s): compiled code cannot use `dot` and its like in
    this process. What was loaded is left out of garbage collections from then on: walking through it stops the server
    for tens of milliseconds each time.
    """
    modules: dict[str, Any] = sys.modules
    certificates = os.environ.get(_CERTIFICATES)
    hide_scipy = "scipy" not in modules
    gc.disable()
    os.environ[_CERTIFICATES] = os.devnull
    if hide_scipy:
        modules["scipy"] = None  # an import then fails as if it were not installed
    try:
        yield
    finally:
        if hide_scipy:
            del modules["scipy"]
        if certificates is None:
            del os.environ[_CERTIFICATES]
        else:
            os.environ[_CERTIFICATES] = certificates
        gc.freeze()
        gc.enable()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies.

    Raises:
        ProcessError: this kernel cannot, or the parent is gone already.
    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise ProcessError(f"die-with-parent: {os.strerror(ctypes.get_errno())}; wanted a Linux that has prctl")
    if os.getppid() != parent:
        raise ProcessError(f"die-with-parent: parent process {parent} is gone already")


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has its port and does not listen yet: who connects is refused until the replica serves.

    Raises:
        ProcessError: the port is taken, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        hint = "; stop who has it, or take port 0 for any free one" if error.errno == errno.EADDRINUSE else ""
        raise ProcessError(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}{hint}") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL at which a socket is reached."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def process_age_s() -> float:
    """How long this process has been there."""
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # since boot; proc(5)
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 0.0)
