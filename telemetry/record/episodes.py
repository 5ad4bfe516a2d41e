"""A record taken apart: stretches of consecutive ticks of one cluster, and what is missing or broken between. Pure.

Symbols: `T` ticks, `C` classes, `P` pools, `W` columns of a tally.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

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
from ..store import TickEntry
from .defects import Defect, DefectKind, defects_of
from .lines import DecisionLogError, OtherVersion, document_of, document_of_entry, record_of, sitting_of
from .ticks import Reach, Since, Sitting, TickRecord, nothing_since

T = TypeVar("T")
Item: TypeAlias = tuple[str, "bytes | TickEntry | Defect"]
"""Where, and what is there: a line of a file, an entry of a stream, or what its reader could not read."""

LATE_TICKS: Final = 1.5
"""A step of more than so many ticks is a gap."""
WALL_SLACK_S: Final = 2.0
"""So much, and a tick, may wall and clock differ in one step: a tick is recorded when all its work is done."""


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
    """Consecutive ticks of one cluster under one sitting, stacked: every array's first axis is `T`."""

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

    def between(self, first: int, last: int) -> Episode:
        """Its ticks from `first` up to, not with, `last`."""
        cut = slice(first, last)
        parts = {f.name: _cut(getattr(self, f.name), cut) for f in fields(self) if f.name not in ("sitting", "where")}
        return replace(self, **parts)


@dataclass(frozen=True)
class Record:
    """All that could be read, and what could not."""

    episodes: tuple[Episode, ...]
    """In the order of the record."""
    defects: tuple[Defect, ...]

    @property
    def ticks(self) -> int:
        """Of all episodes."""
        return sum(len(episode) for episode in self.episodes)


def episodes_of(items: Iterable[Item], *, memories: bool = True) -> Record:
    """Episodes, and what is missing or broken, of lines or entries in the order in which they were written.

    Args:
        items: nothing in them is trusted.
        memories: whether to keep what the policies remembered, which is most of a record.
    """
    taking = _Taking(memories)
    for where, content in items:
        taking.take(where, content)
    return taking.done()


class _Taking:
    """Takes lines one by one."""

    def __init__(self, memories: bool) -> None:
        self._memories = memories
        self._sitting: Sitting | None = None
        self._sitting_text = ""
        self._skipping: DefectKind | None = None
        self._rows: list[tuple[str, TickRecord]] = []
        self._episodes: list[Episode] = []
        self._defects: list[Defect] = []

    def take(self, where: str, content: bytes | TickEntry | Defect) -> None:
        if isinstance(content, Defect):
            self._defects.append(content)
            return
        if isinstance(content, bytes) and not content.endswith(b"\n"):
            self._note(DefectKind.TRUNCATED_LINE, where, f"cut in half after {len(content)} bytes")
            return
        try:
            document = self._document(content, where)
            if document is None:
                return
            if self._sitting is None:
                self._skip(self._skipping or DefectKind.NO_SITTING, where)
                return
            record = record_of(document, self._sitting, where)
        except OtherVersion as error:
            self._skip(DefectKind.CHANGED_SCHEMA, where, str(error))
            return
        except DecisionLogError as error:
            self._note(DefectKind.UNREADABLE_LINE, where, _without(where, str(error)))
            return
        self._add(where, record)

    def done(self) -> Record:
        self._close()
        return Record(tuple(self._episodes), tuple(self._defects))

    def _document(self, content: bytes | TickEntry, where: str) -> dict[str, Any] | None:
        """A tick's JSON; None where it was a sitting."""
        if isinstance(content, TickEntry):
            self._sit(document_of(content.sitting_json.encode(), f"{where}: sitting"), where)
            return document_of_entry(content, where)
        document = document_of(content, where)
        if "kind" not in document:
            return document
        self._sit(document, where)
        return None

    def _sit(self, document: dict[str, Any], where: str) -> None:
        """The sitting of the ticks to come; the same one again (a new file) changes nothing."""
        text = json.dumps(document, sort_keys=True)
        if text == self._sitting_text and self._sitting is not None:
            return
        self._close()
        self._sitting, self._sitting_text, self._skipping = None, text, DefectKind.NO_SITTING
        try:
            self._sitting = sitting_of(document, where)
        except OtherVersion:
            self._skipping = DefectKind.CHANGED_SCHEMA
            raise

    def _add(self, where: str, record: TickRecord) -> None:
        if self._rows:
            before = self._rows[-1][1]
            kind, detail = step(before, record)
            if kind is DefectKind.REPEATED_TICK:
                self._note(kind, where, detail)
                return
            if kind is not None or record.decision.tick == 0:
                self._close()
            if kind is not None:
                lost = max(record.decision.tick - before.decision.tick - 1, 0) if kind is DefectKind.GAP else 0
                self._note(kind, where, detail, lost)
        self._rows.append((where, record if self._memories else replace(record, memory={})))

    def _note(self, kind: DefectKind, where: str, detail: str, ticks: int = 1) -> None:
        self._defects.append(Defect(kind, where, "", ticks, detail))

    def _skip(self, kind: DefectKind, where: str, detail: str = "") -> None:
        """Left out; one defect for all that follow each other."""
        last = self._defects[-1] if self._defects else None
        if last is not None and last.kind is kind and self._skipping is kind and not self._rows:
            told = last.detail.split(" (and ", 1)[0]
            more = last.ticks
            self._defects[-1] = replace(last, ticks=more + 1, detail=f"{told} (and {more} more like it)")
            return
        self._close()
        self._skipping = kind
        self._note(kind, where, _without(where, detail) if detail else "no line tells of which cluster it is")

    def _close(self) -> None:
        if self._rows:
            episode = _stacked(self._rows, self._memories)
            self._episodes.append(episode)
            self._defects += defects_of(episode)
            self._rows = []


def step(before: TickRecord, after: TickRecord) -> tuple[DefectKind | None, str]:
    """What is wrong between two ticks that follow each other in a record; None: nothing, or a sidecar began anew."""
    ticks = after.decision.tick - before.decision.tick
    seconds = float(after.snapshot.time_s) - float(before.snapshot.time_s)
    if ticks == 0 and seconds == 0.0:
        return DefectKind.REPEATED_TICK, f"tick {after.decision.tick} is there twice"
    if after.decision.tick == 0:
        return None, ""
    if seconds <= 0.0 or ticks <= 0:
        came = f"tick {after.decision.tick} at {float(after.snapshot.time_s):g} s"
        follows = f"tick {before.decision.tick} at {float(before.snapshot.time_s):g} s"
        return DefectKind.CLOCK_JUMP, f"{came} follows {follows}"
    tick_s = before.sitting.tick_s
    if ticks > 1 or (tick_s > 0 and seconds > LATE_TICKS * tick_s):
        return DefectKind.GAP, f"{ticks - 1} ticks and {seconds:g} s are missing after tick {before.decision.tick}"
    if before.wall_s > 0 and after.wall_s > 0:
        own_s = (after.wall_s - before.wall_s) * before.sitting.speed_up
        slack_s = WALL_SLACK_S * before.sitting.speed_up + seconds
        if abs(own_s - seconds) > slack_s:
            return DefectKind.CLOCK_JUMP, f"{seconds:g} s passed on the decider's clock, {own_s:g} s on the wall's"
    return None, ""


def _without(where: str, message: str) -> str:
    return message.removeprefix(f"{where}: ")


def _cut(value: Any, cut: slice) -> Any:
    if isinstance(value, np.ndarray | tuple):
        return value[cut]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _cut(getattr(value, f.name), cut) for f in fields(value)})
    return value


def _stacked(rows: Sequence[tuple[str, TickRecord]], memories: bool) -> Episode:
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
