"""Which head-rooms to try beyond those that were asked for: until a sweep reaches to both sides of a level, and closer.

What is tried for a policy on a scenario hangs on its own runs alone, so that it is the same for any number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from .frontier import LEVELS, budget_used, neighbours
from .jobs import Job
from .rows import Row

WIDER = 1.4
"""Where every setting holds a level, or none does, the next one is so many times less or more."""
LOWEST, HIGHEST = 0.15, 6.0
"""Head-rooms beyond are not tried."""
CLOSE = 1.04
"""Two head-rooms within this factor are not told apart any further."""
Cell: TypeAlias = tuple[str, str, str]
"""Suite, scenario and policy."""


@dataclass
class _Swept:
    wanted: set[float]
    runs: dict[float, list[Row]] = field(default_factory=dict)
    rounds: dict[float, int] = field(default_factory=dict)


class Sweep:
    """Says what follows from runs that are done."""

    def __init__(self, jobs: Sequence[Job], rounds: int, levels: Sequence[float] = LEVELS) -> None:
        """After `jobs`, try up to `rounds` more head-rooms for each level, of whatever was swept at all."""
        self._levels, self._rounds = levels, rounds
        self._cells: dict[Cell, _Swept] = {}
        for job in jobs:
            self._cells.setdefault(_cell(job), _Swept(set())).wanted.add(job.headroom)

    def after(self, job: Job, rows: list[Row]) -> list[Job]:
        """The jobs that follow when this one is done: none, or one more head-room."""
        swept = self._cells[_cell(job)]
        swept.runs[job.headroom] = rows
        if len(swept.wanted) < 2 or swept.wanted - set(swept.runs):
            return []
        for level in self._levels:
            if swept.rounds.get(level, 0) < self._rounds:
                headroom = next_headroom(swept.runs, level)
                if headroom is not None:
                    swept.rounds[level] = swept.rounds.get(level, 0) + 1
                    swept.wanted.add(headroom)
                    return [Job(job.suite, job.scenario, job.policy, headroom)]
        return []


def next_headroom(runs: Mapping[float, Sequence[Row]], level: float) -> float | None:
    """The head-room that tells most about the cost at `level`; None if no other would tell much more.

    Halfway (in the logarithm) between the two settings that the cost is read off between; beyond the sweep's end where
    it is all to one side of the level.
    """
    headrooms = sorted(runs)
    used = np.array([_used(runs[headroom], level) for headroom in headrooms])
    usd = np.array([float(np.mean([row["usd_per_hr"] for row in runs[headroom]])) for headroom in headrooms])
    if (used <= 1.0).all():
        tried = headrooms[0] / WIDER
    elif (used > 1.0).all():
        tried = headrooms[-1] * WIDER
    else:
        lower, upper = neighbours(used, usd)
        if lower is None or upper is None:
            return None
        one, other = headrooms[lower], headrooms[upper]
        if max(one, other) / min(one, other) < CLOSE:
            return None
        tried = math.sqrt(one * other)
    tried = round(tried, 4)
    return None if tried in headrooms or not LOWEST <= tried <= HIGHEST else tried


def in_order(jobs: Sequence[Job], asked: Sequence[Job]) -> list[Job]:
    """All jobs in one order, whatever order they were done in: as those asked for, then by head-room."""
    place = {cell: i for i, cell in enumerate(dict.fromkeys(_cell(job) for job in asked))}
    return sorted(jobs, key=lambda job: (place[_cell(job)], job.headroom))


def _used(rows: Sequence[Row], level: float) -> float:
    classes = [row["classes"] for row in rows]
    met = np.array([[c["met"] for c in own] for own in classes], dtype=np.float64).sum(axis=0)
    done = np.array([[c["finished"] + c["lost"] for c in own] for own in classes], dtype=np.float64).sum(axis=0)
    return float(budget_used(met, done, np.array([c["wanted"] for c in classes[0]]), level))


def _cell(job: Job) -> Cell:
    return (job.suite, job.scenario, job.policy)
