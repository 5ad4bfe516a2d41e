"""What of a record was learned from, and what was recorded later: only that can speak for what was learned.

A record is known by its content's hash, and by the wall's clock: that of a sidecar grows at every tick, and what it grew to has
another hash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...agents.checkpoint import Checkpoint
from ...telemetry.record import Record
from ..run_files import ARGUMENTS
from .stretches import FIRST_WALL_S


@dataclass(frozen=True)
class LearnedFrom:
    """Recorded steps that were learned from."""

    records: frozenset[str] = frozenset()
    """Fingerprints."""
    until_unix_s: float = 0.0
    """When the last of them was made; 0 where nobody knows."""

    def __or__(self, other: LearnedFrom) -> LearnedFrom:
        """Both."""
        return LearnedFrom(self.records | other.records, max(self.until_unix_s, other.until_unix_s))

    def fresh(self, record: Record) -> Record:
        """What of a record was made later."""
        if self.until_unix_s <= 0.0:
            return record
        later = []
        for episode in record.episodes:
            first = int(np.searchsorted(episode.wall_s, self.until_unix_s, side="right"))
            if first < len(episode):
                later.append(episode.between(first, len(episode)) if first else episode)
        return replace(record, episodes=tuple(later))


def learned_from(candidate: Checkpoint) -> LearnedFrom:
    """What a candidate was learned from, as its card tells."""
    return _told(candidate.card.get("finetuned"))


def learned_before(folder: Path) -> LearnedFrom:
    """What a run that is gone on with has learned from already, as its arguments tell."""
    try:
        return _told(json.loads((folder / ARGUMENTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return LearnedFrom()


def _told(document: Any) -> LearnedFrom:
    told = document if isinstance(document, dict) else {}
    records, until = told.get("record"), told.get("recorded_until_unix_s")
    known = isinstance(until, int | float) and not isinstance(until, bool) and until > FIRST_WALL_S
    return LearnedFrom(
        frozenset(str(own) for own in records) if isinstance(records, list) else frozenset(),
        float(until) if known and until is not None else 0.0,
    )


def until_unix_s(record: Record) -> float:
    """When its last tick was made; 0 of a simulated one, whose clock is not the wall's."""
    last = max((float(episode.wall_s.max()) for episode in record.episodes), default=0.0)
    return last if last > FIRST_WALL_S else 0.0


def fingerprint(path: Path) -> str:
    """What stands for a record: of a file its content's hash, of a folder that of its files' names and sizes."""
    if path.is_dir():
        names = sorted(f"{own.name} {own.stat().st_size}" for own in path.iterdir() if own.is_file())
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
