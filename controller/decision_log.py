"""The record of ticks on disk: what was seen, decided, applied and came of it, one JSON line a tick (`telemetry.record`).

Each sitting of the sidecar begins with a line that holds the cluster, its limits and who may decide; every further line
is one tick. A line goes out in one write, whole or not at all. Only a crash can leave a half line, at the end of the
file. Sidecars that take turns in leading write one log: its fence keeps all but the leader out.

A file that has grown large, or old, is closed, packed beside the loop and trimmed by age and size (`record.segments`).
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..telemetry.record import (
    HEAD,
    DecisionLogError,
    Keeping,
    Sitting,
    TickRecord,
    entry_of,
    line_of,
    sitting_text,
)
from ..telemetry.record.segments import next_segment, outlived, pack, packed_on_disk, unpacked
from ..telemetry.store import TickEntry
from .fencing import UNFENCED, Fence, Fenced

_LOG: Final = logging.getLogger(__name__)


class DecisionLog:
    """A log that is open for appending. Use it as a context, or close it."""

    def __init__(
        self,
        path: Path,
        sitting: Sitting,
        fence: Fence = UNFENCED,
        keeping: Keeping | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Open or make the file and write down the sitting. A half line that a crash left at its end is cut off.

        Args:
            path: the file.
            sitting: what all its ticks share.
            fence: keeps leaders of the past from writing; without one nobody else may have the file open.
            keeping: when the file is closed, and how much of the log is kept.
            wall: seconds since 1970.

        Raises:
            Fenced: a newer leader took over.
            DecisionLogError: the file is something else, or another process writes to it.
            OSError: it cannot be written.
        """
        self.path, self._fence, self._keeping, self._wall = path, fence, keeping or Keeping(), wall
        self._sitting_text = sitting_text(sitting)
        self._packing: threading.Thread | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._opened()
        self._begun_s = wall()
        self._tidy()

    def __enter__(self) -> Self:
        """The open log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """No more ticks; what is closed is packed."""
        self._file.close()
        if self._packing is not None:
            self._packing.join()
        if unpacked(self.path):  # closed while others were packed
            self._pack_and_trim()

    def append(self, record: TickRecord) -> None:
        """Add one tick; it is with the operating system when this returns.

        Raises:
            Fenced: a newer leader took over.
            OSError: it cannot be written; the file is as it was.
        """
        self.append_entry(entry_of(record))

    def append_entry(self, entry: TickEntry) -> None:
        """Add one tick as `entry_of` makes it, after its sitting where that is another than before; raises as `append`."""
        with self._fence.held():
            if entry.sitting_json != self._sitting_text:
                self._write(entry.sitting_json)
                self._sitting_text = entry.sitting_json
            self._write(line_of(entry))
        self._roll()

    def _opened(self) -> FileIO:
        # "a+": mending reads; every write still goes to the end.
        file = FileIO(self.path, "a+")
        try:
            if self._fence.folder is None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._fence.held():
                _mend(file, self.path)
                self._file = file
                self._write(self._sitting_text)
        except BlockingIOError:
            file.close()
            raise DecisionLogError(f"{self.path}: another sidecar writes this log; give each its own") from None
        except BaseException:
            file.close()
            raise
        return file

    def _write(self, text: str) -> None:
        line = text.encode() + b"\n"
        before = self.path.stat().st_size
        try:
            written = self._file.write(line)
        except OSError:
            with suppress(OSError):
                self._file.truncate(before)
            raise
        if written != len(line):
            self._file.truncate(before)  # half a line in the middle would spoil the log
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written; is the disk full?")

    def _roll(self) -> None:
        """Close a file that has grown large or old, and begin another; one that cannot be closed goes on growing."""
        keeping, now_s = self._keeping, self._wall()
        if self._file.tell() < keeping.segment_bytes and now_s - self._begun_s < keeping.segment_s:
            return
        self._begun_s = now_s  # whatever comes of it, it is not tried at every tick
        try:
            with self._fence.held():
                closed = next_segment(self.path)
                self.path.rename(closed)
                before = self._file
                try:
                    self._file = self._opened()
                except (OSError, DecisionLogError):
                    closed.rename(self.path)  # the open file went with its name, and comes back with it
                    self._file = before
                    raise
            before.close()
        except Fenced:
            raise
        except (OSError, DecisionLogError) as error:
            _LOG.warning("%s: cannot be closed and begun anew: %s", self.path, error)
            return
        self._tidy()

    def _tidy(self) -> None:
        """Pack and trim closed segments, beside the loop; what one round leaves, the next one finds."""
        if self._packing is not None and self._packing.is_alive():
            return
        self._packing = threading.Thread(target=self._pack_and_trim, name="poolpilot-log", daemon=False)
        self._packing.start()

    def _pack_and_trim(self) -> None:
        try:
            for path in unpacked(self.path):
                self._fence.check()
                pack(path)
            # One that is closed meanwhile is seven times its size for a moment: it waits for the next round.
            held = packed_on_disk(self.path)
            for segment in outlived(held, self._keeping.segment_bytes, self._keeping, self._wall()):
                with self._fence.held():
                    segment.path.unlink(missing_ok=True)
        except (Fenced, OSError) as error:
            _LOG.warning("%s: segments are not packed or trimmed: %s", self.path, error)


def _mend(file: FileIO, path: Path) -> None:
    """Cut off the half line that a crash left; refuse a file that is no decision log."""
    size = path.stat().st_size
    if size == 0:
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(HEAD)] != HEAD[:size]:
            raise DecisionLogError(f"{path}:1: this file is no decision log, it does not begin with {HEAD.decode()}")
        whole = content.rfind(b"\n") + 1
    if whole < size:
        _LOG.warning("%s: cut off the half line of %d bytes that a crash left at its end", path, size - whole)
        file.truncate(whole)
