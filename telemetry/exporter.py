"""The sidecar's own metrics, for Prometheus, and for autoscalers that act on `poolpilot_desired_replicas`.

All live on a registry of their own: two sidecars in one process, or a host application's metrics, stay apart.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from ..env.contract import BILL_LAYERS, IDLE_PARTS, Action, Bill, Cluster, Decision, Mode, ReasonCode, Snapshot
from .exported_learner import ExplorationMetrics, LearnerMetrics
from .exported_snapshot import SnapshotGauges, rent_usd_per_hr, set_each
from .exported_sources import SourceMetrics
from .exported_versions import VersionMetrics

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""HTTP content type of `SidecarMetrics.page`."""
TICK_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SECONDS_PER_HOUR = 3600.0


def standby_registry() -> CollectorRegistry:
    """All that a sidecar shows while another one leads: that it does not. Old wishes must not be acted on."""
    registry = CollectorRegistry()
    _leader(registry).set(0)
    return registry


def _leader(registry: CollectorRegistry) -> Gauge:
    return Gauge("poolpilot_leader", "1 while this sidecar leads, 0 while it stands by", registry=registry)


class SidecarMetrics:
    """Gauges hold the last tick's value, NaN where it is unknown; counters add up since the sidecar's start."""

    def __init__(self, cluster: Cluster, tick_wall_s: float = math.nan, learner: Path | None = None) -> None:
        """One time series for each pool, class, mode and reason; those that count begin at 0.

        Args:
            cluster: whose pools and classes are shown.
            tick_wall_s: seconds of the wall between two ticks.
            learner: where a learner beside the sidecar keeps its progress; None where none can be.
        """
        self._classes, self._pools = cluster.class_names, cluster.pool_names
        self.registry = CollectorRegistry()
        _leader(self.registry).set(1)
        ProcessCollector(registry=self.registry)
        self._snapshot = SnapshotGauges(cluster, self.registry)
        self.sources = SourceMetrics(cluster, self.registry)
        self.learner = LearnerMetrics(self.registry, learner)
        self.exploration = ExplorationMetrics(self.registry)
        self.versions = VersionMetrics(self.registry)
        self._bill_usd = self._counter("bill_usd", "Dollars spent, as far as known", "layer", "pool")
        self._idle_usd = self._counter("idle_usd", "Of the idle layer's dollars, what for", "part", "pool")
        self._bill_unknown = self._counter("bill_unknown_ticks", "Ticks with dollars of unknown split", "pool")
        self._rent_usd = self._counter("rent_usd", "Rent of all replicas, by their states at each tick", "pool")
        self._budget_usd = self._gauge("budget_usd_per_hour", "Most dollars per hour that may be asked for")
        self._usd_per_hr = self._gauge("bill_usd_per_hour", "Dollars per hour over the last tick")
        self._expected_usd_per_hr = self._gauge("expected_usd_per_hour", "Dollars per hour the decision expects")
        self._expected_attainment = self._gauge(
            "expected_attainment_ratio", "Share of requests that the decision expects to meet their targets", "class"
        )
        self._wanted = self._gauge("attainment_target_ratio", "Share of requests that should", "class")
        self._decisions = self._counter("decisions", "Ticks decided", "mode")
        self._vetoes = self._counter("vetoes", "Changes the guard made to a proposal", "reason")
        self._mode = self._gauge("mode", "1 for the mode in force", "mode")
        self._policy = self._gauge("policy_info", "1 for who decided", "policy", "hash")
        self._trust = self._gauge(
            "policy_trust_ratio", "The policy's share of a decision; the fallback rule has the rest"
        )
        self._outside = self._gauge(
            "outside_range_ratio",
            "Of what the policy's network sees, outside the range it was trained on; NaN: not known",
        )
        self._twin_error = self._gauge("twin_error_ratio", "Mean error of the twin, over what is bad; NaN: nobody told")
        self._fell_back = self._counter("fallback_decisions", "Ticks at which the fallback rule decided")
        self._token = self._gauge("fencing_token", "Grows with every new leader; 0 without a standby")
        self._last_tick = self._gauge("last_tick_timestamp_seconds", "Unix time of the last tick")
        self._period = self._gauge("tick_period_seconds", "Seconds between two ticks")
        self._period.set(tick_wall_s)
        self._ready = self._gauge("ready", "1 while the sidecar can decide and act, as /readyz says")
        self._troubles = self._gauge("troubles", "What is wrong, by whether it can do without", "severity")
        self._desired = self._gauge(
            "desired_replicas", "Replicas that should be up, as far as the mode reaches", "pool"
        )
        self._advised = self._gauge("advised_replicas", "Replicas wanted, after the guard, in any mode", "pool")
        self._saving = self._gauge("expected_saving_usd_per_hour", "Rent of what is up less that of what is advised")
        self._proposed = self._gauge("proposed_replicas", "Replicas wanted, before the guard", "pool")
        self._cap = self._gauge("applied_batch_cap", "Most sequences an engine may run", "pool")
        self._budget = self._gauge("applied_token_budget", "Most tokens of an engine's iteration", "pool")
        self._admit = self._gauge("admit_ratio", "Share of requests let in", "class")
        self._route = self._gauge("route_weight", "Share of the class sent to the pool", "class", "pool")
        self._tick_s = Histogram(
            "poolpilot_tick_seconds",
            "From the tick's beginning until its decision is recorded",
            buckets=TICK_BUCKETS_S,
            registry=self.registry,
        )
        self._rent_usd_per_hr = np.zeros(len(self._pools))
        self._begin(cluster)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """What is known of the cluster now."""
        self._snapshot.show(snapshot)
        self._rent_usd_per_hr = rent_usd_per_hr(snapshot)

    def show_drift(self, outside_frac: float, twin_error: float, trust: float) -> None:
        """How far the world is from the one that the policy was trained in (`controller.drift`)."""
        self._outside.set(outside_frac)
        self._twin_error.set(twin_error)
        self._trust.set(trust)

    def show_decision(
        self,
        decision: Decision,
        fell_back: bool = False,
        in_force: Action | None = None,
        saving_usd_per_hr: float = math.nan,
    ) -> None:
        """Count a decision and show what it wants.

        Args:
            decision: of this tick.
            fell_back: the fallback decided.
            in_force: what stands in the world: what an autoscaler is to bring about, which is not what an adviser would
                do. Left out: what was applied.
            saving_usd_per_hr: what is expected of doing it.
        """
        self._fell_back.inc(fell_back)
        self._policy.clear()
        self._policy.labels(decision.policy_name, decision.policy_hash).set(1)
        self._token.set(decision.fencing_token)
        set_each(self._expected_attainment, self._classes, decision.expected_attainment)
        self._decisions.labels(decision.mode.value).inc()
        for reason in decision.reasons:
            self._vetoes.labels(reason.code.value).inc()
        for mode in Mode:
            self._mode.labels(mode.value).set(mode is decision.mode)
        self._expected_usd_per_hr.set(decision.expected_usd_per_hr)
        set_each(self._desired, self._pools, (decision.applied if in_force is None else in_force).replicas)
        set_each(self._advised, self._pools, decision.applied.replicas)
        self._saving.set(saving_usd_per_hr)
        set_each(self._proposed, self._pools, decision.proposed.replicas)
        set_each(self._cap, self._pools, decision.applied.batch_cap)
        set_each(self._budget, self._pools, decision.applied.token_budget)
        set_each(self._admit, self._classes, decision.applied.admit)
        for name, weights in zip(self._classes, decision.applied.route, strict=True):
            for pool, weight in zip(self._pools, weights, strict=True):
                self._route.labels(name, pool).set(float(weight))

    def add_bill(self, bill: Bill, span_s: float) -> None:
        """Add the dollars of a span of `span_s` seconds; unknown ones (NaN) are left out, and counted as such."""
        by_pool = bill.usd.sum(axis=1)  # [P, L]
        for pool, layers, parts in zip(self._pools, by_pool, bill.idle_usd.sum(axis=1), strict=True):
            for layer, usd in zip(BILL_LAYERS, layers, strict=True):
                if not np.isnan(usd):
                    self._bill_usd.labels(layer, pool).inc(float(usd))
            for part, usd in zip(IDLE_PARTS, parts, strict=True):
                if not np.isnan(usd):
                    self._idle_usd.labels(part, pool).inc(float(usd))
            if np.isnan(layers).any():
                self._bill_unknown.labels(pool).inc()
        for pool, usd_per_hr in zip(self._pools, self._rent_usd_per_hr, strict=True):
            self._rent_usd.labels(pool).inc(float(np.nan_to_num(usd_per_hr)) * span_s / _SECONDS_PER_HOUR)
        self._usd_per_hr.set(float(bill.total_usd) / span_s * _SECONDS_PER_HOUR)

    def add_tick(self, seconds: float, ended_at_s: float = math.nan) -> None:
        """How long a tick took, and when it ended (Unix seconds)."""
        self._tick_s.observe(seconds)
        self._last_tick.set(ended_at_s)

    def show_health(self, problems: int, warnings: int) -> None:
        """How many things keep the sidecar from deciding or acting, and how many it can do without."""
        self._ready.set(problems == 0)
        self._troubles.labels("problem").set(problems)
        self._troubles.labels("warning").set(warnings)

    def page(self) -> bytes:
        """The metrics page, of the type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def _begin(self, cluster: Cluster) -> None:
        for pool in self._pools:
            self._bill_unknown.labels(pool)
            self._rent_usd.labels(pool)
            for layer in BILL_LAYERS:
                self._bill_usd.labels(layer, pool)
            for part in IDLE_PARTS:
                self._idle_usd.labels(part, pool)
        self.show_health(0, 0)
        for mode in Mode:
            self._decisions.labels(mode.value)
        for code in ReasonCode:
            self._vetoes.labels(code.value)
        set_each(self._wanted, self._classes, cluster.targets.attainment)
        self._budget_usd.set(float(cluster.targets.budget_usd_per_hr))

    def _counter(self, name: str, doc: str, *labels: str) -> Counter:
        return Counter(f"poolpilot_{name}", doc, labels, registry=self.registry)

    def _gauge(self, name: str, doc: str, *labels: str) -> Gauge:
        return Gauge(f"poolpilot_{name}", doc, labels, registry=self.registry)
