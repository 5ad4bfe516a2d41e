"""Snapshots and decisions in Redis or Valkey: appended by the sidecar, read by the dashboard.

Two streams and two keys under one prefix: `PREFIX:snapshots` and `PREFIX:decisions` (one field, `json`, as
`env.wire` writes it) and the newest of each under `PREFIX:latest:snapshot` and `PREFIX:latest:decision`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..env.contract import Decision, SchemaError, Snapshot
from ..env.wire import from_json, to_json

T = TypeVar("T", Snapshot, Decision)

KEEP: Final = 20_000
"""Entries of each stream that are kept: more than a day at one tick in five seconds."""


class StoreError(ConnectionError):
    """The store cannot be reached or does not answer in time; the message names it and the operation."""


class Store:
    """A Redis or Valkey that is asked with bounded patience.

    Every operation ends within `timeout_s`, in a result or a StoreError. A store that was gone is reached again by the
    next operation, without any call to reconnect. An append that failed may have been stored all the same, and one
    whose connection broke half-way may be stored twice: readers go by `tick` and `time_s`.
    """

    def __init__(self, url: str, *, prefix: str = "poolpilot", keep: int = KEEP, timeout_s: float = 1.0) -> None:
        """`url` is like `redis://host:6379/0`; nothing is connected yet. StoreError if it is no such URL."""
        self.prefix = prefix
        self._keep = keep
        self._timeout_s = timeout_s
        try:
            parts = urlsplit(url)
            # Without user and password: this goes into errors and logs.
            self._where = f"{parts.scheme}://{parts.hostname or parts.path}" + (f":{parts.port}" if parts.port else "")
            self._client = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # A pooled connection that the server closed is noticed only by its use: try once more on a new one.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError as error:
            raise StoreError(f"store URL: {error}; wanted one like redis://host:6379/0") from None

    async def __aenter__(self) -> Self:
        """The store itself; nothing is connected yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self.close()

    async def close(self) -> None:
        """Close its connections; a store that is gone does not hinder that."""
        try:
            async with self._bounded("close"):
                await self._client.aclose()
        except StoreError:
            pass

    async def ping(self) -> None:
        """Nothing, or a StoreError."""
        async with self._bounded("PING"):
            await self._client.ping()

    async def append_snapshot(self, snapshot: Snapshot) -> str:
        """Append and make the latest in one transaction; returns the entry's id in the stream."""
        return await self._append("snapshot", snapshot)

    async def append_decision(self, decision: Decision) -> str:
        """Append and make the latest in one transaction; returns the entry's id in the stream."""
        return await self._append("decision", decision)

    async def latest_snapshot(self) -> Snapshot | None:
        """The newest snapshot; None before the first. SchemaError if it is not of this build's schema."""
        return await self._latest("snapshot", Snapshot)

    async def latest_decision(self) -> Decision | None:
        """The newest decision; None before the first. SchemaError if it is not of this build's schema."""
        return await self._latest("decision", Decision)

    async def snapshots(self, count: int, after: str | None = None) -> list[tuple[str, Snapshot]]:
        """`count` snapshots with their ids, oldest first: those following the id `after`, or the newest ones."""
        return await self._read("snapshot", Snapshot, count, after)

    async def decisions(self, count: int, after: str | None = None) -> list[tuple[str, Decision]]:
        """`count` decisions with their ids, oldest first: those following the id `after`, or the newest ones."""
        return await self._read("decision", Decision, count, after)

    async def _append(self, what: str, value: Snapshot | Decision) -> str:
        text = json.dumps(to_json(value), allow_nan=False, separators=(",", ":"))
        async with self._bounded(f"append a {what}"), self._client.pipeline(transaction=True) as pipe:
            pipe.xadd(self._stream(what), {"json": text}, maxlen=self._keep, approximate=True)
            pipe.set(self._latest_key(what), text)
            entry_id, _ = await pipe.execute()
        return str(entry_id)

    async def _latest(self, what: str, kind: type[T]) -> T | None:
        key = self._latest_key(what)
        async with self._bounded(f"GET {key}"):
            text = await cast("Awaitable[str | None]", self._client.get(key))
        return None if text is None else _decode(kind, text, key)

    async def _read(self, what: str, kind: type[T], count: int, after: str | None) -> list[tuple[str, T]]:
        stream = self._stream(what)
        async with self._bounded(f"read {stream}"):
            entries: Any
            if after is None:
                entries = await self._client.xrevrange(stream, count=count)
                entries = entries[::-1]
            else:
                entries = await self._client.xrange(stream, min=f"({after}", count=count)
        return [(entry_id, _decode(kind, fields.get("json"), f"{stream} {entry_id}")) for entry_id, fields in entries]

    def _stream(self, what: str) -> str:
        return f"{self.prefix}:{what}s"

    def _latest_key(self, what: str) -> str:
        return f"{self.prefix}:latest:{what}"

    @asynccontextmanager
    async def _bounded(self, operation: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise StoreError(f"store {self._where}: {operation}: no answer within {self._timeout_s:g} s") from None
        except (RedisError, OSError) as error:
            raise StoreError(
                f"store {self._where}: {operation}: {type(error).__name__}: {error}; is the server up, and is this its URL?"
            ) from None


def _decode(kind: type[T], text: str | None, where: str) -> T:
    try:
        document = json.loads(text or "")
    except ValueError as error:
        raise SchemaError(f"{where}: not JSON ({error})") from None
    return from_json(kind, document, where)
