"""Runs an evaluation: what is kept already is not run again, and sweeps are carried on where they say too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from .jobs import Job, Plan
from .rows import Row, rows_of, table_of
from .run_folder import RunFolder
from .sweep import Sweep, in_order
from .workers import run_jobs

OnProgress: TypeAlias = Callable[[int, int, Job | None], None]
"""Told the jobs done, all that are known of so far, and the one that ended last."""


def run_evaluation(
    plan: Plan,
    asked: Sequence[Job],
    refine: int = 0,
    workers: int = 1,
    folder: RunFolder | None = None,
    on_progress: OnProgress | None = None,
) -> list[Row]:
    """The rows of the jobs asked for and of those that follow from them (`sweep`), the same for any number of workers.

    Raises:
        WorkerDied: a worker's process ended twice in the middle of one job; what was done before is in the folder.
    """
    sweep, kept = Sweep(asked, refine), dict(folder.done) if folder else {}
    done: dict[Job, list[Row]] = {}

    def not_kept(jobs: Sequence[Job]) -> list[Job]:
        """Those to be run; the others are taken as done, with what follows from them."""
        left, waiting = [], list(jobs)
        while waiting:
            job = waiting.pop(0)
            if job in kept:
                done[job] = kept[job]
                waiting += sweep.after(job, kept[job])
            else:
                left.append(job)
        return left

    left = not_kept(asked)
    known = len(done) + len(left)

    def on_done(job: Job, rows: list[Row]) -> list[Job]:
        nonlocal known
        if folder is not None:
            folder.add(job, rows)
        before = len(done)
        done[job] = rows
        following = not_kept(sweep.after(job, rows))
        known += len(following) + len(done) - before - 1
        if on_progress:
            on_progress(len(done), known, job)
        return following

    if on_progress:
        on_progress(len(done), known, None)
    if left:
        run_jobs(left, plan, workers, on_done)
    ordered = in_order(list(done), asked)
    if folder is not None:
        folder.finish(ordered)
    return rows_of(table_of([row for job in ordered for row in done[job]]))
