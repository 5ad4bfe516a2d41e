"""Gate (c): the candidate asks for no more that the guard must forbid, and does not lead where nobody has looked yet.

Vetoes are counted in the twin, where each policy lives with what it did. What the guard forbids (a limit of a budget, a pool, a
route) is one thing, what it has done later or in steps is another: who lets go of a replica sooner asks for it at each tick
of a cooldown, and gets it when that is over. What a policy leads to is what it saw there: each
column of a snapshot, pool by pool and class by class, beside the range that the live record has of it. Outside, the twin
and all that was learned in it are guesses.

Symbols: `T` ticks, `C` classes, `P` pools, `N` columns of classes and pools, flattened.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from ....agents.registry import RANGES, Verdict
from ....env.contract import CLASS_COLUMNS, POOL_COLUMNS, FloatArray, ReasonCode, Snapshot
from ...evaluation.bootstrap import Interval, hierarchical, resamples
from .days import Lived
from .finding import Finding
from .paired import told
from .twin import TwinRuns

PACING: Final = frozenset(
    {ReasonCode.SCALE_STEP, ReasonCode.SCALE_DOWN_COOLDOWN, ReasonCode.PENDING_STARTS, ReasonCode.DRAIN_FIRST}
)
"""What is done, and only later or in steps."""
VETO_SLACK: Final = 0.02
"""Vetoes a tick: with fewer more, chance is as good an explanation."""
PACING_SLACK: Final = 0.1
"""Of pacing: a tenth of all vetoes with which a mode's gate lets a policy rise (`control.gates.vetoes_per_tick`)."""
OUTSIDE_SLACK: Final = 0.01
"""Of all figures that were seen: with a smaller share more outside the range, too."""
WIDER: Final = 0.1
"""A range is taken for so much wider to both sides, in its own widths: a record has not seen the last of any figure."""
WORST_SHOWN: Final = 3
_UNBOUNDED: Final = frozenset({"telemetry_age_s", "cold_start_s", "preemptions_per_hr", "usd_per_hr"})
"""What a policy has no influence on."""


def ranges_gate(runs: TwinRuns, live: Sequence[Snapshot]) -> Finding:
    """Whether the candidate keeps to what is allowed and known.

    Args:
        runs: of both in the twin (`twin.twin_runs`).
        live: recorded snapshots, each of any number of ticks `[T, ...]`.
    """
    forbidden, paced = _vetoes(runs, set(ReasonCode) - PACING), _vetoes(runs, PACING)
    low, high = _range(live)
    outside, worst = _outside(runs, low, high, _names(runs))
    figures = {
        "vetoes_per_tick": forbidden.as_json(),
        "paced_per_tick": paced.as_json(),
        "outside_frac": outside.as_json(),
        "outside_worst": [{"figure": name, "more_often_frac": share} for name, share in worst],
        "recorded_ticks": int(sum(_flat(own).shape[0] for own in live)),
    }
    inputs = dict(runs.inputs)
    said = f"vetoes a tick {told(forbidden)}, of pacing {told(paced)}, outside the recorded range {told(outside)}"
    where = ", ".join(name for name, _ in worst)
    questions = (
        (forbidden, VETO_SLACK, "more vetoes a tick", ""),
        (paced, PACING_SLACK, "is held back more often", ""),
        (outside, OUTSIDE_SLACK, "leaves the recorded range more often", f"; most by {where}"),
    )
    worse = [
        (own, f"{what}: {told(own)}, wanted at most {line:+g}{more}")
        for own, line, what, more in questions
        if own.mean > 0 and own.high > line
    ]
    if worse:
        verdict = Verdict.FAIL if any(own.low > 0 for own, _ in worse) else Verdict.UNKNOWN
        return Finding(RANGES, verdict, "; ".join(why for _, why in worse), figures, inputs)
    return Finding(RANGES, Verdict.PASS, said, figures, inputs)


def _vetoes(runs: TwinRuns, codes: Collection[ReasonCode]) -> Interval:
    """The candidate's less the incumbent's, a tick."""

    def counted(lived: Sequence[Lived]) -> list[list[float]]:
        return [
            [sum(n for code, n in run.vetoes.items() if code in codes) / len(run.replicas) for run in day.results]
            for day in lived
        ]

    difference = np.array(counted(runs.candidate)) - np.array(counted(runs.incumbent))
    return hierarchical(difference, resamples(*difference.shape))


def _range(live: Sequence[Snapshot]) -> tuple[FloatArray, FloatArray]:
    """`[N]` lower and upper ends; infinite where the record never knew a figure: nothing can be outside then."""
    rows = np.concatenate([_flat(own) for own in live])
    known = ~np.isnan(rows)
    low = np.where(known, rows, np.inf).min(axis=0)
    high = np.where(known, rows, -np.inf).max(axis=0)
    never = ~known.any(axis=0)
    width = np.where(never, 0.0, high - low)
    margin = WIDER * np.maximum(width, 1e-9)
    return np.where(never, -np.inf, low - margin), np.where(never, np.inf, high + margin)


def _outside(
    runs: TwinRuns, low: FloatArray, high: FloatArray, names: Sequence[str]
) -> tuple[Interval, list[tuple[str, float]]]:
    """How much more of what the candidate saw lies outside, and where most."""

    def shares(lived: Sequence[Lived]) -> FloatArray:
        """`[S, K, N]` of the ticks at which a figure lay outside."""
        of_days = []
        for day in lived:
            rows = np.stack([_flat_batch(snapshot) for snapshot in day.seen])  # [T, K, N]
            known = ~np.isnan(rows)
            beyond = known & ((rows < low) | (rows > high))
            of_days.append(beyond.sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        return np.stack(of_days)

    more = shares(runs.candidate) - shares(runs.incumbent)
    by_figure = more.mean(axis=(0, 1))
    worst = [(names[n], float(by_figure[n])) for n in np.argsort(-by_figure)[:WORST_SHOWN] if by_figure[n] > 0]
    mean = more.mean(axis=2)
    return hierarchical(mean, resamples(*mean.shape)), worst


def _names(runs: TwinRuns) -> list[str]:
    cluster = runs.days[0].scenario.cluster()
    classes = [f"{name}.{column}" for name in cluster.class_names for column in _columns(CLASS_COLUMNS)]
    return classes + [f"{name}.{column}" for name in cluster.pool_names for column in _columns(POOL_COLUMNS)]


def _columns(columns: Sequence[object]) -> list[str]:
    return [name for c in columns if (name := str(getattr(c, "name", ""))) not in _UNBOUNDED]


_CLASS_AT: Final = [i for i, c in enumerate(CLASS_COLUMNS) if c.name not in _UNBOUNDED]
_POOL_AT: Final = [i for i, c in enumerate(POOL_COLUMNS) if c.name not in _UNBOUNDED]


def _flat(snapshots: Snapshot) -> FloatArray:
    """`[T, N]` of a stack of ticks, or of one."""
    rows = _flat_batch(snapshots)
    return rows if rows.ndim > 1 else rows[None]


def _flat_batch(snapshot: Snapshot) -> FloatArray:
    """`[..., N]`"""
    classes, pools = snapshot.classes[..., _CLASS_AT], snapshot.pools[..., _POOL_AT]
    lead = classes.shape[:-2]
    flat: FloatArray = np.concatenate([classes.reshape(*lead, -1), pools.reshape(*lead, -1)], axis=-1)
    return flat
