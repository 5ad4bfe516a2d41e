"""Clusters, plans, snapshots and proposals drawn at random, plausible or absurd, for the tests of the pure modules.

Symbols: `B` clusters of a batch, `C` classes, `P` pools. The last class and the last pool of a batch may be padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from poolpilot.env.contract import (
    CLASS_COLUMNS,
    FORECAST_HORIZON_S,
    POOL_COLUMNS,
    Action,
    Cluster,
    FloatArray,
    Plan,
    Snapshot,
    Targets,
)

T = TypeVar("T")
NOW_S = 1000.0
SEEDS = st.integers(0, 2**32 - 1)
"""Arrays are drawn from a seed: element by element hypothesis would take minutes to shrink them."""
ABSURD = (np.nan, np.inf, -np.inf, -1.0, -0.0, 1e-300, 0.5, 2.5, 1e9, 1e300, -1e300)


@dataclass(frozen=True)
class Situation:
    """A batch `[B, ...]` of clusters at one moment."""

    cluster: Cluster
    plan: Plan
    snapshot: Snapshot


def row(value: T, b: int) -> T:
    """Cluster `b` of a batched contract value."""
    if isinstance(value, np.ndarray):
        return value[b]
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return type(value)(row(item, b) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: row(getattr(value, f.name), b) for f in fields(value)})
    return value


def same(one: Any, other: Any) -> bool:
    """Bit-equal, NaN equal to NaN, shapes included."""
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.kind != "f":
            return np.array_equal(one, other)
        signs = np.signbit(one) == np.signbit(other)
        return np.array_equal(one, other, equal_nan=True) and bool((signs | np.isnan(one)).all())
    if is_dataclass(one):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


def a_cluster(rng: np.random.Generator, b: int, c: int, p: int, padding: bool = False) -> Cluster:
    """`[B]` clusters in which every class has a pool that serves it, and every pool a class."""
    class_mask, pool_mask = np.ones((b, c), dtype=np.bool_), np.ones((b, p), dtype=np.bool_)
    if padding:
        class_mask[0, 1:], pool_mask[0, 1:] = c < 2, p < 2
    serves = rng.random((b, c, p)) < 0.6
    serves[:, np.arange(c), np.arange(c) % p] = True
    serves[:, np.arange(p) % c, np.arange(p)] = True
    serves &= class_mask[:, :, None] & pool_mask[:, None, :]
    serves[:, 0, 0] = True
    high = rng.integers(1, 8, (b, p)).astype(float)
    deferrable = rng.random((b, c)) < 0.3
    return Cluster(
        class_names=tuple(f"class-{i}" for i in range(c)),
        pool_names=tuple(f"pool-{i}" for i in range(p)),
        class_mask=class_mask,
        pool_mask=pool_mask,
        serves=serves,
        spot=rng.random((b, p)) < 0.5,
        min_replicas=np.where(pool_mask, np.minimum(rng.integers(0, 3, (b, p)), high), 0.0),
        max_replicas=np.where(pool_mask, high, 0.0),
        max_batch_cap=np.where(pool_mask, rng.choice([1.0, 2.0, 7.0, 64.0, 256.0], (b, p)), 0.0),
        max_token_budget=np.where(pool_mask, rng.choice([16.0, 512.0, 8192.0], (b, p)), 0.0),
        usd_per_hr=np.where(pool_mask, rng.choice([0.5, 1.0, 2.5, 7.0], (b, p)), 0.0),
        cold_start_s=np.where(pool_mask, rng.uniform(20.0, 200.0, (b, p)), 0.0),
        targets=Targets(
            ttft_s=np.where(deferrable, np.nan, rng.uniform(0.2, 5.0, (b, c))),
            tpot_s=np.where(deferrable, np.nan, rng.uniform(0.02, 0.2, (b, c))),
            e2e_s=np.full((b, c), np.nan),
            deadline_s=np.where(deferrable, rng.uniform(60.0, 900.0, (b, c)), np.nan),
            attainment=np.where(class_mask, rng.choice([0.9, 0.95, 0.99, 1.0], (b, c)), 0.0),
            budget_usd_per_hr=np.where(rng.random(b) < 0.5, np.inf, rng.uniform(1.0, 60.0, b)),
        ),
    )


def a_plan(rng: np.random.Generator, cluster: Cluster) -> Plan:
    """`[B]` plans: whole counts within the limits, rows that sum to 1, some pools of no capacity for some class."""
    shape = cluster.serves.shape
    weights = np.where(cluster.serves, rng.uniform(0.1, 1.0, shape), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return Plan(
        replicas=np.round(rng.uniform(cluster.min_replicas, cluster.max_replicas)),
        route=np.divide(weights, total, out=np.zeros(shape), where=total > 0),
        batch_cap=cluster.max_batch_cap.copy(),
        capacity_per_s=np.where(cluster.serves & (rng.random(shape) < 0.9), rng.uniform(0.2, 5.0, shape), 0.0),
        load_per_s=np.where(cluster.class_mask, rng.uniform(0.0, 8.0, shape[:2]), 0.0),
        usd_per_hr=rng.uniform(1.0, 50.0, shape[0]),
        attainment=cluster.targets.attainment,
    )


def a_snapshot(rng: np.random.Generator, cluster: Cluster, unknown: float = 0.2) -> Snapshot:
    """`[B]` plausible snapshots with a share of `unknown` figures; padding is unknown."""
    b, c, p = cluster.serves.shape
    classes = rng.uniform(0.0, 1.0, (b, c, len(CLASS_COLUMNS))) * [min(k.high, 20.0) for k in CLASS_COLUMNS]
    pools = rng.uniform(0.0, 1.0, (b, p, len(POOL_COLUMNS))) * [min(k.high, 100.0) for k in POOL_COLUMNS]
    for name in ("ready", "starting", "draining", "asleep", "target"):
        index = [k.name for k in POOL_COLUMNS].index(name)
        pools[..., index] = rng.integers(0, 8, (b, p))
    forecast = rng.uniform(0.0, 20.0, (b, c, len(FORECAST_HORIZON_S)))
    for block, mask in ((classes, cluster.class_mask), (pools, cluster.pool_mask), (forecast, cluster.class_mask)):
        block[rng.random(block.shape) < unknown] = np.nan
        block[~mask] = np.nan
    return Snapshot(time_s=np.full(b, NOW_S), classes=classes, pools=pools, forecast_per_s=forecast)


def with_columns(snapshot: Snapshot, **columns: Any) -> Snapshot:
    """A copy of a snapshot with some columns replaced."""
    blocks = {"classes": snapshot.classes.copy(), "pools": snapshot.pools.copy()}
    for name, values in columns.items():
        column: Any = vars(Snapshot)[name]
        blocks[column.block][..., column.index] = values
    return replace(snapshot, **blocks)


def absurd(rng: np.random.Generator, values: FloatArray, share: float) -> FloatArray:
    """A copy in which a share of the values is replaced by what cannot be."""
    return np.where(rng.random(values.shape) < share, rng.choice(ABSURD, values.shape), values)


def with_absurdities(rng: np.random.Generator, snapshot: Snapshot, share: float) -> Snapshot:
    """A snapshot some of whose values cannot be."""
    return replace(
        snapshot,
        classes=absurd(rng, snapshot.classes, share),
        pools=absurd(rng, snapshot.pools, share),
        forecast_per_s=absurd(rng, snapshot.forecast_per_s, share),
    )


@st.composite
def situations(draw: st.DrawFn, absurdity: bool = False, padding: bool = True) -> Situation:
    """Batches of one to three clusters of up to three classes and four pools."""
    rng = np.random.default_rng(draw(SEEDS))
    b, c, p = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    cluster = a_cluster(rng, b, c, p, padding and draw(st.booleans()))
    plan = a_plan(rng, cluster)
    snapshot = a_snapshot(rng, cluster, draw(st.sampled_from([0.0, 0.2, 1.0])))
    if absurdity:
        snapshot = with_absurdities(rng, snapshot, draw(st.sampled_from([0.0, 0.1, 0.5])))
    return Situation(cluster, plan, snapshot)


def any_floats(*shape: int) -> st.SearchStrategy[FloatArray]:
    """Arrays of any doubles, with those that break things drawn often."""

    def drawn(seed: int, share: float) -> FloatArray:
        rng = np.random.default_rng(seed)
        any_bits = rng.integers(0, 2**64, shape, dtype=np.uint64).view(np.float64)
        usual = np.where(rng.random(shape) < 0.5, np.round(rng.uniform(-3.0, 12.0, shape)), rng.random(shape))
        return absurd(rng, np.where(rng.random(shape) < share / 4.0, any_bits, usual), share)

    return st.builds(drawn, SEEDS, st.sampled_from([0.0, 0.1, 0.8]))


@st.composite
def proposals(draw: st.DrawFn, b: int, c: int, p: int) -> Action:
    """`[B]` actions that nobody in their right mind would propose, and some that are all right."""
    return Action(
        route=draw(any_floats(b, c, p)),
        admit=draw(any_floats(b, c)),
        batch_cap=draw(any_floats(b, p)),
        token_budget=draw(any_floats(b, p)),
        replicas=draw(any_floats(b, p)),
    )
