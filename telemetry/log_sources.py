"""Several ways by which the same log may come, as one: no request is counted twice, whichever way it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from .envoy_log import LogRecord, RequestRecord

REMEMBERED: Final = 1 << 18
"""Entries that are known again: some minutes of a thousand requests a second."""


class LogSource(Protocol):
    """Whatever brings entries of the access log."""

    @property
    def broken_lines(self) -> int:
        """Entries that were none, so far."""
        ...

    @property
    def last_error(self) -> str | None:
        """What was wrong with the latest of them."""
        ...

    def read(self) -> tuple[LogRecord, ...]:
        """What came since the last call."""
        ...


class OneLog:
    """Joins sources, and leaves out what was there before: a log that was copied back, or two sources of one Envoy."""

    def __init__(self, sources: Sequence[LogSource], remembered: int = REMEMBERED) -> None:
        """Read all of `sources`; know the last `remembered` entries again."""
        self.repeated = 0
        """Entries left out so far."""
        self._sources, self._remembered = tuple(sources), remembered
        self._seen: dict[int, None] = {}  # in the order they came

    @property
    def broken_lines(self) -> int:
        """Entries of all sources that were none, so far."""
        return sum(source.broken_lines for source in self._sources)

    @property
    def last_error(self) -> str | None:
        """What was wrong with one of them."""
        return next((source.last_error for source in self._sources if source.last_error), None)

    def read(self) -> tuple[LogRecord, ...]:
        """What came since the last call from any source and not before.

        Raises:
            OSError: a file is there and cannot be read; what other sources brought comes with the next call.
        """
        found: list[LogRecord] = []
        for source in self._sources:
            found += [record for record in source.read() if self._is_new(record)]
        return tuple(found)

    def _is_new(self, record: LogRecord) -> bool:
        # A request that is retried starts at each replica; it ends once.
        ended = isinstance(record, RequestRecord)
        key = hash((record.stream_id,) if ended else (record.stream_id, record.host, record.started_at_s))
        if key in self._seen:
            self.repeated += 1
            return False
        self._seen[key] = None
        if len(self._seen) > self._remembered:
            del self._seen[next(iter(self._seen))]
        return True
