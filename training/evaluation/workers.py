"""Runs jobs over processes. What comes out is the same for any number of them: a job hangs on nothing but itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from typing import Self, TypeAlias

from ...env.compiled_cache import is_kept
from ...env.sim.advance import advance_some
from .jobs import Job, Plan, Stage, run_job, stage_of
from .rows import Row

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Processes are the parallelism: libraries that start threads in each would only get in each other's way."""
OnDone: TypeAlias = Callable[[Job, list[Row]], Sequence[Job]]
"""Told of a job that is done; says which jobs follow from it."""
Place: TypeAlias = tuple[str, str]
"""A suite's scenario."""


class WorkerDied(ValueError):
    """A process ended in the middle of a job; the message is one line that names it."""


class Worker:
    """Runs jobs one after another, and keeps the days of the last scenario."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is drawn yet."""
        self._plan = plan
        self._kept: tuple[Place, Stage] | None = None

    def run(self, job: Job) -> list[Row]:
        """The job's rows; errors carry a note that names it."""
        place = (job.suite, job.scenario)
        try:
            if self._kept is None or self._kept[0] != place:
                self._kept = None  # let go of the old days first
                self._kept = (place, stage_of(self._plan.scenarios[place], self._plan.seeds))
            return run_job(job, self._plan, self._kept[1])
        except Exception as error:
            error.add_note(f"while running {job}")
            raise


class Queue:
    """Jobs left, handed out so that a worker stays with a scenario whose days it has drawn."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        """In the order of `jobs`."""
        self._left: dict[Place, deque[Job]] = {}
        self._begun: set[Place] = set()
        self.add(jobs)

    def add(self, jobs: Sequence[Job]) -> None:
        """More jobs, after those of their scenarios."""
        for job in jobs:
            self._left.setdefault((job.suite, job.scenario), deque()).append(job)

    def next(self, before: Job | None) -> Job | None:
        """A job for who ran `before`: of the same scenario, else of one not begun, else of that with most left."""
        own = (before.suite, before.scenario) if before else None
        if own is None or not self._left.get(own):
            open_ones = [place for place, jobs in self._left.items() if jobs]
            if not open_ones:
                return None
            untouched = [place for place in open_ones if place not in self._begun]
            own = untouched[0] if untouched else max(open_ones, key=lambda place: len(self._left[place]))
        self._begun.add(own)
        return self._left[own].popleft()


def run_jobs(jobs: Sequence[Job], plan: Plan, workers: int, on_done: OnDone) -> None:
    """Run every job and those that follow; `on_done` is told of each, in this process, in the order in which they end.

    Raises:
        WorkerDied: a process ended in the middle of a job, and the next one in the middle of the same job.
    """
    queue = Queue(jobs)
    if workers == 1:
        _alone(queue, plan, on_done)
        return
    if not is_kept(advance_some):
        # The simulator has yet to be compiled: once, not in every process.
        _alone(queue, plan, on_done, most=1)
    with _one_thread(), ExitStack() as stack:
        hands = [stack.enter_context(_Hand(plan)) for _ in range(min(workers, len(jobs)))]
        _spread(queue, hands, on_done)


def _alone(queue: Queue, plan: Plan, on_done: OnDone, most: int | None = None) -> None:
    worker, job, count = Worker(plan), None, 0
    while (most is None or count < most) and (job := queue.next(job)) is not None:
        queue.add(on_done(job, worker.run(job)))
        count += 1


def _spread(queue: Queue, hands: Sequence[_Hand], on_done: OnDone) -> None:
    running: dict[Future[list[Row]], tuple[_Hand, Job]] = {}
    idle: dict[_Hand, Job | None] = dict.fromkeys(hands)
    struck: set[Job] = set()

    def start() -> None:
        """Give the idle what there is, each what suits what it did before."""
        for hand, before in list(idle.items()):
            job = queue.next(before)
            if job is not None:
                del idle[hand]
                running[hand.submit(job)] = (hand, job)

    start()
    while running:
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            hand, job = running.pop(future)
            try:
                rows = future.result()
            except BrokenProcessPool:
                if job in struck:
                    raise WorkerDied(
                        f"{job}: its process died, twice (out of memory, or killed?); what was done before is kept"
                    ) from None
                struck.add(job)
                hand.replace()
                running[hand.submit(job)] = (hand, job)
                continue
            queue.add(on_done(job, rows))
            idle[hand] = job
            start()


class _Hand:
    """One process that runs one job at a time, so that it is known which job it was if the process dies."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pool = self._fresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, job: Job) -> Future[list[Row]]:
        return self._pool.submit(_run_here, job)

    def replace(self) -> None:
        """Go on with a fresh process."""
        self._pool.shutdown(wait=False)
        self._pool = self._fresh()

    def _fresh(self) -> ProcessPoolExecutor:
        kinds = multiprocessing.get_all_start_methods()
        # A server that has loaded everything once forks workers at once; where there is none, each loads it itself.
        context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
        if "forkserver" in kinds:
            context.set_forkserver_preload([__name__])
        return ProcessPoolExecutor(1, context, _begin, (self._plan,))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_worker: Worker | None = None
"""The one of this process."""


def _begin(plan: Plan) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops everything; ten tracebacks help nobody
    _worker = Worker(plan)


def _run_here(job: Job) -> list[Row]:
    assert _worker is not None
    return _worker.run(job)
