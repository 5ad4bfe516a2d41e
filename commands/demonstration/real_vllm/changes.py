"""What changed while a run went on, as the engines and the actuators said: replicas, caps, weights. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ....telemetry.record import TickRecord


@dataclass(frozen=True)
class PoolChanges:
    """One pool over a run: each series without repetitions, in order."""

    name: str
    ready: tuple[int, ...]
    """Replicas that served, as seen."""
    asleep: tuple[int, ...]
    batch_cap: tuple[int, ...]
    """Of the tightest engine, as its own metrics page said: what was taken, not what was asked for."""
    weight_percent: tuple[int, ...]
    """Share of the first class that was sent here, as decided."""


def pool_changes(ticks: Sequence[TickRecord]) -> tuple[PoolChanges, ...]:
    """What each pool went through; unknown values are left out."""
    if not ticks:
        return ()
    names = ticks[0].sitting.cluster.pool_names

    def seen(column: str, p: int) -> tuple[int, ...]:
        known = (t.snapshot for t in ticks if bool(t.snapshot.known(column)[p]))
        return _runs([round(float(getattr(snapshot, column)[p])) for snapshot in known])

    return tuple(
        PoolChanges(
            name,
            ready=seen("ready", p),
            asleep=seen("asleep", p),
            batch_cap=seen("batch_cap", p),
            weight_percent=_runs([round(100.0 * float(t.decision.applied.route[0, p])) for t in ticks]),
        )
        for p, name in enumerate(names)
    )


def _runs(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(value for value, _ in groupby(values))
