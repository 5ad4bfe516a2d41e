"""Ticks in Redis or Valkey: appended by the sidecar that leads, read by the dashboard; and the lease by which it leads.

All keys have one prefix. `PREFIX:ticks` is a stream, an entry a tick; its fields are JSON, `snapshot` and `decision`
as `env.wire` writes them and whatever else went into the decision. The newest of these two are also under
`PREFIX:latest:snapshot` and `PREFIX:latest:decision`. What does not change from tick to tick is a field of the hash
`PREFIX:sittings`, whose name the field `sitting` of its ticks tells. `PREFIX:lease` names the leader and lives as long
as it is renewed, `PREFIX:handover` is what the next leader goes on from, `PREFIX:token` is the newest leader's fencing token, `PREFIX:standby` is there while somebody waits.

Every append is compared with that token inside the server: a leader of the past appends nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ..env.contract import Decision, SchemaError, Snapshot
from ..env.wire import from_json

T = TypeVar("T", Snapshot, Decision)

DAY_S: Final = 86_400.0
_SITTINGS_KEPT: Final = 200

_WAIT: Final = """
local held = redis.call('GET', KEYS[1])
if held then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) end
return held
"""
# A server that lost its memory must not hand out tokens of the past: the caller tells the highest that it knows of.
_ACQUIRE: Final = """
local held = redis.call('GET', KEYS[1])
if held then
  if held:match(' (.*)$') == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return held
end
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[3])) + 1
held = string.format('%.0f %s', token, ARGV[1])
redis.call('SET', KEYS[2], string.format('%.0f', token))
redis.call('SET', KEYS[1], held, 'PX', ARGV[2])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return held
"""
# A lease that ran out, or was lost with the server's memory, is still ours if nobody had another since.
_RENEW: Final = """
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  if held or tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[3]) then
    return {0, tonumber(redis.call('GET', KEYS[2]) or '0')}
  end
  redis.call('SET', KEYS[2], ARGV[3])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, redis.call('EXISTS', KEYS[3])}
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_APPEND: Final = """
local newest = redis.call('GET', KEYS[1]) or '0'
if tonumber(newest) > tonumber(ARGV[1]) then return redis.error_reply('FENCED ' .. newest) end
local sitting = ARGV[3]
if redis.call('HEXISTS', KEYS[5], sitting) == 0 then
  if redis.call('HLEN', KEYS[5]) >= tonumber(ARGV[5]) then redis.call('DEL', KEYS[5]) end
  redis.call('HSET', KEYS[5], sitting, ARGV[4])
end
local fields = {'sitting', sitting}
for i = 8, #ARGV do fields[#fields + 1] = ARGV[i] end
for i = 8, #ARGV, 2 do
  if ARGV[i] == 'snapshot' then redis.call('SET', KEYS[3], ARGV[i + 1]) end
  if ARGV[i] == 'decision' then redis.call('SET', KEYS[4], ARGV[i + 1]) end
end
if ARGV[7] ~= '' then redis.call('SET', KEYS[6], ARGV[7]) end
local now = redis.call('TIME')
local oldest = tonumber(now[1]) * 1000 + tonumber(now[2]) / 1000 - tonumber(ARGV[6])
if oldest > 0 then redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%.0f', oldest)) end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(fields))
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads, until it runs out."""

    holder: str
    token: int
    """The fencing token; every new leader has a higher one."""

    def __str__(self) -> str:
        """As it stands in the store."""
        return f"{self.token} {self.holder}"


@dataclass(frozen=True, slots=True)
class Renewal:
    """What came of renewing a lease."""

    ours: bool
    newest: int
    """The newest leader's token."""
    standby: bool
    """Whether somebody waits to take over."""


@dataclass(frozen=True)
class Keeping:
    """How much of the stream is kept: whichever ends first. The server trims whole blocks, so a little more stays."""

    ticks: int = 20_000
    """More than a day at one tick in five seconds."""
    bytes: int = 256 << 20
    """Of what entries hold, taking all of them for as long as the newest."""
    age_s: float = 31.0 * DAY_S

    def entries(self, entry: TickEntry) -> int:
        """How many like this one are kept."""
        size = sum(len(name) + len(text) for name, text in entry.fields.items())
        return max(1, min(self.ticks, self.bytes // max(size, 1)))


@dataclass(frozen=True, slots=True)
class TickEntry:
    """What is appended of one tick: JSON texts by name."""

    sitting: str
    """Names what does not change from tick to tick."""
    sitting_json: str
    fields: Mapping[str, str]
    """`snapshot`, `decision`, and what else belongs to the tick."""


class Superseded(RuntimeError):
    """A newer leader has taken over; nothing was appended."""

    def __init__(self, where: str, token: int, newer: int) -> None:
        """`where` names the store; `newer` is the token that leads now."""
        super().__init__(f"{where}: fencing token {newer} leads now, this writer has {token}")
        self.where, self.token, self.newer = where, token, newer


class StoreError(ConnectionError):
    """The store cannot be reached or does not answer in time; the message names it and the operation."""


class Store:
    """A Redis or Valkey that is asked with bounded patience.

    Every operation ends within `timeout_s`, in a result or a StoreError. A store that was gone is reached again by the
    next operation, without any call to reconnect. An append that failed may have been stored all the same, and one
    whose connection broke half-way may be stored twice: readers go by `tick` and `time_s`.
    """

    def __init__(
        self, url: str, *, prefix: str = "poolpilot", keep: Keeping | None = None, timeout_s: float = 1.0
    ) -> None:
        """`url` is like `redis://host:6379/0`; nothing is connected yet. StoreError if it is no such URL."""
        self.prefix = prefix
        self._keep = keep or Keeping()
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

    async def append_tick(self, entry: TickEntry, token: int = 0, handover: str = "") -> str:
        """Append a tick and make it the latest, in one step; returns its id in the stream.

        Args:
            entry: the tick.
            token: the appending leader's fencing token.
            handover: what the next leader is to go on from, in place of what there was; empty leaves that as it is.

        Raises:
            Superseded: a newer leader was elected.
            StoreError: it cannot be reached.
        """
        keys = [self._key("token"), self._key("ticks"), self._latest_key("snapshot"), self._latest_key("decision")]
        keys += [self._key("sittings"), self._key("handover")]
        pairs = [text for pair in entry.fields.items() for text in pair]
        kept, oldest_ms = self._keep.entries(entry), _ms(self._keep.age_s)
        values = [token, kept, entry.sitting, entry.sitting_json, _SITTINGS_KEPT, oldest_ms, handover, *pairs]
        try:
            return str(await self._run("append a tick", _APPEND, keys, values))
        except _Refused as refused:
            raise Superseded(f"store {self._where}", token, refused.newer) from None

    async def acquire(self, holder: str, ttl_s: float, floor: int = 0) -> Lease:
        """The lease as it is now: ours if nobody had it.

        Args:
            holder: a name that nobody else has, without spaces.
            ttl_s: how long it lasts unless it is renewed.
            floor: the highest token that is known of: a new lease has a higher one.
        """
        keys = [self._key("lease"), self._key("token"), self._key("standby")]
        return _lease(await self._run("acquire the lease", _ACQUIRE, keys, [holder, _ms(ttl_s), floor]))

    async def wait_behind(self, holder: str, ttl_s: float) -> Lease | None:
        """Who leads; None if nobody does. The leader is told for `ttl_s` that somebody waits."""
        held = await self._run(
            "look at the lease", _WAIT, [self._key("lease"), self._key("standby")], [holder, _ms(ttl_s)]
        )
        return None if held is None else _lease(held)

    async def renew(self, lease: Lease, ttl_s: float) -> Renewal:
        """Make a lease last for another `ttl_s`, if nobody had another one since."""
        keys = [self._key("lease"), self._key("token"), self._key("standby")]
        ours, more = await self._run("renew the lease", _RENEW, keys, [str(lease), _ms(ttl_s), lease.token])
        return Renewal(bool(ours), newest=lease.token if ours else int(more), standby=bool(ours and more))

    async def release(self, lease: Lease) -> None:
        """Let somebody else lead at once."""
        await self._run("release the lease", _RELEASE, [self._key("lease")], [str(lease)])

    async def leader(self) -> Lease | None:
        """Who leads; None if nobody does."""
        key = self._key("lease")
        async with self._bounded(f"GET {key}"):
            held = await cast("Awaitable[str | None]", self._client.get(key))
        return None if held is None else _lease(held)

    async def handover(self) -> str | None:
        """What the newest tick's leader left to the next one; None before the first."""
        key = self._key("handover")
        async with self._bounded(f"GET {key}"):
            return await cast("Awaitable[str | None]", self._client.get(key))

    async def latest_snapshot(self) -> Snapshot | None:
        """The newest snapshot; None before the first. SchemaError if it is not of this build's schema."""
        return await self._latest("snapshot", Snapshot)

    async def latest_decision(self) -> Decision | None:
        """The newest decision; None before the first. SchemaError if it is not of this build's schema."""
        return await self._latest("decision", Decision)

    async def snapshots(self, count: int, after: str | None = None) -> list[tuple[str, Snapshot]]:
        """`count` snapshots with their ids, oldest first: those following the id `after`, or the newest ones."""
        return [(i, _decode(Snapshot, f.get("snapshot"), w)) for i, w, f in await self._read(count, after)]

    async def decisions(self, count: int, after: str | None = None) -> list[tuple[str, Decision]]:
        """`count` decisions with their ids, oldest first: those following the id `after`, or the newest ones."""
        return [(i, _decode(Decision, f.get("decision"), w)) for i, w, f in await self._read(count, after)]

    async def ticks(self, count: int, after: str | None = None) -> list[tuple[str, TickEntry]]:
        """`count` ticks with their ids, whole: those following the id `after`, or the newest ones, oldest first."""
        found = await self._read(count, after)
        key = self._key("sittings")
        names = sorted({fields.get("sitting", "") for _, _, fields in found})
        async with self._bounded(f"HMGET {key}"):
            texts = await cast("Awaitable[list[str | None]]", self._client.hmget(key, names)) if names else []
        sittings = dict(zip(names, texts, strict=True))
        entries = []
        for entry_id, where, fields in found:
            name = fields.pop("sitting", "")
            if (text := sittings[name]) is None:
                raise SchemaError(f"{where}: its sitting {name!r} is not in {key} any more")
            entries.append((entry_id, TickEntry(name, text, fields)))
        return entries

    async def _latest(self, what: str, kind: type[T]) -> T | None:
        key = self._latest_key(what)
        async with self._bounded(f"GET {key}"):
            text = await cast("Awaitable[str | None]", self._client.get(key))
        return None if text is None else _decode(kind, text, key)

    async def _read(self, count: int, after: str | None) -> list[tuple[str, str, dict[str, str]]]:
        """Id, where it is in words, and fields of ticks, oldest first."""
        stream = self._key("ticks")
        async with self._bounded(f"read {stream}"):
            entries: Any
            if after is None:
                entries = await self._client.xrevrange(stream, count=count)
                entries = entries[::-1]
            else:
                entries = await self._client.xrange(stream, min=f"({after}", count=count)
        return [(entry_id, f"{stream} {entry_id}", fields) for entry_id, fields in entries]

    async def _run(self, operation: str, script: str, keys: list[str], values: list[Any]) -> Any:
        """Run a script of ours inside the server, where nothing comes between its steps."""
        async with self._bounded(operation):
            try:
                return await self._client.eval(script, len(keys), *keys, *values)
            except ResponseError as error:
                if str(error).startswith("FENCED "):
                    raise _Refused(int(str(error).split()[1])) from None
                raise

    def _key(self, what: str) -> str:
        return f"{self.prefix}:{what}"

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


class _Refused(RuntimeError):
    """The server compared tokens, and ours is of the past."""

    def __init__(self, newer: int) -> None:
        super().__init__(newer)
        self.newer = newer


def _lease(held: str) -> Lease:
    token, _, holder = held.partition(" ")
    return Lease(holder, int(token))


def _ms(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000.0))


def _decode(kind: type[T], text: str | None, where: str) -> T:
    try:
        document = json.loads(text or "")
    except ValueError as error:
        raise SchemaError(f"{where}: not JSON ({error})") from None
    return from_json(kind, document, where)
