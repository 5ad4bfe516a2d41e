"""Files that are whole or not there, whenever the machine stops; and one lock for whoever writes."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LOG: Final = logging.getLogger(__name__)
PATIENCE_S: Final = 10.0
"""Nobody holds the lock for longer than a checkpoint takes to copy."""
_POLL_S: Final = 0.01


class Busy(OSError):
    """The lock is not to be had; the message names the file."""


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by one that is on the disk before it has the name. OSError leaves what was there."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add one line, whole or not at all, after cutting off the half one that a crash may have left."""
    with path.open("ab+") as file:
        end = _end_of_whole_lines(path)
        if end != path.stat().st_size:
            file.truncate(end)
        try:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(path, end)
            raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk. What was renamed is there for everybody by then: a disk that cannot do
    this now is said of, and nothing is undone."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        _LOG.warning("%s: not known to survive a power cut: %s", folder, error)


@contextmanager
def locked(path: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep every other writer out, of this process and of others, as long as the block lasts.

    The system lets go of the lock when its holder dies.

    Raises:
        Busy: somebody else has it for longer than `patience_s`.
    """
    until_s = time.monotonic() + patience_s
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise Busy(f"{path}: another process has held it for {patience_s:g} s; try again") from None
                time.sleep(_POLL_S)
        yield


def _end_of_whole_lines(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1
