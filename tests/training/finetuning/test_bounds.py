"""What a learner may take of the machine that serves."""

import os
import subprocess
import sys

import pytest

from poolpilot.training.finetuning.bounds import BoundError, Bounds, held_bytes


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    """The bounds hold for a process: they are tried in one of their own."""
    head = "from poolpilot.training.finetuning.bounds import *\nimport os, resource\n"
    return subprocess.run([sys.executable, "-c", head + code], check=False, capture_output=True, text=True, timeout=120)


def test_a_learner_has_the_lowest_priority_there_is() -> None:
    # Whoever may has begun it before others: it is last all the same.
    before = "import contextlib\nwith contextlib.suppress(PermissionError): os.nice(-3)\n"
    done = in_a_process(f"{before}yield_to_others(); print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE)")
    nice, idle = done.stdout.split()
    assert nice == "19"
    assert idle == "True"


def test_the_kernel_refuses_memory_beyond_the_bound() -> None:
    done = in_a_process("hold_to(Bounds(memory_mb=700)); print('held'); b'x' * 10**9")
    assert done.stdout.strip() == "held"
    assert "MemoryError" in done.stderr


def test_the_kernel_ends_a_learner_that_does_not_stop_by_itself() -> None:
    done = in_a_process(
        "import poolpilot.training.finetuning.bounds as b; b.CPU_GRACE_S = 0.0\nhold_to(Bounds(cpu_s=1.0))\nwhile True: pass"
    )
    assert done.returncode < 0


def test_a_learner_that_is_asked_to_stop_keeps_going_until_it_can() -> None:
    code = (
        "import signal\nbounds = Bounds()\nwith stopping_gently(bounds):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print(bounds.reason_to_stop())\n"
    )
    assert in_a_process(code).stdout.strip() == "asked to by SIGTERM"


def test_it_stops_when_its_time_is_spent() -> None:
    bounds = Bounds(cpu_s=1e-9)
    assert bounds.reason_to_stop().endswith("CPU seconds are spent")
    assert Bounds().reason_to_stop() == ""


def test_memory_that_runs_out_is_said_with_what_would_help() -> None:
    assert held_bytes() > 10e6
    bounds = Bounds()
    bounds.memory_mb = 1.0
    with pytest.raises(BoundError, match=r"--memory-mb 1: \d+ MB are in use; allow more, or ask for fewer --clusters"):
        bounds.reason_to_stop()


def test_this_process_keeps_its_own_priority() -> None:
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
