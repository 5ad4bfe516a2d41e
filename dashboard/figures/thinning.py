"""Fewer points of a long run than it has ticks: what a figure can show, and a page can carry."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from ...env.timeline import TimelineRow

STEPPED: Final = ("replicas", "replicas_starting", "replicas_target", "batch_cap", "weight")
"""What was decided, or counted: its last value stands for a stretch of time, a mean never was."""


def thinned(rows: Sequence[TimelineRow], most: int) -> list[TimelineRow]:
    """The rows with at most `most` points a series, each of a stretch of time of equal length.

    Of what is measured, a point is the mean of the values that are known; of `STEPPED`, the last one. Points stand at their
    stretch's first tick. Rows of no more points come back as they are.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most: {most}, wanted at least one point")
    series: dict[tuple[str, str, str, str], list[TimelineRow]] = defaultdict(list)
    for row in rows:
        series[row["measure"], row["kind"], row["name"], row["pool"]].append(row)
    found: list[TimelineRow] = []
    for own in series.values():
        own.sort(key=lambda row: row["time_s"])
        size = math.ceil(len(own) / most)
        found += own if size == 1 else [_one(own[at : at + size]) for at in range(0, len(own), size)]
    return found


def stretch_s(rows: Sequence[TimelineRow]) -> float:
    """Seconds between two points of the rows' first series; 0 if it has one."""
    first = next(iter(rows), None)
    if first is None:
        return 0.0
    key = (first["measure"], first["kind"], first["name"], first["pool"])
    at = sorted({r["time_s"] for r in rows if (r["measure"], r["kind"], r["name"], r["pool"]) == key})
    return at[1] - at[0] if len(at) > 1 else 0.0


def _one(rows: Sequence[TimelineRow]) -> TimelineRow:
    known = [row["value"] for row in rows if row["value"] is not None]
    value = None if not known else known[-1] if rows[0]["measure"] in STEPPED else math.fsum(known) / len(known)
    return {**rows[0], "value": value}
