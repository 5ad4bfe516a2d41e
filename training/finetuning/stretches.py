"""Which parts of a record are fitted, and which are held out to judge the fit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import numpy as np

from ...env.contract import FloatArray, IntArray
from ...telemetry.record import Defect, Episode, Record
from ...telemetry.record.defects import SUSPECT
from .machines import start_fracs

DAY_S: Final = 86_400.0
FEWEST_TICKS: Final = 30
"""A shorter stretch is not looked at: most of it would be how it begins."""
WARM_TICKS: Final = 30
"""Simulated before a stretch that begins amid traffic, and not looked at."""
COLD_TICKS: Final = 6
"""Not looked at where nothing was recorded before."""
PIECES: Final = 6
"""A record of less than two days is cut into so many."""
HELD_OUT_EVERY: Final = 3
"""Each so many-th stretch is held out."""


FIRST_WALL_S: Final = 1e9
"""No record is older; an earlier time is of a simulation."""


class RefitError(ValueError):
    """Nothing can be fitted to this record; the message says why."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive ticks, of which the first `warm` only lead up to it."""

    name: str
    episode: Episode
    warm: int
    held_out: bool
    start_frac: FloatArray
    """`[T, P]` how long the starts took that each row's action asked for, over the mean of their pool in the whole record."""

    @property
    def ticks(self) -> int:
        """That are looked at: steps from one row to the next, after the warm ones."""
        return len(self.episode) - 1 - self.warm


def stretches_of(record: Record) -> tuple[list[Stretch], list[Defect]]:
    """The stretches of a record by day (UTC), or of a shorter one by sixths; each third is held out, at least one.

    Episodes that contradict themselves (`record.defects.SUSPECT`) are left out, and the reasons returned.

    Raises:
        RefitError: too little is left.
    """
    suspect = [defect for defect in record.defects if defect.kind in SUSPECT]
    bad = {defect.where for defect in suspect}
    good = [episode for episode in record.episodes if episode.where not in bad]
    total = sum(len(episode) for episode in good)
    if not any(len(episode) >= 2 * FEWEST_TICKS for episode in good):
        why = f"; left out: {suspect[0]}" if suspect else ""
        raise RefitError(f"{total} usable ticks, wanted a stretch of at least {2 * FEWEST_TICKS} in a row{why}")
    spans = [episode.duration_s for episode in good]
    by_day = sum(spans) >= 2 * DAY_S
    size = max(FEWEST_TICKS, total // PIECES)
    found: list[tuple[str, Episode, int, FloatArray]] = []
    for episode, start_frac in zip(good, start_fracs(good), strict=True):
        edges = _days(episode) if by_day else _pieces(len(episode), size)
        for first, last in pairwise(edges.tolist()):
            if last - first < FEWEST_TICKS:
                continue
            warm = min(WARM_TICKS, first) or COLD_TICKS
            began = max(first - WARM_TICKS, 0)
            found.append((_name(episode, first), episode.between(began, last), warm, start_frac[began:last]))
    held_out = {n for n in range(len(found)) if n % HELD_OUT_EVERY == HELD_OUT_EVERY - 1} or {len(found) - 1}
    if len(found) < 2:
        raise RefitError(f"one stretch of {total} ticks, wanted at least two: one to fit and one to judge by")
    stretches = [
        Stretch(name, own, warm, n in held_out, start_frac) for n, (name, own, warm, start_frac) in enumerate(found)
    ]
    return stretches, suspect


def _pieces(n_ticks: int, size: int) -> IntArray:
    whole = max(n_ticks // size, 1)
    return np.append(np.arange(whole) * size, n_ticks)


def _days(episode: Episode) -> IntArray:
    """Rows at which a day of the wall's clock begins, both ends included."""
    day = np.floor(episode.wall_s / DAY_S)
    starts = np.flatnonzero(np.diff(day)) + 1
    return np.concatenate([[0], starts, [len(episode)]])


def _name(episode: Episode, first: int) -> str:
    wall_s = float(episode.wall_s[first])
    moment = datetime.fromtimestamp(wall_s, UTC) if FIRST_WALL_S < wall_s < 4e9 else None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else f"tick {int(episode.tick[first])}"


def fitted(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Those that a fit may look at."""
    return [stretch for stretch in stretches if not stretch.held_out]
