"""Arrival rates of real services as a decider sees them, and which part of each may be tuned on.

Symbols: `T` ticks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from poolpilot.env.contract import FloatArray
from poolpilot.env.workload.clients import rates_of_clients
from poolpilot.env.workload.traces import read_trace

TICK_S = 10.0
MINUTE = 6
"""Ticks of a minute, in which forecasts are made and scored."""
DAY = 1440 * MINUTE
SEED = 0

CLUSTERS = {"5 GPUs": 5.0, "20 GPUs": 20.0, "100 GPUs": 100.0}
"""Mean requests per second that a cluster of this size is asked for: about one a GPU, as a 13B chat model has."""


@dataclass(frozen=True)
class Series:
    """One service's arrivals."""

    name: str
    rate_per_s: FloatArray
    """`[T]` one a tick, NaN where the trace has a gap."""
    scored_from: int
    """The tick from which forecasts are scored; what lies before is what the scale of the errors is taken from."""
    tuned_from: int | None = None
    """Settings are chosen on the ticks from here to `scored_from`; None if the trace is never tuned on."""


def all_series(folder: Path) -> list[Series]:
    """Every trace, at every scale that it is used at.

    Raises:
        TraceError: a file is missing or cannot be read.
    """
    return [*drawn_days(folder), *recorded_hours(folder)]


def drawn_days(folder: Path) -> Iterator[Series]:
    """ServeGen's services, drawn from what is published of their clients.

    They are only ever scaled down: a service of a few large clients that is scaled up keeps their jumps and loses the
    noise that hides them.
    """
    for name in ("m_small", "m_large"):
        for cluster, mean_per_s in CLUSTERS.items():
            rates = rates_of_clients(folder / f"servegen_{name}_clients.parquet", mean_per_s, TICK_S, SEED)
            yield Series(f"ServeGen {name.replace('_', '-')}, {cluster}", rates, 5 * DAY, DAY)
    for cluster, mean_per in (("5 GPUs", CLUSTERS["5 GPUs"]), ("own rate", None)):
        rates = rates_of_clients(folder / "servegen_deepseek_r1_clients.parquet", mean_per, TICK_S, SEED)
        yield Series(f"ServeGen deepseek-r1, {cluster}", rates, DAY // 4)


def recorded_hours(folder: Path) -> Iterator[Series]:
    """Arrivals as they were recorded."""
    for name, title in (("azure_llm_2023_conv", "Azure"), ("mooncake_conversation", "Mooncake")):
        arrival_s = read_trace(folder / f"{name}.parquet").arrival_s
        ticks = int(arrival_s[-1] // (MINUTE * TICK_S)) * MINUTE  # the last minute is not a whole one
        counts = np.bincount((arrival_s / TICK_S).astype(np.int64), minlength=ticks)[:ticks]
        yield Series(f"{title} conversation, own rate", counts / TICK_S, 15 * MINUTE)


def rushes(mean_per_s: float, count: int) -> FloatArray:
    """`[T, count]` a made rush: half an hour of quiet, then five times the rate within three and a half minutes."""
    rng = np.random.default_rng(SEED)
    true = mean_per_s * RUSH
    return rng.poisson(true[:, None] * TICK_S, (len(true), count)) / TICK_S


RUSH = np.concatenate([np.full(30 * MINUTE, 0.5), np.linspace(0.5, 2.6, 21), np.full(MINUTE, 2.6)])
"""`[T]` of its mean, tick by tick."""
RUSH_SCORED = slice(30 * MINUTE + 8, 30 * MINUTE + 21)
"""At the end of these ticks a forecast is scored against the true mean of the minute that comes: the load grows."""
