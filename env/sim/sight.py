"""What a controller would see of a batch of clusters. Symbols: `B` clusters, `C` classes, `P` pools, `H` horizons."""

from __future__ import annotations

import numpy as np

from ..contract import POOL_COLUMNS, Cluster, FloatArray, Snapshot
from ..coverage import CalibratedRanges, covered_frac
from ..window import class_columns
from .engine_state import PS_PER_S
from .gpus import GpuReadings
from .state import Clusters


def snapshot_of(
    every: Clusters,
    cluster: Cluster,
    window_tally: FloatArray,
    window_s: FloatArray,
    forecast_per_s: FloatArray,
    readings: GpuReadings,
    usd_per_hr: FloatArray,
    preemptions_per_hr: FloatArray,
    ranges: CalibratedRanges,
    tick_s: float,
) -> Snapshot:
    """A snapshot `[B, ...]`; padding, and what no request or replica tells, is NaN.

    Args:
        window_tally: `[B, C, W]` over the last `window_s` `[B]`.
        forecast_per_s: `[B, C, H]`
        readings: of the last tick, as are the tokens per second.
        usd_per_hr: `[B, P]` now.
        preemptions_per_hr: `[B, P]` what is believed of each pool.
        ranges: `[B, P]` of the believed laws.
    """
    in_flight = every.classes["in_flight"].astype(np.float64)
    pools = every.pools
    ready = pools["seen_ready"].astype(np.float64)
    kv_used_frac = np.divide(pools["seen_kv_frac"], ready, out=np.full_like(ready, np.nan), where=ready > 0)
    tokens_per_s = np.where(np.isnan(readings.energy_j), np.nan, every.pairs["work"].sum(axis=1) / tick_s)
    output_per_s = every.pairs["sent"].sum(axis=1) / tick_s
    columns = {
        "ready": ready,
        "starting": pools["seen_starting"],
        "draining": pools["seen_draining"],
        "asleep": np.zeros_like(ready),
        "target": pools["wanted"],
        "batch_cap": pools["cap"],
        "token_budget": pools["token_budget"],
        "running": pools["seen_running"],
        "waiting": pools["seen_waiting"],
        "kv_used_frac": kv_used_frac,
        "gpu_util_frac": readings.busy_frac,
        "gpu_temp_c": readings.hottest_c,
        "power_w": readings.energy_j / tick_s,
        "usd_per_hr": usd_per_hr,
        "preemptions_per_hr": preemptions_per_hr,
        "cold_start_s": cluster.cold_start_s,
        "tokens_per_s": tokens_per_s,
        "coverage_frac": covered_frac(
            ranges,
            replicas=ready + pools["seen_draining"],
            running=pools["seen_running"].astype(np.float64),
            kv_used_frac=kv_used_frac,
            token_budget=pools["token_budget"].astype(np.float64),
            prompt_tokens_per_s=np.maximum(tokens_per_s - output_per_s, 0.0),
            output_tokens_per_s=output_per_s,
        ),
        "throttled": readings.throttled_frac,
        "telemetry_age_s": np.zeros_like(ready),
    }
    pool_block = np.stack([columns[c.name] for c in POOL_COLUMNS], axis=-1).astype(np.float64)
    classes = class_columns(window_tally, window_s, in_flight)
    return Snapshot(
        time_s=every.clock["now_ps"][:, 0] / PS_PER_S,
        classes=np.where(cluster.class_mask[..., None], classes, np.nan),
        pools=np.where(cluster.pool_mask[..., None], pool_block, np.nan),
        forecast_per_s=np.where(cluster.class_mask[..., None], forecast_per_s, np.nan),
    )
