"""What tests run compiled, compiled once: not by every worker, nor by every replica that a test starts.

`python -m poolpilot.tests.compiling` does it ahead of the tests.
"""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

from poolpilot.agents.portfolio import PLAN_TRACKING, policy_factory
from poolpilot.env.compiled_cache import STAMP, is_kept
from poolpilot.env.emulator.following import follow, news
from poolpilot.env.emulator.serving import warm_up
from poolpilot.env.perf.capacities import capacities_some
from poolpilot.env.scenario import load_scenario
from poolpilot.env.sim.advance import advance_some
from poolpilot.training.rollout import rollout
from poolpilot.training.worlds import episode_of

from .env.emulator.conftest import a_spec

LONGEST = (advance_some, capacities_some, follow, news)
"""Compiled with all that they call: a fleet's tick, what a plan asks of the performance model, an emulated engine."""


def compile_once() -> None:
    """Compile what is not kept on disk yet; whoever comes meanwhile waits instead of compiling the same."""
    if all(is_kept(kernel) for kernel in LONGEST):
        return
    with (Path(tempfile.gettempdir()) / f"poolpilot-compiling-{STAMP[:16]}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(is_kept(kernel) for kernel in LONGEST):
            return
        warm_up(a_spec())
        scenario = load_scenario("mixed-chat").model_copy(update={"duration_s": 20.0})
        rollout([episode_of(scenario, 0, 1.0)], policy_factory(PLAN_TRACKING), scenario.tick_s)


if __name__ == "__main__":
    compile_once()
