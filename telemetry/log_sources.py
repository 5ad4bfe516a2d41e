"""Several ways by which the same log may come, as one: no request is counted twice, whichever way it came."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from .envoy_log import LogRecord, LogTail, RequestRecord

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
    """A file and other sources as one log, without what was there before: a log that was copied back, or an entry that
    came both ways."""

    def __init__(self, file: LogTail, others: Sequence[LogSource] = (), remembered: int = REMEMBERED) -> None:
        """Read `file` and all `others`; know the last `remembered` entries again."""
        self.path = file.path
        self.repeated = 0
        """Entries left out so far."""
        self._file, self._sources, self._remembered = file, (*others, file), remembered
        # In the order they came. Of a plain dict the first key is found the slower the more were taken from its front.
        self._seen: OrderedDict[int, None] = OrderedDict()

    @property
    def broken_lines(self) -> int:
        """Entries of all sources that were none, so far."""
        return sum(source.broken_lines for source in self._sources)

    @property
    def last_error(self) -> str | None:
        """What was wrong with one of them."""
        return next((source.last_error for source in self._sources if source.last_error), None)

    def absent(self) -> str:
        """What is looked for and where, while there is no file; else nothing."""
        return self._file.absent()

    def read(self) -> tuple[LogRecord, ...]:
        """What came since the last call from any source and not before.

        Raises:
            OSError: the file is there and cannot be read; what others brought meanwhile comes with the next call.
        """
        from_file = self._file.read()
        from_others = [record for source in self._sources[:-1] for record in source.read()]
        # Starts first: one source may bring a request's end before another brings its start.
        found = sorted((*from_others, *from_file), key=lambda record: isinstance(record, RequestRecord))
        return tuple(record for record in found if self._is_new(record))

    def _is_new(self, record: LogRecord) -> bool:
        end = hash(record.stream_id)
        # A request that is retried starts at each replica; it ends once, and does not start after that.
        ended = isinstance(record, RequestRecord)
        key = end if ended else hash((record.stream_id, record.host, record.started_at_s))
        if key in self._seen or end in self._seen:
            self.repeated += 1
            return False
        self._seen[key] = None
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return True
