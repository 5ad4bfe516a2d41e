"""Which sources of telemetry told what they should at a tick, and what the others lack. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .gpu_readings import PoolGpus
from .prices import Prices
from .readings import ReplicaReading

ENGINES: Final = "engines"
GPUS: Final = "gpus"
PRICES: Final = "prices"
PROXY: Final = "proxy"
ACCESS_LOG: Final = "access_log"
SOURCES: Final = (ENGINES, GPUS, PRICES, PROXY, ACCESS_LOG)


@dataclass(frozen=True, slots=True)
class Silence:
    """Why a source that is one whole did not tell, and for how long it has not. Empty: it told, or was not asked."""

    why: str = ""
    age_s: float = 0.0
    """The decider's seconds."""


@dataclass(frozen=True)
class SourceStates:
    """What was asked at a tick, and what came."""

    asked: Mapping[str, int]
    """By source: how many pages, readings or files were wanted."""
    failed: Mapping[str, int]
    """By source: how many of them did not come."""
    troubles: tuple[str, ...]
    """What has been missing for longer than it may, in words: what was looked for, where, and why it did not come."""


def source_states(
    readings: Sequence[ReplicaReading],
    gpus: Mapping[str, PoolGpus],
    prices: Prices,
    proxy: Silence,
    access_log: Silence,
    stale_after_s: float,
) -> SourceStates:
    """The states of a tick.

    One page that is missing once is counted. It is a trouble when nothing fresh is known of a whole pool.

    Args:
        readings: of all engines.
        gpus: by pool.
        prices: of all pools.
        proxy: of the proxy's own page.
        access_log: of the record of requests; whoever reads it names its troubles.
        stale_after_s: older telemetry counts as none.
    """
    feeds = sum(not math.isnan(age_s) for age_s in prices.age_s)
    asked = {ENGINES: len(readings), GPUS: len(gpus), PRICES: max(feeds, len(prices.troubles))}
    asked |= {PROXY: 1, ACCESS_LOG: 1}
    failed = {
        ENGINES: sum(bool(r.error) for r in readings),
        GPUS: sum(bool(pool.errors) for pool in gpus.values()),
        PRICES: len(prices.troubles),
        PROXY: int(bool(proxy.why)),
        ACCESS_LOG: int(bool(access_log.why)),
    }
    troubles = [*_silent_pools(readings, stale_after_s), *_silent_gpus(gpus, stale_after_s), *prices.troubles]
    if proxy.why and proxy.age_s > stale_after_s:
        troubles.append(f"proxy: {proxy.why}")
    return SourceStates(asked, failed, tuple(troubles))


def _silent_pools(readings: Sequence[ReplicaReading], stale_after_s: float) -> list[str]:
    troubles = []
    for pool in dict.fromkeys(r.pool for r in readings):
        own = [r for r in readings if r.pool == pool]
        newest = min(own, key=lambda r: r.age_s)
        if newest.age_s > stale_after_s:
            troubles.append(
                f"telemetry of {pool}: nothing for {newest.age_s:.0f} s from any of its {len(own)} replicas; {newest.error}"
            )
    return troubles


def _silent_gpus(gpus: Mapping[str, PoolGpus], stale_after_s: float) -> list[str]:
    return [
        f"GPUs of {pool}: {'; '.join(found.errors)}"
        for pool, found in gpus.items()
        if found.errors and found.age_s > stale_after_s
    ]
