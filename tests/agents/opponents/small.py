"""A small cluster and what is told of it, for the tables of the reactive rules' tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from poolpilot.env.contract import Cluster, Plan, Snapshot, blank_snapshot
from poolpilot.tests.env.clusters import a_cluster, a_plan, row, with_columns


def small(classes: int = 1, **changes: Any) -> tuple[Cluster, Plan]:
    """Classes that want 0.1 s per token on two pools of up to ten replicas: a small one that carries 2 requests/s for
    $1/h, and a large one that carries 8 requests/s for $6/h."""
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, classes, 2)
    cluster = row(batch, 0)
    targets = replace(
        cluster.targets,
        ttft_s=np.full(classes, 2.0),
        tpot_s=np.full(classes, 0.1),
        deadline_s=np.full(classes, np.nan),
        attainment=np.full(classes, 0.99),
    )
    cluster = replace(
        cluster,
        serves=np.ones((classes, 2), dtype=np.bool_),
        spot=np.zeros(2, dtype=np.bool_),
        min_replicas=np.zeros(2),
        max_replicas=np.full(2, 10.0),
        max_batch_cap=np.full(2, 64.0),
        usd_per_hr=np.array([1.0, 6.0]),
        targets=targets,
    )
    plan = replace(
        row(a_plan(rng, batch), 0),
        replicas=np.array([2.0, 0.0]),
        route=np.tile([1.0, 0.0], (classes, 1)),
        capacity_per_s=np.tile([2.0, 8.0], (classes, 1)),
        load_per_s=np.zeros(classes),
    )
    return replace(cluster, **changes), plan


def told(time_s: float = 0.0, **columns: Any) -> Snapshot:
    """What is said of the cluster; as long as nothing else is said, all that was asked for is ready, nothing runs and
    answers have 101 tokens."""
    rate = np.atleast_1d(np.asarray(columns.get("arrival_rate_per_s", 0.0), dtype=np.float64))
    told_first = {"starting": 0.0, "running": 0.0, "waiting": 0.0, "kv_used_frac": 0.0, "output_tokens_mean": 101.0}
    columns = {"ready": [2.0, 0.0], **told_first, "arrival_rate_per_s": rate, **columns}
    columns.setdefault("target", np.asarray(columns["ready"]) + np.asarray(columns["starting"]))
    return with_columns(blank_snapshot(time_s, len(rate), 2), **columns)
