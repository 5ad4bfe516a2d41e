"""Where ticks are read from: the store's stream here, a decision log on disk in `logs`. Both only ever read."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from ...env.contract import SchemaError
from ...telemetry.record import DecisionLogError
from ...telemetry.record.lines import document_of_entry
from ...telemetry.store import Store, StoreError, TickEntry
from .ticks import RawTick

SHOWN: Final[tuple[str, ...]] = ("snapshot", "decision", "comparison", "in_force", "wall_s", "fell_back")
"""The fields of a tick that pages show; the others are not even parsed."""
_PAGE: Final = 200
"""Ticks that are asked of the store at a time: 2 MB."""


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
    shown = replace(entry, fields={name: text for name, text in entry.fields.items() if name in SHOWN})
    try:
        return RawTick(entry_id, where, entry.sitting_json, document_of_entry(shown, where))
    except DecisionLogError as error:
        raise SourceError(str(error)) from None


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
