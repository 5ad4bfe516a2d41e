"""Rows for figures, with values that are known."""

from __future__ import annotations

from typing import Any

from poolpilot.dashboard.figures.attainment_rows import AttainmentRow
from poolpilot.dashboard.figures.differences import DifferenceRow
from poolpilot.env.timeline import UNITS, Kind, TimelineRow

EVIL = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def an_attainment(
    panel: str, series: str, headroom: float, attainment: float, bill: float, **more: Any
) -> AttainmentRow:
    own: AttainmentRow = {
        "panel": panel,
        "series": series,
        "headroom": headroom,
        "attainment": attainment,
        "bill": bill,
    }
    return {**own, **more}  # type: ignore[typeddict-item]


def a_difference(
    series: str, mean: float = -5.0, low: float | None = -8.0, high: float | None = -2.0, measure: str = "Bill"
) -> DifferenceRow:
    return {
        "measure": measure,
        "unit": "%",
        "series": series,
        "against": "rule",
        "mean": mean,
        "low": low,
        "high": high,
    }


def a_value(
    measure: str, value: float | None, time_s: float = 0.0, kind: Kind = "pool", name: str = "l40s", pool: str = ""
) -> TimelineRow:
    return {
        "time_s": time_s, "kind": kind, "name": name, "measure": measure, "value": value, "unit": UNITS[measure], "pool": pool
    }  # fmt: skip


def a_timeline(ticks: int = 3, chat: str = "chat", pools: tuple[str, ...] = ("h100", "l40s")) -> list[TimelineRow]:
    """Some ticks of 10 s of one class on some pools; every value is the tick's number plus its pool's place."""
    rows = []
    for t in range(ticks):
        at = 10.0 * t
        rows += [a_value(m, t / 10.0, at, "class", chat) for m in ("rate_per_s", "forecast_per_s", "attainment")]
        rows += [a_value("weight", 1.0 / len(pools), at, "class", chat, pool) for pool in pools]
        for measure in ("replicas", "replicas_target", "batch_cap", "queue", "temperature_c", "usd_per_hr"):
            rows += [a_value(measure, float(t + p), at, name=pool) for p, pool in enumerate(pools)]
        rows += [a_value("kv_use", 0.25, at, name=pool) for pool in pools]
        rows.append(a_value("usd_per_hr", 2.0 * t, at, "whole", "whole"))
    return rows
