"""Prometheus' HTTP API, read-only: range queries as arrays of numbers.

The same API is offered by Thanos, Mimir, VictoriaMetrics and the clouds' managed services.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from ...env.one_line import one_line
from ..measured import AuditError
from .answers import Series, matrix_of

MAX_ANSWER_BYTES: Final = 256 << 20
AT_ONCE: Final = 4
"""Queries under way: a first look must not be what brings the server down."""
_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Server:
    """Where the API is and how one is let in."""

    url: str
    """As far as `/api/v1` is left out, such as `http://prometheus:9090` or `https://mimir/prometheus`."""
    headers: Mapping[str, str]
    timeout_s: float = 60.0
    """Of one query."""

    @property
    def shown(self) -> str:
        """The address without a password that may stand in it."""
        scheme, sep, rest = self.url.partition("://")
        return f"{scheme}{sep}{rest.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class Window:
    """Which moments are asked for, in the server's own time: every `step_s` from `begin_s` to `end_s`."""

    begin_s: float
    """Unix seconds."""
    end_s: float
    step_s: float

    @property
    def moments(self) -> int:
        """How many."""
        return round((self.end_s - self.begin_s) / self.step_s) + 1


class Client:
    """One server; use as an asynchronous context manager."""

    def __init__(self, server: Server) -> None:
        """Nothing is connected yet."""
        self.server = server
        self._room = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open."""
        timeout = aiohttp.ClientTimeout(total=self.server.timeout_s)
        self._session = aiohttp.ClientSession(headers=dict(self.server.headers), timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self._session.close()

    async def over(self, query: str, window: Window) -> list[Series]:
        """The query at every moment of the window: each series with its labels and `[moments]` values, NaN where it has
        none.

        Raises:
            AuditError: no answer, or none that can be used; one line.
        """
        times = {"start": f"{window.begin_s:.3f}", "end": f"{window.end_s:.3f}", "step": f"{window.step_s:.3f}"}
        data = await self._asked("query_range", {"query": query, **times})
        return matrix_of(data, window.begin_s, window.step_s, window.moments)

    async def at(self, query: str, at_s: float) -> list[Series]:
        """The query at one moment; each series has one value."""
        data = await self._asked("query", {"query": query, "time": f"{at_s:.3f}"})
        return matrix_of(data, at_s, 1.0, 1)

    async def _asked(self, what: str, form: Mapping[str, str]) -> Any:
        url = f"{self.server.url.rstrip('/')}/api/v1/{what}"
        where = f"{self.server.shown}: "
        async with self._room:
            try:
                # As a form: queries over many pools are longer than some proxies take in an address.
                async with self._session.post(url, data=form, allow_redirects=False) as response:
                    status, body = response.status, await _bounded(response, where)
            except TimeoutError:
                raise AuditError(
                    f"{where}no answer within {self.server.timeout_s:g} s to {form['query'][:_SHOWN]!r}; shorten --range,"
                    " or raise --timeout"
                ) from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                words = one_line(str(error) or type(error).__name__)[:_SHOWN]
                raise AuditError(f"{where}no answer: {words}; is this the address of Prometheus' HTTP API?") from None
        return _data_of(body, status, where)


async def _bounded(response: aiohttp.ClientResponse, where: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise AuditError(
                f"{where}answers with more than {MAX_ANSWER_BYTES >> 20} MiB; shorten --range or raise --step"
            )
    return bytes(body)


def _data_of(body: bytes, status: int, where: str) -> Any:
    """The answer's data, whatever the server is."""
    if status in (401, 403):
        raise AuditError(f"{where}HTTP status {status}: not let in; give --token-file or --header")
    if 300 <= status < 400:
        raise AuditError(
            f"{where}HTTP status {status}: sends elsewhere, which a token must not follow; give that address"
        )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or answer.get("status") not in ("success", "error"):
        raise AuditError(f"{where}HTTP status {status} and no answer of Prometheus' HTTP API; is the address right?")
    if answer["status"] == "error":
        raise AuditError(f"{where}{one_line(str(answer.get('error', 'no reason given')))[:_SHOWN]}")
    return answer.get("data")
