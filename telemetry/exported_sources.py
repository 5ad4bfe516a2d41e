"""Where figures came from, as part of the sidecar's metrics page: sources that failed, prices' ages, Envoy's counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from ..env.contract import Cluster
from ..env.window import ARRIVED, FINISHED, LOST, MET, SHED
from .envoy_stats import PoolProxyStats
from .exported_snapshot import set_each
from .prices import Prices
from .sources import SOURCES, SourceStates
from .tally import TickTally

ENDPOINT_STATES: Final = {"known": "endpoints", "healthy": "healthy", "ejected": "ejected"}
PROXY_EVENTS: Final = {
    "request": "requests_total",
    "retry": "retries_total",
    "overflow": "overflows_total",
    "timeout": "timeouts_total",
    "connect_failure": "connect_failures_total",
    "reset": "resets_total",
}
OUTCOMES: Final = ("met", "late", "lost", "shed")


class SourceMetrics:
    """Counters add up since the sidecar's start, over restarts of Envoy too."""

    def __init__(self, cluster: Cluster, registry: CollectorRegistry) -> None:
        """What counts begins at 0."""
        self._classes, self._pools = cluster.class_names, cluster.pool_names
        self._asked = Counter("poolpilot_source_reads", "Pages and files wanted", ("source",), registry=registry)
        self._errors = Counter("poolpilot_source_errors", "Of these, what did not come", ("source",), registry=registry)
        self._broken = Counter("poolpilot_access_log_broken_lines", "Lines that could not be read", registry=registry)
        self._troubles = Gauge("poolpilot_source_troubles", "Sources that told nothing for too long", registry=registry)
        self._price_age = Gauge("poolpilot_price_age_seconds", "Age of a followed price", ("pool",), registry=registry)
        self._endpoints = Gauge(
            "poolpilot_proxy_endpoints", "Replicas as Envoy sees them", ("pool", "state"), registry=registry
        )
        self._events = Counter("poolpilot_proxy_events", "Envoy's counts", ("pool", "event"), registry=registry)
        self._arrived = Counter("poolpilot_requests_arrived", "Requests that arrived", ("class",), registry=registry)
        self._requests = Counter(
            "poolpilot_requests", "Requests that ended, by what became of them", ("class", "outcome"), registry=registry
        )
        self._seen: dict[tuple[str, str], float] = {}
        self._seen_broken = 0
        self._begin()

    def show(
        self,
        sources: SourceStates,
        prices: Prices,
        proxy: Mapping[str, PoolProxyStats],
        broken_log_lines: int,
    ) -> None:
        """What a tick's sources told; `broken_log_lines` as counted since the log was opened."""
        for source in SOURCES:
            self._asked.labels(source).inc(sources.asked[source])
            self._errors.labels(source).inc(sources.failed[source])
        self._troubles.set(len(sources.troubles))
        self._broken.inc(max(broken_log_lines - self._seen_broken, 0))
        self._seen_broken = broken_log_lines
        set_each(self._price_age, self._pools, prices.age_s)
        for pool in self._pools:
            self._show_proxy(pool, proxy.get(pool))

    def add_requests(self, tick: TickTally) -> None:
        """The requests of one tick."""
        for name, counts in zip(self._classes, tick.counts, strict=True):
            self._arrived.labels(name).inc(float(counts[ARRIVED]))
            late = counts[FINISHED] - counts[MET]
            for outcome, count in zip(OUTCOMES, (counts[MET], late, counts[LOST], counts[SHED]), strict=True):
                self._requests.labels(name, outcome).inc(max(float(count), 0.0))

    def _show_proxy(self, pool: str, stats: PoolProxyStats | None) -> None:
        for state, field in ENDPOINT_STATES.items():
            self._endpoints.labels(pool, state).set(math.nan if stats is None else getattr(stats, field))
        if stats is None:
            return
        for event, field in PROXY_EVENTS.items():
            total = getattr(stats, field)
            if not math.isnan(total):
                before = self._seen.get((pool, event), 0.0)
                # An Envoy that was started again counts from 0: all that it counted is new.
                self._events.labels(pool, event).inc(total - before if total >= before else total)
                self._seen[pool, event] = total

    def _begin(self) -> None:
        for source in SOURCES:
            self._asked.labels(source)
            self._errors.labels(source)
        for name in self._classes:
            self._arrived.labels(name)
            for outcome in OUTCOMES:
                self._requests.labels(name, outcome)
        for pool in self._pools:
            for event in PROXY_EVENTS:
                self._events.labels(pool, event)
