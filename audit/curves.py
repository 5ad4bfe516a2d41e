"""What was measured over time, and the replay's queue beside it, as the rows that figures are drawn from. Pure.

Symbols: `T` steps, `G` groups of steps.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ..env.contract import FloatArray
from ..env.timeline import UNITS, WHOLE, Kind, TimelineRow
from .auditing import Audit
from .measured import Measured

POINTS: Final = 360
"""Of a curve: more than a screen shows apart only makes the page larger."""
SIMULATED: Final = "simulated"
MEASURED: Final = "measured"


def timeline_of(audit: Audit) -> list[TimelineRow]:
    """Load by class, replicas and KV cache by pool, queue of both, dollars per hour."""
    measured = audit.measured
    rows: list[TimelineRow] = []
    rate = measured.arrived / measured.step_s[:, None]
    for c, name in enumerate(measured.class_names):
        rows += _curve(measured, "class", name, "rate_per_s", rate[:, c])
    for p, name in enumerate(measured.pool_names):
        rows += _curve(measured, "pool", name, "replicas", measured.up[:, p])
        rows += _curve(measured, "pool", name, "kv_use", measured.kv_used_frac[:, p])
    if np.isfinite(measured.waiting).any():
        rows += _curve(measured, "whole", MEASURED, "queue", measured.waiting)
        made = audit.replay.observed
        place = np.clip(np.searchsorted(made.time_s, measured.edges_s[:-1], side="right") - 1, 0, None)
        rows += _curve(measured, "whole", SIMULATED, "queue", made.waiting[place])
    rows += _curve(measured, "whole", WHOLE, "usd_per_hr", audit.spent.usd_per_step / measured.step_s * 3600.0)
    return rows


def _curve(measured: Measured, kind: Kind, name: str, measure: str, values: FloatArray) -> list[TimelineRow]:
    """Means over groups of steps; nothing where nothing is known."""
    if not np.isfinite(values).any():
        return []
    width = max(1, math.ceil(len(values) / POINTS))
    group = np.arange(len(values)) // width
    known = np.isfinite(values)
    count = np.bincount(group[known], minlength=int(group[-1]) + 1)
    total = np.bincount(group[known], weights=values[known], minlength=int(group[-1]) + 1)
    begins = measured.edges_s[:-1][::width]
    return [
        {
            "time_s": float(begins[g]),
            "kind": kind,
            "name": name,
            "pool": "",
            "measure": measure,
            "value": float(total[g] / count[g]) if count[g] else None,
            "unit": UNITS[measure],
        }
        for g in range(len(count))
    ]
