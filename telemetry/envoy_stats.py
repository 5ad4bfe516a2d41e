"""What Envoy itself counts of each pool, from the Prometheus page of its admin interface.

The access log tells of requests; this page tells which replicas Envoy takes for healthy, and what it had to do to get
requests answered: retries, refusals for want of room, replicas set aside.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import aiohttp

from .fetching import page_or_why
from .metrics_page import PageError, Place, Samples, lines_of, number, read_samples

_POOL_LABEL: Final = "envoy_cluster_name"
_PREFIX: Final = "envoy_cluster_"


@dataclass(frozen=True, slots=True)
class PoolProxyStats:
    """One pool as Envoy sees it; NaN where the page lacks a figure."""

    endpoints: float
    """Replicas it knows."""
    healthy: float
    """Of these, those that it sends requests to."""
    ejected: float
    """Set aside by outlier detection."""
    active: float
    """Requests at replicas."""
    pending: float
    """Requests that wait for a connection."""
    requests_total: float
    """Handed to replicas, retries included."""
    retries_total: float
    overflows_total: float
    """Refused because a circuit breaker was full."""
    timeouts_total: float
    connect_failures_total: float
    resets_total: float
    """Requests that a replica broke off."""


_FIGURES: Final = {
    "endpoints": "membership_total",
    "healthy": "membership_healthy",
    "ejected": "outlier_detection_ejections_active",
    "active": "upstream_rq_active",
    "pending": "upstream_rq_pending_active",
    "requests_total": "upstream_rq_total",
    "retries_total": "upstream_rq_retry",
    "overflows_total": "upstream_rq_pending_overflow",
    "timeouts_total": "upstream_rq_timeout",
    "connect_failures_total": "upstream_cx_connect_fail",
    "resets_total": "upstream_rq_rx_reset",
}
_LINES: Final = lines_of(_PREFIX + name for name in _FIGURES.values())
# Of the thousand families of a page only these; Envoy matches a name as it was before it became Prometheus's.
_ONLY: Final = quote(rf"^cluster\..*\.({'|'.join(_FIGURES.values())})$", safe="")
STATS_PATH: Final = f"/stats/prometheus?filter={_ONLY}"
"""Below the address of the admin interface."""


def parse_envoy_stats(text: str, pools: Sequence[str], source: str) -> Mapping[str, PoolProxyStats]:
    """The pools' figures; pools that Envoy does not know are left out.

    Raises:
        PageError: the page is cut off, is no Envoy's, or has a value that cannot be.
    """
    found = read_samples(text, _LINES, source)
    if not found:
        raise PageError(
            f"{source}: no {_PREFIX}membership_total; looked for the figures of {', '.join(pools)} in "
            f"{text.count(chr(10))} lines; is this an Envoy's /stats/prometheus?"
        )
    by_pool = {pool: _figures(found, pool, source) for pool in pools}
    return {pool: stats for pool, stats in by_pool.items() if not math.isnan(stats.endpoints)}


def _figures(found: Samples, pool: str, source: str) -> PoolProxyStats:
    def told(name: str) -> float:
        samples = Place(_PREFIX + name, {_POOL_LABEL: pool}).of(found)
        return math.fsum(number(s, 1e18, source) for s in samples) if samples else math.nan

    return PoolProxyStats(**{field: told(name) for field, name in _FIGURES.items()})


class EnvoyStats:
    """Asks one Envoy at each tick."""

    def __init__(
        self, session: aiohttp.ClientSession, admin_url: Callable[[], str], pools: Sequence[str], timeout_s: float = 1.0
    ) -> None:
        """`admin_url` is asked each time: an Envoy that was started again has another one."""
        self._session, self._admin_url, self._pools, self._timeout_s = session, admin_url, tuple(pools), timeout_s

    async def collect(self) -> Mapping[str, PoolProxyStats]:
        """The pools' figures now.

        Raises:
            PageError: no page, or none that can be used.
        """
        admin = self._admin_url()
        try:
            async with asyncio.timeout(self._timeout_s):
                text = await page_or_why(self._session, admin + STATS_PATH)
        except TimeoutError:
            raise PageError(f"{admin}/stats/prometheus: no page within {self._timeout_s:g} s") from None
        return parse_envoy_stats(text, self._pools, f"{admin}/stats/prometheus")
