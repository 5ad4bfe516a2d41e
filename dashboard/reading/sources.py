"""Where ticks are read from: the store's stream, or a decision log on disk. Both only ever read."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from ...env.contract import SchemaError
from ...telemetry.store import Store, StoreError, TickEntry
from .ticks import RawTick

SHOWN: Final = ("snapshot", "decision", "comparison", "wall_s", "fell_back")
"""The fields of a tick that pages show; the others are not even parsed."""
_PAGE: Final = 200
"""Ticks that are asked of the store at a time: 2 MB."""
_SITTING: Final = b'{"kind":"poolpilot-decision-log"'
_MOST: Final = 20_000
"""Lines of a log that are looked at; the store keeps as many."""


class SourceError(RuntimeError):
    """Ticks cannot be read now; the message says what was asked and what to do."""


class Source(Protocol):
    """Whoever holds ticks."""

    @property
    def name(self) -> str:
        """For people: which store or file."""
        ...

    async def recent(self, span_s: float) -> list[RawTick]:
        """The ticks of the last `span_s` seconds up to the newest, oldest first. SourceError if they cannot be read."""
        ...

    async def after(self, tick_id: str) -> list[RawTick]:
        """Ticks that follow one, oldest first, some hundred at most. SourceError if they cannot be read."""
        ...

    async def leader(self) -> str | None:
        """Who leads; None if nobody does, or the source does not know."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...


class StoreSource:
    """The stream in a Redis or Valkey."""

    def __init__(self, store: Store, name: str) -> None:
        """`name` for people."""
        self._store, self.name = store, name

    async def recent(self, span_s: float) -> list[RawTick]:
        """See `Source`. Ids begin with the server's milliseconds."""
        newest = await self._ticks(1, None)
        if not newest:
            return []
        newest_ms = int(newest[0].id.split("-")[0])
        found: list[RawTick] = []
        after = f"{max(0, newest_ms - round(span_s * 1000.0))}-0"
        while page := await self._ticks(_PAGE, after):
            found += page
            after = page[-1].id
        return found

    async def after(self, tick_id: str) -> list[RawTick]:
        """See `Source`."""
        return await self._ticks(_PAGE, tick_id)

    async def leader(self) -> str | None:
        """See `Source`."""
        try:
            lease = await self._store.leader()
        except StoreError as error:
            raise SourceError(str(error)) from None
        return None if lease is None else lease.holder

    async def close(self) -> None:
        """See `Source`."""
        await self._store.close()

    async def _ticks(self, count: int, after: str | None) -> list[RawTick]:
        try:
            entries = await self._store.ticks(count, after)
        except (StoreError, SchemaError) as error:
            raise SourceError(str(error)) from None
        return [of_entry(self.name, entry_id, entry) for entry_id, entry in entries]


def of_entry(where: str, entry_id: str, entry: TickEntry) -> RawTick:
    """An entry of a store's stream. SourceError if a field of it is no JSON."""
    where = f"{where} {entry_id}"
    fields = {name: _parsed(entry.fields[name], f"{where}: {name}") for name in SHOWN if name in entry.fields}
    return RawTick(entry_id, where, entry.sitting_json, fields)


class NoSource:
    """Where no sidecar was named."""

    name = "no sidecar"

    async def recent(self, span_s: float) -> list[RawTick]:
        """See `Source`."""
        return []

    async def after(self, tick_id: str) -> list[RawTick]:
        """See `Source`."""
        return []

    async def leader(self) -> str | None:
        """See `Source`."""
        return None

    async def close(self) -> None:
        """See `Source`."""


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a tick lies in a log."""

    number: int
    at: int
    bytes: int
    sitting: str


class LogSource:
    """A decision log on disk, followed as it grows."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path
        self.name = str(path)
        self._at = 0
        """Where the next line begins."""
        self._inode = 0
        self._sitting = ""
        self._number = 0
        """Lines read so far, over all files of this name."""

    async def recent(self, span_s: float) -> list[RawTick]:
        """See `Source`. The whole file is read, but no more of it parsed than is handed out."""
        self._at = self._inode = self._number = 0
        lines = deque(self._new_lines(), maxlen=_MOST)
        found: list[RawTick] = []
        with self._opened() as file:
            while lines:
                line = lines.pop()
                found.append(self._tick(line, _read(file, line)))
                if _wall_s(found[-1]) < _wall_s(found[0]) - span_s:
                    found.pop()
                    break
        return found[::-1]

    async def after(self, tick_id: str) -> list[RawTick]:
        """See `Source`. Lines are handed out once, in their order: `tick_id` is the last of them."""
        lines = list(islice(self._new_lines(), _PAGE))
        with self._opened() as file:
            return [self._tick(line, _read(file, line)) for line in lines]

    async def leader(self) -> str | None:
        """A file does not know."""
        return None

    async def close(self) -> None:
        """Nothing is held open."""

    def _new_lines(self) -> Iterator[_Line]:
        """Where ticks lie that are not handed out yet. A file that was replaced or cut is read from its beginning."""
        with self._opened() as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._at:
                self._inode, self._at = status.st_ino, 0
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written
                at, self._at = self._at, self._at + len(line)
                self._number += 1
                if line.startswith(_SITTING):
                    self._sitting = line.decode(errors="replace")
                elif not self._sitting:
                    raise SourceError(f"{self.path}:1: no decision log; wanted the decisions.jsonl of a sidecar")
                else:
                    yield _Line(self._number, at, len(line), self._sitting)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise SourceError(
                f"{self.path}: {error.strerror or error}; wanted the decisions.jsonl of a sidecar"
            ) from None

    def _tick(self, line: _Line, text: bytes) -> RawTick:
        where = f"{self.path}:{line.number}"
        document = _parsed(text.decode(errors="replace"), where)
        if not isinstance(document, dict):
            raise SourceError(f"{where}: wanted a JSON object")
        shown = {name: document[name] for name in SHOWN if name in document}
        return RawTick(str(line.number), where, line.sitting, shown)


def _read(file: BinaryIO, line: _Line) -> bytes:
    file.seek(line.at)
    return file.read(line.bytes)


def _wall_s(tick: RawTick) -> float:
    value = tick.fields.get("wall_s")
    return float(value) if isinstance(value, int | float) else 0.0


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not JSON: {error}") from None
