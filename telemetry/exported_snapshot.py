"""The columns of a Snapshot as gauges of the sidecar's metrics page.

Names of pools' figures begin with `poolpilot_pool_`: emulated replicas tell `poolpilot_gpu_...` of their own, and one
Prometheus may scrape both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Gauge

from ..env.contract import FORECAST_HORIZON_S, Cluster, FloatArray, Snapshot

CLASS_GAUGES: Final = {
    "arrival_rate_per_s": ("class_arrival_rate_per_second", "Requests that arrived per second of the window"),
    "in_flight": ("class_in_flight_requests", "Requests sent to a replica and not finished"),
    "shed_per_s": ("class_shed_per_second", "Requests turned away per second of the window"),
    "prompt_tokens_mean": ("class_prompt_tokens_mean", "Mean prompt length"),
    "output_tokens_mean": ("class_output_tokens_mean", "Mean output length"),
    "attainment": ("attainment_ratio", "Share of requests that met their targets"),
}
PERCENTILES: Final = {
    "class_ttft_seconds": ("Time to first token", {"p50": "ttft_p50_s", "p95": "ttft_p95_s"}),
    "class_tpot_seconds": ("Time per output token after the first", {"p50": "tpot_p50_s", "p95": "tpot_p95_s"}),
}
POOL_GAUGES: Final = {
    "running": ("pool_running_sequences", "Sequences in the running batches"),
    "waiting": ("pool_waiting_requests", "Requests queued in the engines"),
    "kv_used_frac": ("pool_kv_cache_used_ratio", "KV cache in use, mean over ready replicas"),
    "tokens_per_s": ("pool_tokens_per_second", "Prompt and output tokens processed per second"),
    "batch_cap": ("pool_batch_cap", "Most sequences an engine may run, as read back"),
    "token_budget": ("pool_token_budget", "Most tokens of an engine's iteration, as read back"),
    "gpu_util_frac": ("pool_gpu_utilization_ratio", "Time the GPUs were busy, mean"),
    "gpu_temp_c": ("pool_gpu_temperature_celsius", "Hottest GPU"),
    "power_w": ("pool_gpu_power_watts", "Power drawn by all GPUs"),
    "throttled": ("pool_gpu_throttled_ratio", "Share of the GPUs that heat or power slows down"),
    "usd_per_hr": ("pool_price_usd_per_hour", "Price of one replica now"),
    "preemptions_per_hr": ("pool_preemptions_per_hour", "Machine preemptions per replica and hour, believed"),
    "cold_start_s": ("pool_cold_start_seconds", "From asking for a replica until it serves, believed"),
    "coverage_frac": ("calibrated_traffic_ratio", "Share of tokens inside the law's calibrated range"),
    "telemetry_age_s": ("telemetry_age_seconds", "Age of the newest telemetry"),
}
STATES: Final = ("ready", "starting", "draining", "asleep")


class SnapshotGauges:
    """Shows one Snapshot after the other; what is unknown is NaN."""

    def __init__(self, cluster: Cluster, registry: CollectorRegistry) -> None:
        """One time series for each class, pool, state and percentile, once there is something to show."""
        self._classes, self._pools = cluster.class_names, cluster.pool_names
        self._of_classes = {c: _gauge(registry, *named, "class") for c, named in CLASS_GAUGES.items()}
        self._of_pools = {c: _gauge(registry, *named, "pool") for c, named in POOL_GAUGES.items()}
        self._replicas = _gauge(registry, "replicas", "Replicas by state", "pool", "state")
        self._target = _gauge(registry, "target_replicas", "Replicas last asked for", "pool")
        self._rent = _gauge(registry, "pool_rent_usd_per_hour", "Price of all replicas, whatever they do", "pool")
        self._percentiles = {n: _gauge(registry, n, doc, "class", "percentile") for n, (doc, _) in PERCENTILES.items()}
        self._forecast = _gauge(
            registry,
            *("class_forecast_arrival_rate_per_second", "Expected arrival rate so far ahead"),
            *("class", "horizon_seconds"),
        )

    def show(self, snapshot: Snapshot) -> None:
        """What is known of the cluster now."""
        for column, gauge in self._of_classes.items():
            set_each(gauge, self._classes, getattr(snapshot, column))
        for column, gauge in self._of_pools.items():
            set_each(gauge, self._pools, getattr(snapshot, column))
        for state in STATES:
            for pool, count in zip(self._pools, getattr(snapshot, state), strict=True):
                self._replicas.labels(pool, state).set(float(count))
        set_each(self._target, self._pools, snapshot.target)
        set_each(self._rent, self._pools, rent_usd_per_hr(snapshot))
        for name, (_, columns) in PERCENTILES.items():
            for percentile, column in columns.items():
                for c, seconds in zip(self._classes, getattr(snapshot, column), strict=True):
                    self._percentiles[name].labels(c, percentile).set(float(seconds))
        for c, rates in zip(self._classes, snapshot.forecast_per_s, strict=True):
            for horizon_s, rate in zip(FORECAST_HORIZON_S, rates, strict=True):
                self._forecast.labels(c, f"{horizon_s:g}").set(float(rate))


def rent_usd_per_hr(snapshot: Snapshot) -> FloatArray:
    """`[P]` the price of a pool's replicas in any state; NaN where their count is not known."""
    count: FloatArray = sum((getattr(snapshot, state) for state in STATES), start=np.zeros(()))
    return count * snapshot.usd_per_hr


def set_each(gauge: Gauge, names: Sequence[str], values: FloatArray) -> None:
    """One value for each name."""
    for name, value in zip(names, values, strict=True):
        gauge.labels(name).set(float(value))


def _gauge(registry: CollectorRegistry, name: str, doc: str, *labels: str) -> Gauge:
    return Gauge(f"poolpilot_{name}", doc, labels, registry=registry)
