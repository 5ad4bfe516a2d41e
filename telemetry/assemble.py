"""One Snapshot from everything measured: pure, and what was not measured stays unknown.

`docs/telemetry.md` lists each column with its source, its delay and what happens without it.

Symbols: `C` classes, `P` pools.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..env import forecast
from ..env.contract import POOL_COLUMNS, Cluster, FloatArray, SchemaError, Snapshot
from ..env.coverage import CalibratedRanges, covered_frac
from ..env.forecast import ForecastState
from .engine_page import EnginePage
from .gpu_readings import PoolGpus
from .readings import ReplicaReading
from .tally import ClassWindow


@dataclass(frozen=True, slots=True)
class PoolState:
    """How many replicas of a pool are in which state, as whoever starts and stops them says."""

    ready: int
    starting: int
    draining: int
    asleep: int
    target: int
    batch_cap: float = math.nan
    """As last read back from the engines by the actuator; NaN if it cannot."""
    token_budget: float = math.nan
    """As `batch_cap`."""


@dataclass(frozen=True)
class Measured:
    """Everything known at one tick."""

    time_s: float
    """The decider's seconds."""
    window: ClassWindow
    readings: Sequence[ReplicaReading]
    """Of the ready and the draining replicas."""
    pools: Mapping[str, PoolState]
    """By name; a pool whose actuator does not answer is left out."""
    usd_per_hr: FloatArray
    """`[P]` price of one replica now."""
    cold_start_s: FloatArray
    """`[P]` believed, from what was seen and from the scenario before that."""
    preemptions_per_hr: FloatArray
    """`[P]` machine preemptions per replica, believed likewise."""
    forecast: ForecastState
    """`[C]` arrays, this tick's rates observed."""
    ranges: CalibratedRanges
    """`[P]` over which loads the believed laws rest on measurements."""
    gpus: Mapping[str, PoolGpus] = field(default_factory=dict)
    """By pool, of those whose GPUs have a source of their own; what it tells counts before the engines' pages."""


def assemble(cluster: Cluster, measured: Measured, fresh_s: float) -> Snapshot:
    """The snapshot of this tick.

    Args:
        cluster: names of classes and pools.
        measured: what the collectors brought.
        fresh_s: an older page counts as none; the scenario's `guard.stale_after_s`.

    Raises:
        SchemaError: a reading or state of a pool that the cluster lacks, or a value that cannot be.
    """
    for name in (*measured.pools, *measured.gpus, *(r.pool for r in measured.readings)):
        if name not in cluster.pool_names:
            raise SchemaError(f"telemetry of pool {name!r}: unknown; pools are {', '.join(cluster.pool_names)}")
    rows = [_pool_row(cluster, p, measured, fresh_s) for p in range(len(cluster.pool_names))]
    covered = _covered_frac(rows, measured.ranges, cluster)
    rows = [{**row, "coverage_frac": float(covered[p])} for p, row in enumerate(rows)]
    return Snapshot(
        time_s=np.array(measured.time_s, dtype=np.float64),
        classes=measured.window.columns(measured.time_s, len(cluster.class_names)),
        pools=np.array([[row.get(c.name, math.nan) for c in POOL_COLUMNS] for row in rows], dtype=np.float64),
        forecast_per_s=forecast.predict(measured.forecast),
    ).check(cluster)


def _pool_row(cluster: Cluster, p: int, measured: Measured, fresh_s: float) -> dict[str, float]:
    """The known columns of one pool; a column left out is unknown."""
    name = cluster.pool_names[p]
    state = measured.pools.get(name)
    readings = [r for r in measured.readings if r.pool == name]
    row = {
        "usd_per_hr": float(measured.usd_per_hr[p]),
        "cold_start_s": float(measured.cold_start_s[p]),
        "preemptions_per_hr": float(measured.preemptions_per_hr[p]),
        "telemetry_age_s": _age_s(readings, state),
        **_engine_columns([r for r in readings if r.page is not None and r.age_s <= fresh_s], state),
    }
    if name in measured.gpus:
        row |= {column: value for column, value in measured.gpus[name].columns().items() if not math.isnan(value)}
    if state is not None:
        row |= {count: float(getattr(state, count)) for count in ("ready", "starting", "draining", "asleep", "target")}
    return row


def _covered_frac(rows: Sequence[Mapping[str, float]], ranges: CalibratedRanges, cluster: Cluster) -> FloatArray:
    """`[P]`; unknown wherever one of the figures that it needs is. An engine that tells no budget has its first one."""

    def column(name: str) -> FloatArray:
        return np.array([row.get(name, math.nan) for row in rows], dtype=np.float64)

    budget = column("token_budget")
    return covered_frac(
        ranges,
        replicas=column("ready") + column("draining"),
        running=column("running"),
        kv_used_frac=column("kv_used_frac"),
        token_budget=np.where(np.isnan(budget), cluster.max_token_budget, budget),
        prompt_tokens_per_s=column("tokens_per_s") - column(_OUTPUT_PER_S),
        output_tokens_per_s=column(_OUTPUT_PER_S),
    )


_OUTPUT_PER_S = "output_tokens_per_s"
"""Of a pool's row, beside the contract's columns: output tokens generated per second."""


def _age_s(readings: Sequence[ReplicaReading], state: PoolState | None) -> float:
    """Age of the newest page; 0 for a pool without engines, of which its state, told now, says everything."""
    paged = [r.age_s for r in readings if r.page is not None]
    if paged:
        return min(paged)
    if readings:
        return max(r.age_s for r in readings)
    return 0.0 if state is not None and state.ready + state.draining == 0 else math.nan


def _engine_columns(fresh: Sequence[ReplicaReading], state: PoolState | None) -> dict[str, float]:
    """What the engines' pages say. Sums need the page of every engine: part of a queue is not the queue."""
    engines = None if state is None else state.ready + state.draining
    complete = engines is not None and len(fresh) >= engines
    pages = [r.page for r in fresh if r.page is not None]
    ready = [r.page for r in fresh if r.page is not None and not r.draining]
    uses = [r.use for r in fresh if r.use is not None]
    busy = [r.use.busy_frac for r in fresh if r.use is not None and not r.draining]

    def total(of: Callable[[EnginePage], float]) -> float:
        return math.fsum(of(page) for page in pages) if complete else math.nan

    # Machines that start or sleep draw power too, and no page tells of it.
    silent = state is None or state.starting + state.asleep > 0
    util = _mean(page.gpu_util_frac for page in ready)
    span_known = complete and len(uses) >= len(fresh)
    return {
        _OUTPUT_PER_S: math.fsum(u.generation_tokens / u.span_s for u in uses) if span_known else math.nan,
        "running": total(lambda page: page.running),
        "waiting": total(lambda page: page.waiting),
        "power_w": math.nan if silent else total(lambda page: page.gpu_power_w),
        "tokens_per_s": math.fsum(u.tokens_per_s for u in uses) if span_known else math.nan,
        "kv_used_frac": _mean(page.kv_used_frac for page in ready),
        "gpu_util_frac": _first_known(util, _mean(busy)),
        "gpu_temp_c": max(_known(page.gpu_temp_c for page in pages), default=math.nan),
        "batch_cap": _first_known(_least(p.batch_cap for p in ready), state.batch_cap if state else math.nan),
        "token_budget": _first_known(_least(p.token_budget for p in ready), state.token_budget if state else math.nan),
    }


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: Iterable[float]) -> float:
    """Of the known ones; NaN if there is none."""
    known = _known(values)
    return math.fsum(known) / len(known) if known else math.nan


def _least(values: Iterable[float]) -> float:
    return min(_known(values), default=math.nan)


def _first_known(*values: float) -> float:
    return next(iter(_known(values)), math.nan)
