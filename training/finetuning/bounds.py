"""A learner runs beside what serves: at the lowest priority, on one thread, within so much processor time and memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

NICEST: Final = 19
CPU_GRACE_S: Final = 60.0
"""A learner that does not stop by itself is ended by the kernel so much later."""
LEAST_MEMORY_MB: Final = 600
"""Python with torch and the compiled simulator holds 400 MB before it does anything."""
MEMORY_GRACE: Final = 1.25
"""Beyond this many times the bound the kernel refuses to give memory."""
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class BoundError(ValueError):
    """A bound cannot be kept; the message says which, and what would be right."""


@dataclass
class Bounds:
    """What a learner may take, and whether it has been asked to stop."""

    cpu_s: float = float("inf")
    """Processor seconds of this process."""
    memory_mb: float = float("inf")
    """10^6 bytes of private memory."""
    stopped_by: str = field(default="", init=False)
    """The signal that asked it to stop."""
    _started_cpu_s: float = field(default_factory=time.process_time, init=False)

    def __post_init__(self) -> None:
        """BoundError for a bound in which nothing could be learned."""
        if self.memory_mb < LEAST_MEMORY_MB:
            raise BoundError(f"--memory-mb {self.memory_mb:g}: wanted {LEAST_MEMORY_MB} or more")

    @property
    def spent_s(self) -> float:
        """Processor seconds since the bounds were made."""
        return time.process_time() - self._started_cpu_s

    def reason_to_stop(self) -> str:
        """Why learning must stop now, its state kept; empty while it need not.

        Raises:
            BoundError: memory has run out: going on is of no use with the same bound.
        """
        if self.stopped_by:
            return f"asked to by {self.stopped_by}"
        if self.spent_s >= self.cpu_s:
            return f"{self.spent_s:.0f} of {self.cpu_s:.0f} CPU seconds are spent"
        used = held_bytes() / 1e6
        if used > self.memory_mb:
            raise BoundError(
                f"--memory-mb {self.memory_mb:g}: {used:.0f} MB are in use; allow more, or ask for fewer --clusters or"
                " a smaller --bank"
            )
        return ""


def held_bytes() -> int:
    """Private memory that this process holds."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # where there is no /proc: the most it ever held
    return most if sys.platform == "darwin" else most * 1024


def yield_to_others() -> None:
    """Give this process, and all its threads to come, the lowest priority that there is."""
    os.setpriority(os.PRIO_PROCESS, 0, NICEST)  # wherever it was begun from: `os.nice` counts from there
    idle: Any = getattr(os, "SCHED_IDLE", None)
    if idle is not None:
        with suppress(OSError, AttributeError):  # a container may forbid it; the nice value holds all the same
            os.sched_setscheduler(0, idle, os.sched_param(0))


def one_thread() -> None:
    """For libraries that are loaded after this: one thread each."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"


def hold_to(bounds: Bounds) -> None:
    """Have the kernel hold this process to its bounds, with some grace: it stops by itself before."""
    if bounds.cpu_s != float("inf"):
        _lower(resource.RLIMIT_CPU, int(time.process_time() + bounds.cpu_s + CPU_GRACE_S))
    if bounds.memory_mb != float("inf"):
        _lower(resource.RLIMIT_DATA, int(bounds.memory_mb * MEMORY_GRACE * 1e6))


@contextmanager
def stopping_gently(bounds: Bounds) -> Iterator[None]:
    """Within, SIGTERM and SIGINT stop the learner at its next update, its state kept; a second one stops it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if bounds.stopped_by:
            raise KeyboardInterrupt
        bounds.stopped_by = signal.Signals(number).name

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lower(which: int, limit: int) -> None:
    soft, hard = resource.getrlimit(which)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(which, (most, hard))
