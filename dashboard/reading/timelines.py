"""What timelines are drawn from: rows of `env.timeline` on the wall's clock, measure by measure, as a reader filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from ...env.timeline import TimelineRow
from .history import Filter, thinned
from .ticks import SeenTick

FIGURES: Final = {
    "load": ("rate_per_s", "forecast_per_s"),
    "attainment": ("attainment",),
    "cost": ("usd_per_hr",),
    "replicas": ("replicas", "replicas_target"),
    "queue": ("queue",),
    "kv": ("kv_use",),
    "weights": ("weight",),
    "caps": ("batch_cap",),
    "temperature": ("temperature_c",),
}
"""Measures of each figure, by its key."""

_RECENT: Final = 30
"""Ticks that tell of period and speed."""


def timeline(ticks: Sequence[SeenTick], key: str, wanted: Filter) -> list[TimelineRow]:
    """The rows of one figure, their times in seconds since 1970.

    The cost has two more lines, of the whole cluster: what the fallback rule would cost, where the record tells.
    """
    if not ticks:
        return []
    measures = FIGURES[key]
    classes, pools = _names(ticks[-1], wanted)
    speed = speed_of(ticks)
    return [
        {**row, "time_s": tick.wall_s + (row["time_s"] - float(tick.snapshot.time_s)) / speed}
        for tick in thinned(ticks)
        for row in tick.rows
        if row["measure"] in measures
        and (row["kind"] != "class" or row["name"] in classes)
        and (row["kind"] != "pool" or row["name"] in pools)
        and (not row["pool"] or row["pool"] in pools)
    ]


def speed_of(ticks: Sequence[SeenTick]) -> float:
    """How many of the decider's seconds pass in a second of the wall; 1 where ticks do not tell."""
    pairs = [(b.span_s, b.wall_s - a.wall_s) for a, b in pairwise(ticks[-_RECENT:])]
    ratios = [span / wall for span, wall in pairs if wall > 0.0 and math.isfinite(span)]
    speed = float(np.median(ratios)) if ratios else 1.0
    return round(speed) if abs(speed - round(speed)) < 0.1 and speed > 0.5 else speed


def period_of(ticks: Sequence[SeenTick]) -> float:
    """Seconds of the wall between two ticks; NaN where there are not two."""
    gaps = [b.wall_s - a.wall_s for a, b in pairwise(ticks[-_RECENT:])]
    return float(np.median(gaps)) if gaps else math.nan


def _names(tick: SeenTick, wanted: Filter) -> tuple[set[str], set[str]]:
    cluster = tick.cluster
    classes, pools = wanted.class_mask(cluster), wanted.pool_mask(cluster)
    return (
        {name for name, own in zip(cluster.class_names, classes, strict=True) if own},
        {name for name, own in zip(cluster.pool_names, pools, strict=True) if own},
    )
