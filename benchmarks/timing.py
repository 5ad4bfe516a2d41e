"""CPU seconds, memory, and what machine they were measured on. Every case runs in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("numpy", "numba", "highspy", "gymnasium", "stable-baselines3", "torch")


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all its threads, that `work` takes: other people's load adds nothing to it."""
    before = time.process_time()
    work()
    return time.process_time() - before


def peak_mib() -> float:
    """Most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def started_at_s() -> float:
    """When this process began, on the clock of `time.time`."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    booted_s = next(float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
    return booted_s + ticks / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def in_process(command: Sequence[str | Path], env: dict[str, str] | None = None) -> dict[str, Any]:
    """The last line that a command prints, as JSON.

    Raises:
        RuntimeError: it failed; the message is the last line of its stderr.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{' '.join(words)[:200]}: {lines[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def case(kind: str, env: dict[str, str] | None = None, **arguments: object) -> dict[str, Any]:
    """Run one of `cases.CASES` in a process of its own."""
    return in_process([sys.executable, "-m", "poolpilot.benchmarks.cases", kind, json.dumps(arguments)], env)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
