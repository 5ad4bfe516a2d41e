"""An admission cap per pool, for engines that take no batch cap while they run: the proxy lets no more requests through.

Envoy's circuit breaker of the pool's cluster counts what is under way there, over all classes, and answers the rest at
once. Its limit is a runtime key, `circuit_breakers.POOL.default.max_requests`: set over the admin interface it holds from
the next request on, where a changed cluster would be built anew with all its health checks. A local rate limit would not
do: it counts requests per second, and a batch is what runs at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import aiohttp

from ..fencing import UNFENCED, Fence
from .envoy_config import RoutingTable

RETRY_AFTER_S: Final = 1
"""What a request beyond a cap is told to wait: a place is free again as soon as any answer ends."""
LAYER: Final = "admission"
"""Envoy's runtime layer that the admin interface writes to."""
RUNTIME: Final = {"layers": [{"name": LAYER, "admin_layer": {}}]}
"""Of the bootstrap."""


def _come_back(flag: str, message: str, **status: int) -> dict[str, Any]:
    """What is answered instead of Envoy's own words where it says `flag` in its log."""
    return {
        "filter": {"response_flag_filter": {"flags": [flag]}},
        **status,
        "headers_to_add": [
            {
                "header": {"key": "retry-after", "value": str(RETRY_AFTER_S)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "body_format_override": {
            "json_format": {
                "error": {"type": "overloaded", "message": f"{message}; retry after {RETRY_AFTER_S} s"},
            }
        },
    }


OVERFLOW_REPLY: Final[dict[str, Any]] = {
    "mappers": [
        # Envoy's own answer is a 503, which says that something is broken; being full is nothing of the kind.
        _come_back("UO", "the pool is full", status_code=429),
        # None passes its health check: busy beyond measure, or gone. The next look is half a second away.
        _come_back("UH", "no replica is well"),
    ]
}
"""Of the connection manager: what a request is answered for which there is no place, or nobody."""
_PATIENCE_S: Final = 5.0


class AdmissionError(RuntimeError):
    """Envoy did not take the caps; the message says what it answered."""


class Routing(Protocol):
    """Whoever makes the proxy follow a table."""

    async def apply(self, table: RoutingTable) -> object:
        """Make the proxy run `table`; an exception says why it does not."""
        ...


class CappedRouting:
    """Routing, and after it the admission caps that a table holds."""

    def __init__(self, routing: Routing, admin_url: str, fence: Fence = UNFENCED) -> None:
        """`admin_url` is of the Envoy that `routing` steers; `fence` keeps leaders of the past from capping it."""
        self._routing, self._admin_url, self._fence = routing, admin_url, fence
        self._may_hold_some = True  # those of a sidecar before this one

    async def apply(self, table: RoutingTable) -> object:
        """Make the proxy run `table` with its caps.

        Raises:
            AdmissionError: routing is as wanted, the caps are not.
            Exception: whatever routing raises; the caps stay as they are.
        """
        done = await self._routing.apply(table)
        most = {pool.name: pool.max_requests for pool in table.pools}
        some = any(count is not None for count in most.values())
        if some or self._may_hold_some:
            limit = aiohttp.ClientTimeout(total=_PATIENCE_S)
            try:
                async with aiohttp.ClientSession(timeout=limit) as admin:
                    await cap_admission(admin, self._admin_url, most, self._fence)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                raise AdmissionError(f"Envoy's admin interface at {self._admin_url}: {error!r}") from error
        self._may_hold_some = some
        return done


async def cap_admission(
    admin: aiohttp.ClientSession, admin_url: str, most: Mapping[str, int | None], fence: Fence = UNFENCED
) -> tuple[str, ...]:
    """Bring the caps of pools to `most` requests under way at a time (None: no cap); the pools that this changed.

    Raises:
        Fenced: a newer leader took over.
        AdmissionError: Envoy's runtime does not show them afterwards.
        aiohttp.ClientError, TimeoutError: the admin interface does not answer.
    """
    present = await _present(admin, admin_url)
    wanted = {key_of(pool): "" if count is None else str(count) for pool, count in most.items()}
    different = {key: value for key, value in wanted.items() if present.get(key, "") != value}
    if not different:
        return ()
    fence.check()
    async with admin.post(f"{admin_url}/runtime_modify", params=different) as answer:
        said = await answer.text()
        if answer.status != 200:
            raise AdmissionError(f"{admin_url}/runtime_modify: {answer.status} {said.strip()[:200]}")
    after = await _present(admin, admin_url)
    missed = [key for key, value in different.items() if after.get(key, "") != value]
    if missed:
        raise AdmissionError(
            f"{admin_url}/runtime: {missed[0]} is {after.get(missed[0], 'not there')} after it was set"
        )
    return tuple(pool for pool in most if key_of(pool) in different)


async def _present(admin: aiohttp.ClientSession, admin_url: str) -> dict[str, str]:
    """What the runtime layer holds; an empty value is one that was taken back."""
    async with admin.get(f"{admin_url}/runtime", params={"format": "json"}) as answer:
        answer.raise_for_status()
        document = await answer.json(content_type=None)
    layer = document["layers"].index(LAYER) if LAYER in document["layers"] else None
    if layer is None:
        raise AdmissionError(f"{admin_url}/runtime: no layer {LAYER!r}; was this Envoy started with our bootstrap?")
    return {name: str(entry["layer_values"][layer]) for name, entry in document["entries"].items()}


def key_of(pool: str) -> str:
    return f"circuit_breakers.{pool}.default.max_requests"
