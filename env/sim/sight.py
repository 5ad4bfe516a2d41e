"""What a controller would see of a batch of clusters. Symbols: `B` clusters, `C` classes, `P` pools, `H` horizons."""

from __future__ import annotations

import numpy as np

from ..contract import POOL_COLUMNS, Cluster, FloatArray, Snapshot
from ..window import class_columns
from .engine_state import PS_PER_S
from .gpus import GpuReadings
from .state import (
    CAP,
    IN_FLIGHT,
    NOW_PS,
    SEEN_DRAINING,
    SEEN_KV,
    SEEN_READY,
    SEEN_RUNNING,
    SEEN_STARTING,
    SEEN_WAITING,
    TOKEN_BUDGET,
    WANTED,
    Clusters,
)


def snapshot_of(
    every: Clusters,
    cluster: Cluster,
    window_tally: FloatArray,
    window_s: FloatArray,
    forecast_per_s: FloatArray,
    readings: GpuReadings,
    usd_per_hr: FloatArray,
    preemptions_per_hr: FloatArray,
    tick_s: float,
) -> Snapshot:
    """A snapshot `[B, ...]`; padding, and what no request or replica tells, is NaN.

    Args:
        window_tally: `[B, C, W]` over the last `window_s` `[B]`.
        forecast_per_s: `[B, C, H]`
        readings: of the last tick, as are the tokens per second.
        usd_per_hr: `[B, P]` now.
        preemptions_per_hr: `[B, P]` what is believed of each pool.
    """
    in_flight = every.classes[..., IN_FLIGHT].astype(np.float64)
    ready = every.sights[..., SEEN_READY]
    columns = {
        "ready": ready,
        "starting": every.sights[..., SEEN_STARTING],
        "draining": every.sights[..., SEEN_DRAINING],
        "asleep": np.zeros_like(ready),
        "target": every.pools[..., WANTED],
        "batch_cap": every.pools[..., CAP],
        "token_budget": every.pools[..., TOKEN_BUDGET],
        "running": every.sights[..., SEEN_RUNNING],
        "waiting": every.sights[..., SEEN_WAITING],
        "kv_used_frac": np.divide(every.sights[..., SEEN_KV], ready, out=np.full_like(ready, np.nan), where=ready > 0),
        "gpu_util_frac": readings.busy_frac,
        "gpu_temp_c": readings.hottest_c,
        "power_w": readings.energy_j / tick_s,
        "usd_per_hr": usd_per_hr,
        "preemptions_per_hr": preemptions_per_hr,
        "cold_start_s": cluster.cold_start_s,
        "tokens_per_s": np.where(np.isnan(readings.energy_j), np.nan, every.work.sum(axis=-1) / tick_s),
        "throttled": readings.throttled_frac,
        "telemetry_age_s": np.zeros_like(ready),
    }
    pools = np.stack([columns[c.name] for c in POOL_COLUMNS], axis=-1).astype(np.float64)
    classes = class_columns(window_tally, window_s, in_flight)
    return Snapshot(
        time_s=every.clock[:, NOW_PS] / PS_PER_S,
        classes=np.where(cluster.class_mask[..., None], classes, np.nan),
        pools=np.where(cluster.pool_mask[..., None], pools, np.nan),
        forecast_per_s=np.where(cluster.class_mask[..., None], forecast_per_s, np.nan),
    )
