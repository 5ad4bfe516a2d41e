"""A decision log as a source of ticks: the file that is being written, followed, and the closed segments beside it."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from ...telemetry.record import HEAD, DecisionLogError
from ...telemetry.record.lines import document_of
from ...telemetry.record.segments import lines_of, segments
from .sources import SHOWN, SourceError
from .ticks import RawTick

_MOST: Final = 20_000
"""Ticks of one file that are looked at, the newest; the store keeps as many in all."""
_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class _Line:
    """A tick's line."""

    where: str
    sitting: str
    text: bytes


class LogSource:
    """A decision log on disk, followed as it grows."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path
        self.name = str(path)
        self._file: BinaryIO | None = None
        self._sitting = ""
        self._number = 0
        """Lines of the open file that were read."""

    async def recent(self, span_s: float) -> list[RawTick]:
        """See `Source`. Segments are opened as far back as the span reaches, and no more of them is parsed."""
        await self.close()
        newest = deque(self._new_lines(), maxlen=_MOST)
        found: list[RawTick] = []
        if _take(newest, span_s, found):
            for segment in reversed(segments(self.path)):
                if not _take(deque(_lines_of_segment(segment), maxlen=_MOST), span_s, found):
                    break
        return found[::-1]

    async def after(self, tick_id: str) -> list[RawTick]:
        """See `Source`. Lines are handed out once, in their order: `tick_id` is the last of them."""
        return [_tick(line) for line in islice(self._new_lines(), _AT_ONCE)]

    async def leader(self) -> str | None:
        """A file does not know."""
        return None

    async def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._sitting, self._number = None, "", 0

    def _new_lines(self) -> Iterator[_Line]:
        """Lines that were not handed out yet. A file that another one took the place of is read to its end first."""
        try:
            file = self._file or self._open()
            yield from self._rest(file)
            if _is_another(file, self.path):
                yield from self._rest(file)  # what came between the two looks
                file.close()
                yield from self._rest(self._open())
        except OSError as error:
            raise SourceError(
                f"{self.path}: {error.strerror or error}; wanted the decisions.jsonl of a sidecar"
            ) from None

    def _open(self) -> BinaryIO:
        self._file, self._sitting, self._number = None, "", 0
        self._file = self.path.open("rb")
        return self._file

    def _rest(self, file: BinaryIO) -> Iterator[_Line]:
        while line := file.readline():
            if not line.endswith(b"\n"):
                file.seek(-len(line), os.SEEK_CUR)  # it is being written
                return
            self._number += 1
            where = f"{self.path}:{self._number}"
            if line.startswith(HEAD):
                self._sitting = line.decode(errors="replace")
            elif not self._sitting:
                raise SourceError(f"{where}: no decision log; wanted the decisions.jsonl of a sidecar")
            else:
                yield _Line(where, self._sitting, line)


def _is_another(file: BinaryIO, path: Path) -> bool:
    """Whether a path leads elsewhere by now, or the file was cut."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return False  # between a segment's closing and the next one's beginning
    own = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino) != (own.st_dev, own.st_ino) or now.st_size < file.tell()


def _lines_of_segment(segment: Path) -> Iterator[_Line]:
    """Of a closed one; one that is spoilt or gone is as good as none: what is newer was read."""
    sitting = ""
    try:
        for number, line in enumerate(lines_of(segment), start=1):
            if line.startswith(HEAD):
                sitting = line.decode(errors="replace")
            elif sitting and line.endswith(b"\n"):
                yield _Line(f"{segment}:{number}", sitting, line)
    except (OSError, EOFError, zlib.error):
        return


def _take(lines: deque[_Line], span_s: float, found: list[RawTick]) -> bool:
    """Add the lines of the span, the newest first; whether the span reaches further back than they do."""
    while lines:
        tick = _tick(lines.pop())
        if found and _wall_s(tick) < _wall_s(found[0]) - span_s:
            return False
        found.append(tick)
    return True


def _tick(line: _Line) -> RawTick:
    try:
        document = document_of(line.text, line.where)
    except DecisionLogError as error:
        raise SourceError(str(error)) from None
    shown: dict[str, Any] = {name: document[name] for name in SHOWN if name in document}
    return RawTick(_id(shown), line.where, line.sitting, shown)


def _id(fields: dict[str, Any]) -> str:
    """Like those of the store: milliseconds, and a number."""
    wall_s, decision = fields.get("wall_s"), fields.get("decision")
    ms = round(wall_s * 1000.0) if isinstance(wall_s, int | float) else 0
    return f"{ms}-{decision.get('tick') if isinstance(decision, dict) else 0}"


def _wall_s(tick: RawTick) -> float:
    value = tick.fields.get("wall_s")
    return float(value) if isinstance(value, int | float) else 0.0
