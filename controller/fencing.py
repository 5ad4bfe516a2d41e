"""Keeps a leader of the past from writing: whoever acts holds a token that grows with every leader, and shows it.

A folder has one fence: the file `.fence` in it holds the highest token that ever led there and is the lock under which
everything in the folder is written. A new leader raises the fence before it does anything else. From then on whatever
an earlier one still has under way fails with `Fenced`: a process that was stopped, or that lost the network, and wakes
up with half a tick to do, changes nothing.

    fence = Fence(folder, token)
    fence.claim()                             # a new leader, once
    fence.write(folder / "caps.json", data)   # compares and replaces, as one step
    with fence.held():                        # what is no file: start, stop or signal a process, push to a proxy
        start_a_process()

Nothing may be awaited inside `held`: the lock is kept from a look at the token until all is done.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LOG: Final = logging.getLogger(__name__)
FENCE_FILE: Final = ".fence"
NO_LEADER: Final = 0
"""The token where nobody competes."""
PATIENCE_S: Final = 1.0
"""A writer holds the lock for a few milliseconds; one that has it this long hangs."""
_POLL_S: Final = 0.002
_CLAIMS: Final = 10
_DIGITS: Final = 20


class Fenced(RuntimeError):
    """A newer leader has taken over: this one may not write any more."""

    def __init__(self, where: Path | str, token: int, newer: int) -> None:
        """`where` is what was to be written; `newer` the token that leads now."""
        super().__init__(
            f"{where}: fencing token {newer} leads now, this writer has {token}; another sidecar took over"
        )
        self.where, self.token, self.newer = where, token, newer


class FenceError(OSError):
    """A fence cannot be used, or its lock is not to be had; the message names the file."""


class Fence:
    """One leader's way into one folder. Threads may share it."""

    def __init__(self, folder: Path | None, token: int = NO_LEADER, patience_s: float = PATIENCE_S) -> None:
        """Nothing is read or made yet.

        Args:
            folder: whose fence it is, with everything below it; None: nobody else writes, nothing is compared.
            token: of this leader.
            patience_s: how long to wait for somebody else's write.
        """
        self.folder, self.token = folder, token
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._depth = 0
        self._newer = NO_LEADER

    @property
    def passed(self) -> bool:
        """Whether a newer leader has been met: nothing can be written any more."""
        return self._newer > self.token

    def claim(self) -> None:
        """Raise the fence to this token: whoever has a lower one writes nothing from now on.

        A process of this machine that was stopped in the middle of a write, or hangs there for ten times the patience, is
        killed: nobody can tell what it would do next.

        Raises:
            Fenced: it stands higher already.
            FenceError: it cannot be written, or somebody who cannot be killed holds its lock.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(_CLAIMS):
            try:
                return self.check()
            except _Hung as hung:
                _end_holder(hung.path, even_if_it_runs=attempt == _CLAIMS - 1)
        self.check()

    def pass_by(self, newer: int) -> None:
        """A newer leader is known of: nothing is written from now on, whatever the fence says yet."""
        self._newer = max(self._newer, newer, self.token + 1)

    def check(self) -> None:
        """Nothing, or Fenced."""
        with self.held():
            pass

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep everybody else from writing as long as the block lasts; blocks may be nested, and await nothing.

        Raises:
            Fenced: a newer leader took over; nothing of the block was run.
            FenceError: the lock is not to be had, or the fence is none.
        """
        with self._lock:
            if self._depth:
                yield  # the lock is there already
                return
            if self.passed:
                raise Fenced(self.folder or "", self.token, self._newer)
            if self.folder is None:
                yield
                return
            path = self.folder / FENCE_FILE
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _lock(descriptor, path, self._patience_s)
                self._compare(descriptor, path)
                self._depth = 1
                yield
            finally:
                self._depth = 0
                os.close(descriptor)  # and with it the lock

    def write(self, path: Path, data: bytes) -> None:
        """Replace a file in one step: readers see the old one or the new one, whole.

        Raises:
            Fenced: a newer leader took over; the file is as it was.
            OSError: it cannot be written; the file is as it was.
        """
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with self.held():
            try:
                part.write_bytes(data)
                part.replace(path)
            except OSError:
                with suppress(OSError):
                    part.unlink()
                raise

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already; raises as `write`."""
        with self.held():
            path.unlink(missing_ok=True)

    def _compare(self, descriptor: int, path: Path) -> None:
        highest = _read(descriptor, path)
        if highest > self.token:
            self._newer = highest
            raise Fenced(path.parent, self.token, highest)
        if highest < self.token:
            # In place and always as long: a rename would take the lock away with the old file.
            os.pwrite(descriptor, b"%0*d\n" % (_DIGITS, self.token), 0)


UNFENCED: Final = Fence(None)
"""Where nobody competes: nothing is compared."""


def write_fenced(path: Path, data: bytes, token: int) -> None:
    """Replace one file in one step, compared with the fence of its own folder.

    Raises:
        Fenced: a higher token wrote in that folder.
        OSError: it cannot be written.
    """
    Fence(path.parent, token).write(path, data)


def highest_token(folder: Path) -> int:
    """The highest token that ever led in a folder; `NO_LEADER` if none did. FenceError if its fence is none."""
    path = folder / FENCE_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return NO_LEADER
    try:
        return _read(descriptor, path)
    finally:
        os.close(descriptor)


class _Hung(FenceError):
    """Somebody holds the lock for longer than any write takes."""

    def __init__(self, path: Path, patience_s: float) -> None:
        super().__init__(f"{path}: another process has been writing for more than {patience_s:g} s; does it hang?")
        self.path = path


def _lock(descriptor: int, path: Path, patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise _Hung(path, patience_s) from None
            time.sleep(_POLL_S)


def _read(descriptor: int, path: Path) -> int:
    text = os.pread(descriptor, 2 * _DIGITS, 0).strip()
    if text and not (text.isdigit() and len(text) <= _DIGITS):
        raise FenceError(f"{path}: {text[:40]!r}, wanted the number of the newest leader; was it edited by hand?")
    return int(text or b"0")


def _end_holder(path: Path, *, even_if_it_runs: bool) -> None:
    """Kill the process of this machine that holds the lock of a fence, by what the kernel says, if it was stopped.

    Raises:
        FenceError: the kernel names none (another machine's, another container's), or it may not be killed.
    """
    pid = _holder(path)
    if pid is None:
        return  # it let go meanwhile
    if pid <= 0 or pid == os.getpid():
        raise FenceError(f"{path}: the process that holds its lock is not of this machine; end it there")
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _holder(path) != pid or not (even_if_it_runs or _stopped(pid)):  # the number may be another's by now
            return
        _LOG.error("%s: process %d hangs while it writes; killing it", path, pid)
        signal.pidfd_send_signal(watched, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        raise FenceError(f"{path}: process {pid} hangs while it writes and is not ours to kill; end it") from None
    finally:
        os.close(watched)


def _stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger (proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


_HELD: Final = re.compile(r"FLOCK\s+ADVISORY\s+WRITE\s+(-?\d+)\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s")


def _holder(path: Path) -> int | None:
    """Which process has a lock on a file (proc_locks(5)); 0 or less if the kernel hides it, None if nobody has."""
    seen = path.stat()
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return 0
    for pid, major, minor, inode in _HELD.findall(lines):
        device = os.makedev(int(major, 16), int(minor, 16))
        if int(inode) == seen.st_ino and device == seen.st_dev:
            return int(pid)
    return None
