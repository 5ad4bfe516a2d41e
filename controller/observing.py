"""The eyes of the sidecar: log, metrics pages and replica states of a tick, as one Snapshot and one Bill.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from ..env import forecast
from ..env.beliefs import believed_preemptions_per_hr, believed_ranges
from ..env.contract import Bill, Cluster, FloatArray, ScalingCost, Snapshot
from ..env.ledger import ScalingSeconds, charge, charge_scaling
from ..env.scenario import Scenario
from ..env.window import ARRIVED
from ..telemetry.assemble import Measured, PoolState, assemble
from ..telemetry.engine_collector import EngineCollector, ReplicaEndpoint
from ..telemetry.envoy_log import LogRecord, LogTail, StartRecord
from ..telemetry.envoy_stats import EnvoyStats, PoolProxyStats
from ..telemetry.gpu_collector import GpuCollector
from ..telemetry.gpu_readings import PoolGpus
from ..telemetry.log_sources import OneLog
from ..telemetry.metering import Used, busy_share, meter, nothing_known, scaling_seconds
from ..telemetry.metrics_page import PageError
from ..telemetry.prices import PriceBook, Prices
from ..telemetry.readings import ReplicaReading
from ..telemetry.sources import Silence, SourceStates, source_states
from ..telemetry.tally import ClassWindow, TickTally, tally
from .health import Health, of_sight

WINDOW_S = 60.0
"""Length of the sliding window of per-class figures, in the decider's seconds; the simulator's is the same."""
PRICES_PATIENCE_S = 0.2
"""Seconds of the wall that a tick waits for a file of prices that changed; a large one counts at the next tick."""


@dataclass(frozen=True)
class ReplicaUse:
    """Replica-seconds of one pool so far, in the decider's seconds."""

    up_s: float
    """Ready or draining."""
    starting_s: float
    draining_s: float
    """Of `up_s`."""
    asleep_s: float = 0.0


@dataclass(frozen=True)
class Observation:
    """Everything seen at one tick."""

    snapshot: Snapshot
    bill: Bill
    """`[P, C, L]` of the time since the tick before."""
    scaling: tuple[ScalingCost, ...]
    """What of it scaling took, by decision; NaN where the pool's split is unknown."""
    tick: TickTally
    readings: tuple[ReplicaReading, ...]
    broken_log_lines: int
    prices: Prices
    proxy: Mapping[str, PoolProxyStats]
    """By pool; empty where the proxy was not asked, or did not say."""
    sources: SourceStates
    """Which source told what it should, and what the others lack."""
    span_s: float = 0.0
    """The decider's seconds that bill and requests are of: since the observation before; 0 of a sitting's first."""
    log_age_s: float = 0.0
    """Since the access log could last be read, or since it was first looked for."""
    log_trouble: str = ""
    """What was looked for and where, if it could not be read now."""

    def health(self, stale_after_s: float) -> Health:
        """What could not be seen, in words; telemetry that is older than `stale_after_s` counts as none."""
        return of_sight(self.snapshot, self.log_trouble, self.log_age_s, self.sources.troubles, stale_after_s)


@dataclass(frozen=True)
class MoreSources:
    """What is asked beside access log and engines; what is left out is not asked."""

    gpus: GpuCollector | None = None
    proxy: EnvoyStats | None = None


def more_sources(
    scenario: Scenario, session: aiohttp.ClientSession, clock: Callable[[], float], admin_url: Callable[[], str]
) -> MoreSources:
    """What a scenario's pools name, and the Envoy whose admin interface is at `admin_url`."""
    own = {name: pool.gpu_metrics for name, pool in scenario.pools.items() if pool.gpu_metrics is not None}
    gpus = GpuCollector(session, clock, own, scenario.guard.stale_after_s) if own else None
    return MoreSources(gpus, EnvoyStats(session, admin_url, scenario.pool_names))


class Observer:
    """Collects, and hands what it got to pure functions."""

    def __init__(
        self,
        scenario: Scenario,
        log: LogTail | OneLog,
        collector: EngineCollector,
        speed_up: float,
        more: MoreSources | None = None,
    ) -> None:
        """`speed_up` is how many of the decider's seconds pass in a second of the wall.

        Raises:
            SeriesError: a price series of the scenario cannot be used.
        """
        self.cluster: Cluster = scenario.cluster()
        self._scenario, self._log, self._collector, self._speed_up = scenario, log, collector, speed_up
        self._window = ClassWindow(WINDOW_S)
        self._forecast = forecast.start(len(self.cluster.class_names))
        self._open: Mapping[str, StartRecord] = {}
        self._busy = nothing_known(len(self.cluster.pool_names))
        self._used_before: Mapping[str, ReplicaUse] = {}
        self._seen_at_s = math.nan
        self._log_read_at_s = self._proxy_read_at_s = math.nan
        self._tariff = scenario.tariff()
        self._ranges = believed_ranges(scenario)
        self._preemptions_per_hr = believed_preemptions_per_hr(scenario)
        self._more = more or MoreSources()
        self._prices = PriceBook(scenario, time.time)

    async def observe(
        self,
        now_s: float,
        replicas: Sequence[ReplicaEndpoint],
        states: Mapping[str, PoolState],
        used: Mapping[str, ReplicaUse],
        caused: ScalingSeconds,
        route: FloatArray,
    ) -> Observation:
        """What is to be seen at `now_s`.

        Args:
            replicas: whose pages to read.
            states: of the pools, as the process actuator says.
            used: replica-seconds so far.
            caused: replica-seconds since the tick before that scaling took, by decision; draining counts whole.
            route: `[C, P]` that was in force since the tick before.
        """
        readings, gpus, (proxy, proxy_error), prices = await asyncio.gather(
            self._collector.collect(replicas),
            self._gpus(),
            self._proxy(),
            self._prices.now(now_s, patience_s=PRICES_PATIENCE_S),
        )
        span_s = 0.0 if math.isnan(self._seen_at_s) else max(now_s - self._seen_at_s, 0.0)
        tick, trouble = self._count()
        if math.isnan(self._log_read_at_s) or not trouble:
            self._log_read_at_s = now_s
        if span_s > 0 and not trouble:
            self._window = self._window.pushed(now_s, span_s, tick)
            self._forecast = forecast.observe(self._forecast, tick.counts[:, ARRIVED] / span_s, span_s)
        self._seen_at_s = now_s
        measured = Measured(
            time_s=now_s,
            window=self._window,
            readings=readings,
            pools=states,
            usd_per_hr=prices.usd_per_hr,
            cold_start_s=self.cluster.cold_start_s,
            preemptions_per_hr=self._preemptions_per_hr,
            forecast=self._forecast,
            ranges=self._ranges,
            gpus=gpus,
        )
        snapshot = assemble(self.cluster, measured, self._scenario.guard.stale_after_s)
        amounts = self._used(span_s, prices, readings, used, caused, route, tick, snapshot)
        bill = charge(meter(amounts, self._tariff), self._tariff)
        scaling = charge_scaling(scaling_seconds(amounts), amounts.usd_per_hr).rows(self.cluster.pool_names)
        if math.isnan(self._proxy_read_at_s) or not proxy_error:
            self._proxy_read_at_s = now_s
        sources = source_states(
            readings,
            gpus,
            prices,
            Silence(proxy_error, now_s - self._proxy_read_at_s),
            Silence(trouble, now_s - self._log_read_at_s),
            self._scenario.guard.stale_after_s,
        )
        return Observation(
            snapshot,
            bill,
            scaling,
            tick,
            readings,
            self._log.broken_lines,
            prices,
            proxy,
            sources,
            span_s=span_s,
            log_age_s=now_s - self._log_read_at_s,
            log_trouble=trouble,
        )

    async def _gpus(self) -> Mapping[str, PoolGpus]:
        return {} if self._more.gpus is None else await self._more.gpus.collect()

    async def _proxy(self) -> tuple[Mapping[str, PoolProxyStats], str]:
        """What the proxy counts, and why it does not say (empty: it does, or is not asked)."""
        if self._more.proxy is None:
            return {}, ""
        try:
            return await self._more.proxy.collect(), ""
        except PageError as error:
            return {}, str(error)

    def _count(self) -> tuple[TickTally, str]:
        """What the log holds since the last look, and why it could not be read."""
        trouble = self._log.absent()
        records: tuple[LogRecord, ...] = ()
        try:
            records = self._log.read()
        except OSError as error:
            trouble = f"{self._log.path}: {error.strerror or error}; wanted Envoy's log of requests"
        counted = tally(records, self._open, self.cluster, time.time(), self._speed_up)
        self._open = counted.open_requests
        return counted, trouble

    def _used(
        self,
        span_s: float,
        prices: Prices,
        readings: Sequence[ReplicaReading],
        used: Mapping[str, ReplicaUse],
        caused: ScalingSeconds,
        route: FloatArray,
        tick: TickTally,
        snapshot: Snapshot,
    ) -> Used:
        self._busy = busy_share(self.cluster, readings, self._busy, snapshot.gpu_util_frac)
        nothing = ReplicaUse(0.0, 0.0, 0.0)
        names = self.cluster.pool_names
        since = [(used.get(name, nothing), self._used_before.get(name, nothing)) for name in names]
        self._used_before = dict(used)
        power_w = np.where(snapshot.known("power_w"), snapshot.power_w, np.nan)
        return Used(
            span_s=span_s,
            usd_per_hr=prices.usd_per_hr,
            up_s=np.array([now.up_s - before.up_s for now, before in since]),
            starting_s=np.array([now.starting_s - before.starting_s for now, before in since]),
            draining_s=np.array([now.draining_s - before.draining_s for now, before in since]),
            asleep_s=np.array([now.asleep_s - before.asleep_s for now, before in since]),
            busy=self._busy,
            power_w=power_w,
            route=route,
            tick=tick,
            caused=caused,
        )
