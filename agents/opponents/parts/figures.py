"""What rules read off a snapshot: figures that are unknown or cannot be are replaced here, and go no further.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....env.contract import Cluster, FloatArray, Memory, Plan, Snapshot

LONGEST_GAP_S = 3600.0
"""Two looks that are further apart than this count as this far apart."""


@dataclass(frozen=True)
class Pools:
    """`[..., P]` replicas and work of the pools, as far as known."""

    ready: FloatArray
    """As planned where unknown."""
    starting: FloatArray
    target: FloatArray
    """As many as are up where unknown."""
    running: FloatArray
    """NaN where unknown."""
    waiting: FloatArray
    kv_used_frac: FloatArray
    """NaN where unknown."""
    usd_per_hr: FloatArray
    """Of a replica now; the base price where unknown."""

    @property
    def up(self) -> FloatArray:
        """`[..., P]` replicas that serve or are about to."""
        return self.ready + self.starting


def pools_seen(snapshot: Snapshot, plan: Plan, cluster: Cluster) -> Pools:
    """The pools of a snapshot; padding has nothing."""
    real = cluster.pool_mask

    def seen(name: str, instead: FloatArray | float) -> FloatArray:
        return np.where(real, snapshot.plausible(name, instead), 0.0)

    ready, starting = seen("ready", plan.replicas), seen("starting", 0.0)
    return Pools(
        ready=ready,
        starting=starting,
        target=seen("target", ready + starting),
        running=seen("running", np.nan),
        waiting=seen("waiting", 0.0),
        kv_used_frac=seen("kv_used_frac", np.nan),
        usd_per_hr=seen("usd_per_hr", cluster.usd_per_hr),
    )


def capacity_of(plan: Plan, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` requests/s that one replica serves within target, 0 where it serves none."""
    serves = cluster.serves & cluster.class_mask[..., :, None] & cluster.pool_mask[..., None, :]
    return np.where(serves & (plan.capacity_per_s > 0), plan.capacity_per_s, 0.0)


def largest_capacity(capacity_per_s: FloatArray) -> FloatArray:
    """`[..., C]` requests/s of a replica of the pool that carries most of the class: loads are held on to in such
    replicas, for the load that has passed was one of requests as long as they were then."""
    largest: FloatArray = capacity_per_s.max(axis=-1)
    return largest


def load_seen(snapshot: Snapshot, plan: Plan, cluster: Cluster, ahead: int = 0) -> FloatArray:
    """`[..., C]` requests per second to be ready for: what arrives now or within the first `ahead` forecast steps.

    Work that may wait is carried at its mean rate: its peaks are what waiting is for. Where nothing is known the load
    is as planned for.
    """
    expected = snapshot.forecast_per_s
    possible = (expected >= 0) & (expected <= Snapshot.arrival_rate_per_s.high)
    expected = np.where(possible, expected, np.nan)
    seen = snapshot.plausible("arrival_rate_per_s", np.nan)
    for step in range(ahead):
        seen = np.fmax(seen, expected[..., step])
    seen = np.where(cluster.targets.deferrable, np.fmin(seen, expected[..., -1]), seen)
    return np.where(cluster.class_mask, np.where(np.isnan(seen), plan.load_per_s, seen), 0.0)


def elapsed_s(snapshot: Snapshot, memory: Memory) -> FloatArray:
    """`[...]` seconds since the last look (`time_s` in the memory); 0 at the first one (`seen` is not set)."""
    if not memory:
        return np.zeros(np.shape(snapshot.time_s))
    gap = np.clip(snapshot.time_s - memory["time_s"], 0.0, LONGEST_GAP_S)
    return np.where(memory["seen"] > 0, gap, 0.0)


def looked_at(snapshot: Snapshot) -> dict[str, FloatArray]:
    """What `elapsed_s` wants to find at the next look."""
    time_s = np.asarray(snapshot.time_s, dtype=np.float64)
    return {"time_s": time_s, "seen": np.ones(time_s.shape)}


def over(above: FloatArray | float, below: FloatArray) -> FloatArray:
    """`above / below`, 0 where `below` is not positive."""
    some = below > 0
    return np.where(some, above / np.where(some, below, 1.0), 0.0)
