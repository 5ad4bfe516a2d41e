"""Envoy's access log over gRPC: what `LogTail` is for a file, for Envoys on other machines.

Envoy sends each entry once and forgets what nobody took: entries of the time without a sidecar are lost, where a file
keeps them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from .envoy_log import LOG_NAME, LogLineError, LogRecord, parse_tags

MOST_WAITING: Final = 200_000
"""Entries kept until they are read; beyond that the oldest are dropped, as when nothing ticks."""


class AccessLogService(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]  # it has no types
    """Takes the entries of any number of Envoys."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        """Nothing has come yet."""
        self.broken_lines = 0
        """Entries that were none, so far."""
        self.last_error: str | None = None
        """What was wrong with the latest of them."""
        self.dropped = 0
        """Entries that came and were not read in time, so far."""
        self._waiting: deque[LogRecord] = deque()
        self._most_waiting = most_waiting

    def read(self) -> tuple[LogRecord, ...]:
        """What came since the last call."""
        found = tuple(self._waiting)
        self._waiting.clear()
        return found

    async def StreamAccessLogs(self, requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802  # gRPC's name
        """One Envoy's stream of entries; it is never answered while it lasts."""
        ours = True
        async for message in requests:
            if message.HasField("identifier"):  # in a stream's first message only
                ours = message.identifier.log_name == LOG_NAME
                if not ours:
                    self._broken(f"a log named {message.identifier.log_name!r}, wanted {LOG_NAME!r}")
            if ours:
                for entry in message.http_logs.log_entry:
                    self._take(entry)
        return als_pb2.StreamAccessLogsResponse()

    def _take(self, entry: Any) -> None:
        try:
            record = parse_tags(entry.common_properties.custom_tags)
        except LogLineError as error:
            self._broken(str(error))
            return
        if len(self._waiting) >= self._most_waiting:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(record)

    def _broken(self, why: str) -> None:
        self.broken_lines += 1
        self.last_error = why
