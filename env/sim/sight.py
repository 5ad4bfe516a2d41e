"""What a controller would see of a batch of clusters. Symbols: `B` clusters, `C` classes, `P` pools, `H` horizons."""

from __future__ import annotations

import numpy as np

from ..contract import POOL_COLUMNS, Cluster, FloatArray, IntArray, Snapshot
from ..coverage import CalibratedRanges, covered_frac
from ..window import class_columns
from .engine_state import PS_PER_S
from .state import Clusters


def snapshot_of(
    every: Clusters,
    cluster: Cluster,
    window_tally: FloatArray,
    window_s: FloatArray,
    forecast_per_s: FloatArray,
    usd_per_hr: FloatArray,
    preemptions_per_hr: FloatArray,
    ranges: CalibratedRanges,
    tick_s: float,
) -> Snapshot:
    """A snapshot `[B, ...]`; padding, and what no request or replica tells, is NaN.

    GPU figures and tokens per second are of the last tick, and unknown before the first.

    Args:
        window_tally: `[B, C, W]` over the last `window_s` `[B]`.
        forecast_per_s: `[B, C, H]`
        usd_per_hr: `[B, P]` now.
        preemptions_per_hr: `[B, P]` what is believed of each pool.
        ranges: `[B, P]` of the believed laws.
    """
    in_flight = every.classes["in_flight"].astype(np.float64)
    pools = every.pools
    ready = pools["seen_ready"].astype(np.float64)
    passed = ~np.isnan(pools["energy_j"])
    busy_ps = pools["useful_ps"] + pools["wasted_ps"]
    loaded_ps = pools["rented_ps"] - pools["start_ps"] - pools["asleep_ps"]
    rented = pools["seen_ready"] + pools["seen_starting"] + pools["seen_draining"] + pools["seen_asleep"]
    kv_used_frac = _ratio(pools["seen_kv_frac"], ready)
    tokens_per_s = np.where(passed, every.pairs["work"].sum(axis=1) / tick_s, np.nan)
    output_per_s = every.pairs["sent"].sum(axis=1) / tick_s
    columns = {
        "ready": ready,
        "starting": pools["seen_starting"],
        "draining": pools["seen_draining"],
        "asleep": pools["seen_asleep"],
        "target": pools["wanted"],
        "batch_cap": pools["cap"],
        "token_budget": pools["token_budget"],
        "running": pools["seen_running"],
        "waiting": pools["seen_waiting"],
        "kv_used_frac": kv_used_frac,
        "gpu_util_frac": _ratio(busy_ps, loaded_ps),
        "gpu_temp_c": np.where(passed, pools["seen_hottest_c"], np.nan),
        "power_w": pools["energy_j"] / tick_s,
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
        "throttled": np.where(passed, _ratio(pools["seen_slow"], rented), np.nan),
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


def _ratio(over: FloatArray | IntArray, under: FloatArray | IntArray) -> FloatArray:
    """NaN where there is nothing to be a share of."""
    ratio: FloatArray = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return ratio
