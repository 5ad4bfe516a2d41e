"""Consecutive ticks of one cluster as arrays. Pure.

Symbols: `T` ticks, `C` classes, `P` pools, `L` layers of the bill, `K` parts of its idle layer, `W` columns of a tally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...env.contract import (
    Action,
    Answer,
    BoolArray,
    FloatArray,
    IntArray,
    Memory,
    Plan,
    Reason,
    ScalingCost,
    Snapshot,
)
from ...env.guard import GuardState
from .ticks import Reach, Since, Sitting, TickRecord, nothing_since

T = TypeVar("T")

LATE_TICKS: Final = 1.5
"""A tick that comes more than so many after the one before is late: nobody decided in at least one slot between."""


@dataclass(frozen=True)
class Outcomes:
    """What came of the decisions before, tick by tick; see `Since`."""

    span_s: FloatArray
    """`[T]`"""
    usd: FloatArray
    """`[T, P, L]`"""
    class_usd: FloatArray
    """`[T, C]`"""
    idle_usd: FloatArray
    """`[T, K]`"""
    tally: NDArray[np.float32]
    """`[T, C, W]` in single precision: a week of ticks fits into memory."""
    told: FloatArray
    """`[T, C]`"""


@dataclass(frozen=True)
class Episode:
    """Consecutive ticks of one cluster under one sitting, stacked: every array's first axis is `T`.

    Consecutive are decisions, not slots of a clock: a tick that came late (`lasted_ticks`) is there as any other, and what is
    told of the time before it is of all that time.
    """

    sitting: Sitting
    where: str
    """File and line, or entry of the stream, of its first tick."""
    tick: IntArray
    """`[T]`"""
    time_s: FloatArray
    """`[T]` on the decider's clock."""
    wall_s: FloatArray
    """`[T]` since 1970."""
    snapshot: Snapshot
    plan: Plan
    proposed: Action
    applied: Action
    in_force: Action
    """What stood in the world until the tick after."""
    guard_state: GuardState
    reach: tuple[Reach, ...]
    fell_back: BoolArray
    """`[T]`"""
    policy_hash: tuple[str, ...]
    policy_name: tuple[str, ...]
    reasons: tuple[tuple[Reason, ...], ...]
    scaling: tuple[tuple[ScalingCost, ...], ...]
    answer: tuple[Answer | None, ...]
    """What a network answered; None where a rule decided."""
    since: Outcomes
    """What came of the tick before. What came of tick `t` stands in row `t + 1`."""
    counted: BoolArray
    """`[T]` whether `since` was counted."""
    memory: tuple[Memory, ...] = field(repr=False)
    """Before each decision; empty where they were not asked for."""

    def __len__(self) -> int:
        """How many ticks."""
        return len(self.tick)

    @property
    def duration_s(self) -> float:
        """From its first tick to its last."""
        return float(self.time_s[-1] - self.time_s[0])

    @property
    def tick_s(self) -> float:
        """Seconds from tick to tick, where none is late; NaN of a single one of which nobody said it."""
        own = self.sitting.tick_s
        if own > 0 or len(self) < 2:
            return own
        return float(np.median(np.diff(self.time_s)))

    @property
    def lasted_s(self) -> FloatArray:
        """`[T]` seconds of the decider's clock from the row before to each row: so long stood what was in force in the row
        before. 0 at the first."""
        return np.diff(self.time_s, prepend=self.time_s[:1])

    @property
    def lasted_ticks(self) -> FloatArray:
        """`[T]` the same in ticks: about 1, and more where a tick came late."""
        lasted: FloatArray = self.lasted_s / self.tick_s
        return lasted

    def between(self, first: int, last: int) -> Episode:
        """Its ticks from `first` up to, not with, `last`."""
        cut = slice(first, last)
        parts = {f.name: _cut(getattr(self, f.name), cut) for f in fields(self) if f.name not in ("sitting", "where")}
        return replace(self, **parts)


def _cut(value: Any, cut: slice) -> Any:
    if isinstance(value, np.ndarray | tuple):
        return value[cut]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _cut(getattr(value, f.name), cut) for f in fields(value)})
    return value


def stacked(rows: Sequence[tuple[str, TickRecord]], memories: bool) -> Episode:
    """Ticks of one sitting, each with where it stands, as one episode; see `Episode.memory` for `memories`."""
    records = [record for _, record in rows]
    sitting = records[0].sitting
    nothing = nothing_since(sitting.cluster)
    return Episode(
        sitting=sitting,
        where=rows[0][0],
        tick=np.array([r.decision.tick for r in records], dtype=np.int64),
        time_s=np.array([float(r.snapshot.time_s) for r in records]),
        wall_s=np.array([r.wall_s for r in records]),
        snapshot=_stack([r.snapshot for r in records]),
        plan=_stack([r.plan for r in records]),
        proposed=_stack([r.decision.proposed for r in records]),
        applied=_stack([r.decision.applied for r in records]),
        in_force=_stack([r.stands for r in records]),
        guard_state=_stack([r.guard_state for r in records]),
        reach=tuple(r.reach for r in records),
        fell_back=np.array([r.fell_back for r in records], dtype=np.bool_),
        policy_hash=tuple(r.decision.policy_hash for r in records),
        policy_name=tuple(r.decision.policy_name for r in records),
        reasons=tuple(r.decision.reasons for r in records),
        scaling=tuple(r.scaling for r in records),
        answer=tuple(r.answer for r in records),
        since=_outcomes([r.since or nothing for r in records]),
        counted=np.array([r.since is not None for r in records], dtype=np.bool_),
        memory=tuple(r.memory for r in records) if memories else (),
    )


def _outcomes(rows: Sequence[Since]) -> Outcomes:
    return Outcomes(
        span_s=np.array([row.span_s for row in rows]),
        usd=np.stack([row.usd for row in rows]),
        class_usd=np.stack([row.class_usd for row in rows]),
        idle_usd=np.stack([row.idle_usd for row in rows]),
        tally=np.stack([row.tally.astype(np.float32) for row in rows]),
        told=np.stack([row.told for row in rows]),
    )


def _stack(values: Sequence[T]) -> T:
    """Dataclasses of arrays as one with a leading axis."""
    kind = type(values[0])
    parts = {}
    for f in fields(kind):  # type: ignore[arg-type]
        column = [getattr(value, f.name) for value in values]
        parts[f.name] = _stack(column) if is_dataclass(column[0]) else np.stack(column)
    return kind(**parts)
