"""A run over time as plain rows: what was seen of every class and pool, and what was done, tick by tick.

The same rows are made of a simulated run and of a sidecar's ticks; figures are drawn from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, TypedDict

import numpy as np

from .contract import FORECAST_HORIZON_S, FORECAST_SPAN_S, Action, Cluster, FloatArray, Snapshot

Kind = Literal["pool", "class", "whole"]

WHOLE: Final = "whole"
"""The name of rows that are of no single class or pool."""
SHOWN_HORIZON_S: Final = 300.0
"""Of the forecast's steps, the one that rows hold: a usual cold start ahead (one of `FORECAST_HORIZON_S`)."""
UNITS: Final = {
    "rate_per_s": "requests/s",
    "forecast_per_s": "requests/s",
    "attainment": "share",
    "weight": "share",
    "replicas": "replicas",
    "replicas_starting": "replicas",
    "replicas_target": "replicas",
    "batch_cap": "sequences",
    "queue": "requests",
    "kv_use": "share",
    "temperature_c": "deg C",
    "usd_per_hr": "$/h",
}
"""Of every measure."""
_OF_POOLS: Final = {
    "replicas": "ready",
    "replicas_starting": "starting",
    "queue": "waiting",
    "kv_use": "kv_used_frac",
    "temperature_c": "gpu_temp_c",
}
"""Columns of a snapshot that rows are of, as they are."""
_RENTED: Final = ("ready", "starting", "draining", "asleep")


class TimelineRow(TypedDict):
    """One value of one class, one pool, or the whole cluster."""

    time_s: float
    """On the decider's clock; of a forecast, the middle of the minute that is foretold."""
    kind: Kind
    name: str
    """Of the class or pool; `WHOLE`."""
    measure: str
    """One of `UNITS`."""
    value: float | None
    """None: it was not known."""
    unit: str
    pool: str
    """Where a class's weight leads; nothing for other measures."""


def timeline_rows(
    cluster: Cluster, snapshot: Snapshot, applied: Action, billed_usd_per_hr: float | None = None
) -> list[TimelineRow]:
    """The rows of one tick of one cluster: what was seen at its beginning, and what was applied then.

    Args:
        cluster: names, and which classes go where.
        snapshot: of this one cluster, without a batch's axis.
        applied: what the guard let through.
        billed_usd_per_hr: the tick's bill, where it is known; else the whole's dollars are the rent of what is held.
    """
    at_s = float(snapshot.time_s)
    rows = [*_of_classes(cluster, snapshot, applied, at_s), *_of_pools(cluster, snapshot, applied, at_s)]
    if billed_usd_per_hr is None:
        rents = [row["value"] for row in rows if row["measure"] == "usd_per_hr"]
        known = [rent for rent in rents if rent is not None]
        billed_usd_per_hr = sum(known) if len(known) == len(rents) else math.nan
    return [*rows, _row(at_s, "whole", WHOLE, "usd_per_hr", billed_usd_per_hr)]


def _of_classes(cluster: Cluster, snapshot: Snapshot, applied: Action, at_s: float) -> Iterator[TimelineRow]:
    step = FORECAST_HORIZON_S.index(SHOWN_HORIZON_S)
    foretold_s = at_s + SHOWN_HORIZON_S - FORECAST_SPAN_S / 2
    for c, name in enumerate(cluster.class_names):
        yield _row(at_s, "class", name, "rate_per_s", snapshot.arrival_rate_per_s[c])
        yield _row(foretold_s, "class", name, "forecast_per_s", snapshot.forecast_per_s[c, step])
        yield _row(at_s, "class", name, "attainment", snapshot.attainment[c])
        for p, pool in enumerate(cluster.pool_names):
            if cluster.serves[c, p]:
                yield _row(at_s, "class", name, "weight", applied.route[c, p], pool)


def _of_pools(cluster: Cluster, snapshot: Snapshot, applied: Action, at_s: float) -> Iterator[TimelineRow]:
    rents = _rents(cluster, snapshot)
    for p, name in enumerate(cluster.pool_names):
        for measure, column in _OF_POOLS.items():
            yield _row(at_s, "pool", name, measure, getattr(snapshot, column)[p])
        yield _row(at_s, "pool", name, "replicas_target", applied.replicas[p])
        yield _row(at_s, "pool", name, "batch_cap", applied.batch_cap[p])
        yield _row(at_s, "pool", name, "usd_per_hr", rents[p])


def _rents(cluster: Cluster, snapshot: Snapshot) -> FloatArray:
    """`[P]` price times what is held; those asleep in full, unknown where it is not known whether any serve."""
    held = sum(np.nan_to_num(getattr(snapshot, column)) for column in _RENTED)
    rents: FloatArray = snapshot.plausible("usd_per_hr", cluster.usd_per_hr) * held
    return np.where(snapshot.known("ready"), rents, np.nan)


def _row(at_s: float, kind: Kind, name: str, measure: str, value: float, pool: str = "") -> TimelineRow:
    known = float(value)
    return {
        "time_s": at_s,
        "kind": kind,
        "name": name,
        "measure": measure,
        "value": known if math.isfinite(known) else None,
        "unit": UNITS[measure],
        "pool": pool,
    }
