"""A record taken apart: stretches of consecutive ticks of one cluster, and what is missing or broken between. Pure.

Symbols: `T` ticks, `C` classes, `P` pools, `W` columns of a tally.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from ..store import TickEntry
from .defects import Defect, DefectKind, defects_of
from .episode import LATE_TICKS, Episode, stacked
from .lines import DecisionLogError, OtherVersion, document_of, document_of_entry, record_of, sitting_of
from .ticks import Sitting, TickRecord

Item: TypeAlias = tuple[str, "bytes | TickEntry | Defect"]
"""Where, and what is there: a line of a file, an entry of a stream, or what its reader could not read."""

LATEST_TICKS: Final = 6.5
"""A step of more than so many ticks is a gap, whatever was counted over it: for so long the action before stands in the twin
too, and requests come within it at random. It is the length over which lengths of requests are told (`GROUP_TICKS` of
`training.finetuning.requests`), and over which an action of the learner is held."""
COUNTED_SLACK_TICKS: Final = 0.1
"""By so much may what was counted be of another length than the step. A tick that is lost is missing whole."""
WALL_SLACK_S: Final = 2.0
"""So much, and what a tick's work takes, may wall and clock differ in one step: it is recorded when all of that is done."""


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
            episode = stacked(self._rows, self._memories)
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
    late = tick_s > 0 and seconds > LATE_TICKS * tick_s
    if ticks > 1 or (late and not covered(after, seconds)):
        return DefectKind.GAP, f"{ticks - 1} ticks and {seconds:g} s are missing after tick {before.decision.tick}"
    if before.wall_s > 0 and after.wall_s > 0:
        speed_up = before.sitting.speed_up
        ahead_s = (after.wall_s - before.wall_s) * speed_up - seconds
        slack_s = WALL_SLACK_S * speed_up
        # The work of the tick before was done by now, that of this one before the next that is no gap.
        most_s = LATEST_TICKS * tick_s if tick_s > 0 else seconds
        if not -seconds - slack_s <= ahead_s <= most_s + slack_s:
            told = f"{seconds:g} s passed on the decider's clock, {ahead_s + seconds:g} s on the wall's"
            return DefectKind.CLOCK_JUMP, told
    return None, ""


def covered(late: TickRecord, seconds: float) -> bool:
    """Whether nothing is lost of the `seconds` before a tick that came late: bill and requests were counted over all of them."""
    tick_s, since = late.sitting.tick_s, late.since
    if since is None or seconds > LATEST_TICKS * tick_s:
        return False
    return abs(since.span_s - seconds) <= COUNTED_SLACK_TICKS * tick_s


def _without(where: str, message: str) -> str:
    return message.removeprefix(f"{where}: ")
