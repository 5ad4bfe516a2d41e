"""What a controller would see of a batch of clusters.

Symbols: `B` clusters, `C` classes, `P` pools, `H` horizons, `W` tally width, `V` window width, `K` ticks of the window.
"""

from __future__ import annotations

from math import exp, nan, sqrt

import numpy as np

from ..contract import CLASS_COLUMNS, POOL_COLUMNS, BoolArray, Cluster, FloatArray, IntArray, Snapshot
from ..coverage import CalibratedRanges, covered_frac
from ..window import (
    ARRIVED,
    BUCKET_LOW_S,
    BUCKETS_PER_E,
    FINISHED,
    LOST,
    MET,
    N_BUCKETS,
    OUTPUT_SQUARES,
    OUTPUT_SUM,
    PROMPT_SQUARES,
    PROMPT_SUM,
    SHED,
    TPOT,
    TTFT,
)
from .compiling import outer
from .engine_state import PS_PER_S, compiled
from .state import Clusters

_PLACE = {column.name: column.index for column in CLASS_COLUMNS}
_RATE, _IN_FLIGHT, _ATTAINMENT, _SHED = (
    _PLACE[name] for name in ("arrival_rate_per_s", "in_flight", "attainment", "shed_per_s")
)
_PROMPT, _PROMPT_STD, _OUTPUT, _OUTPUT_STD = (
    _PLACE[f"{what}_tokens_{how}"] for what in ("prompt", "output") for how in ("mean", "std")
)
_TTFT_P50, _TTFT_P95, _TPOT_P50, _TPOT_P95 = (
    _PLACE[f"{what}_{share}_s"] for what in ("ttft", "tpot") for share in ("p50", "p95")
)


@outer
def remember_some(tally: FloatArray, recent: FloatArray, window: FloatArray, first: int, last: int) -> None:
    """Slide the window of clusters `first` to `last` - 1 by a tick: `tally` `[B, C, W]` in, the oldest out.

    Args:
        recent: `[B, C, V]` the window's oldest tick, replaced by the tally's first columns.
        window: `[B, C, V]` sum of the window's ticks.
    """
    for b in range(first, last):
        for c in range(tally.shape[1]):
            for i in range(window.shape[2]):
                fresh = tally[b, c, i]
                window[b, c, i] += fresh - recent[b, c, i]
                recent[b, c, i] = fresh


@outer
def see_classes(
    window: FloatArray, window_s: FloatArray, in_flight: FloatArray, mask: BoolArray, columns: FloatArray
) -> None:
    """`window.class_columns` into `columns` `[B, C, len(CLASS_COLUMNS)]`; NaN where `mask` is False."""
    for b in range(len(columns)):
        for c in range(columns.shape[1]):
            row, seen = columns[b, c], window[b, c]
            if not mask[b, c]:
                for i in range(len(row)):
                    row[i] = nan
                continue
            finished, done = seen[FINISHED], seen[FINISHED] + seen[LOST]
            row[_RATE] = seen[ARRIVED] / window_s[b] if window_s[b] > 0.0 else nan
            row[_SHED] = seen[SHED] / window_s[b] if window_s[b] > 0.0 else nan
            row[_IN_FLIGHT] = in_flight[b, c]
            row[_ATTAINMENT] = seen[MET] / done if done > 0.0 else nan
            row[_PROMPT] = seen[PROMPT_SUM] / finished if finished > 0.0 else nan
            row[_OUTPUT] = seen[OUTPUT_SUM] / finished if finished > 0.0 else nan
            row[_PROMPT_STD] = _spread(seen[PROMPT_SQUARES], finished, row[_PROMPT])
            row[_OUTPUT_STD] = _spread(seen[OUTPUT_SQUARES], finished, row[_OUTPUT])
            row[_TTFT_P50], row[_TTFT_P95] = _percentiles_s(seen, TTFT)
            row[_TPOT_P50], row[_TPOT_P95] = _percentiles_s(seen, TPOT)


@compiled
def _spread(squares: float, count: float, mean: float) -> float:
    return sqrt(max(squares / count - mean**2, 0.0)) if count > 0.0 else nan


@compiled
def _percentiles_s(tally: FloatArray, start: int) -> tuple[float, float]:
    """Median and 95th percentile of the bucket counts from `start` on, as `window.percentile_s`."""
    total = 0.0
    for i in range(N_BUCKETS):
        total += tally[start + i]
    if total <= 0.0:
        return nan, nan
    bucket, cumulated = 0, tally[start]
    while cumulated < 0.5 * total and bucket < N_BUCKETS - 1:
        bucket += 1
        cumulated += tally[start + bucket]
    median_s = _inside_s(tally[start + bucket], cumulated, 0.5 * total, bucket)
    while cumulated < 0.95 * total and bucket < N_BUCKETS - 1:
        bucket += 1
        cumulated += tally[start + bucket]
    return median_s, _inside_s(tally[start + bucket], cumulated, 0.95 * total, bucket)


@compiled
def _inside_s(inside: float, cumulated: float, wanted: float, bucket: int) -> float:
    fraction = (wanted - (cumulated - inside)) / inside if inside > 0.0 else 0.5
    return BUCKET_LOW_S * exp((bucket + fraction) / BUCKETS_PER_E)


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
        window_tally: `[B, C, V]` over the last `window_s` `[B]`.
        forecast_per_s: `[B, C, H]`
        usd_per_hr: `[B, P]` now.
        preemptions_per_hr: `[B, P]` what is believed of each pool.
        ranges: `[B, P]` of the believed laws.
    """
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
    pool_block = np.empty((*pools.shape, len(POOL_COLUMNS)))
    for column in POOL_COLUMNS:
        pool_block[..., column.index] = columns[column.name]
    pool_block[~cluster.pool_mask] = np.nan
    in_flight = every.classes["in_flight"].astype(np.float64)
    classes = np.empty((*in_flight.shape, len(CLASS_COLUMNS)))
    see_classes(window_tally, window_s, in_flight, cluster.class_mask, classes)
    return Snapshot(
        time_s=every.clock["now_ps"][:, 0] / PS_PER_S,
        classes=classes,
        pools=pool_block,
        forecast_per_s=np.where(cluster.class_mask[..., None], forecast_per_s, np.nan),
    )


def _ratio(over: FloatArray | IntArray, under: FloatArray | IntArray) -> FloatArray:
    """NaN where there is nothing to be a share of."""
    ratio: FloatArray = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return ratio
