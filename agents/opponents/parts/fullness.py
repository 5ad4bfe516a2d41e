"""How full pools are, by what their engines report: concurrency, queue and KV cache.

Symbols: `C` classes, `P` pools; `...` an optional leading batch axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....env.contract import Cluster, FloatArray, Plan, Snapshot
from .figures import Pools, over

TPOT_AT_LIMIT = 0.78
"""Mean time per token over its target where the wanted share of requests just meets it (99 % of a spread of 12 %:
`env.perf.capacity`)."""
TTFT_AT_LIMIT = 0.3
"""The same of the time to first token, whose tail is longer: that of an exponential wait would be 0.22."""


@dataclass(frozen=True)
class Work:
    """What is where."""

    share: FloatArray
    """`[..., C, P]` share of each class in the work of each pool: columns sum to 1, or 0 where there is none."""
    concurrency: FloatArray
    """`[..., P]` sequences of this mix that one replica runs at the rate that is just within targets: what a load test
    would find."""


def work_of(
    snapshot: Snapshot, plan: Plan, cluster: Cluster, pools: Pools, load_per_s: FloatArray, capacity: FloatArray
) -> Work:
    """The mix of each pool, if every class is spread by what ready replicas carry of it, and the concurrency it allows.

    By Little's law a rate holds rate x residence sequences; a request's residence at the limit of its targets is known
    from them and from how long its answers are. Where that is unknown the engine's own limit stands.
    """
    weight = pools.ready + 0.01 * cluster.max_replicas
    per_s = load_per_s[..., None] * over(capacity, (weight[..., None, :] * capacity).sum(axis=-1, keepdims=True))
    busy = over(per_s, capacity)
    total = busy.sum(axis=-2, keepdims=True)
    residence = _residence_s(snapshot, cluster)
    held = np.where(capacity > 0, per_s * residence, 0.0).sum(axis=-2)
    most = np.maximum(cluster.max_batch_cap, 1.0)
    concurrency = np.clip(np.where(np.isnan(held) | (held <= 0), most, over(held, total[..., 0, :])), 1.0, most)
    return Work(share=over(busy, total), concurrency=concurrency)


def _residence_s(snapshot: Snapshot, cluster: Cluster) -> FloatArray:
    """`[..., C, P]` seconds that a request stays in a pool at the limit of its targets; NaN if unknown.

    A class without a target per token runs at the pace of the strictest one that it shares the pool with.
    """
    targets = cluster.targets
    own = np.where(targets.tpot_s > 0, targets.tpot_s, np.nan)[..., None]
    others = np.fmin.reduce(np.where(cluster.serves, own, np.nan), axis=-2)[..., None, :]
    tpot_s = np.where(np.isnan(own), others, own) * TPOT_AT_LIMIT
    decodes = np.maximum(snapshot.plausible("output_tokens_mean", np.nan) - 1.0, 0.0)[..., None]
    first_s = np.nan_to_num(targets.ttft_s)[..., None] * TTFT_AT_LIMIT
    return np.where(decodes > 0, decodes * tpot_s, first_s + 0.0 * decodes)


def demand_per_s(
    demand: FloatArray, work: Work, load_per_s: FloatArray, rate_per_s: FloatArray, pools: Pools, capacity: FloatArray
) -> FloatArray:
    """`[..., C]` requests/s that the pools' demand in replicas amounts to.

    Where no replica that serves the class is ready, nothing is measured: the load seen stands. Of a class that may be
    put off only its mean rate counts.

    Args:
        demand: `[..., P]` replicas' worth of work, as measured.
        rate_per_s: `[..., C]` what arrives now, of which `load_per_s` is what counts.
    """
    measured = (demand[..., None, :] * work.share * capacity).sum(axis=-1)
    counts = np.where(rate_per_s > load_per_s, over(load_per_s, rate_per_s), 1.0)
    ready = (np.where(capacity > 0, pools.ready[..., None, :], 0.0)).sum(axis=-1)
    return np.where(ready > 0, measured * counts, load_per_s)
