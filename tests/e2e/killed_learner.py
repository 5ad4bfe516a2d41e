"""A learner that is killed again and again, at moments that nobody chose, while it hands candidates to a registry.

    python -m poolpilot.tests.e2e.killed_learner REGISTRY FOLDER KILLS

Each life begins anew where the last one ended: it adds a version, writes evidence down, has it tried, ends that, promotes it
and goes back from it. The last one is left alone; what it promotes is what decides at the end. Prints how many were killed
in the middle of something.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from poolpilot.agents.registry import Conflict, NoEvidence, Registry
from poolpilot.tests.agents.registry.candidates import a_checkpoint, let_through

LONGEST_LIFE_S = 0.25


def one_life(folder: Path, made: list[Path], life: int, last: bool) -> None:
    """Everything that a learner does to a registry, once or, until it is killed, again and again."""
    rng = random.Random(life)
    while True:
        registry = Registry(folder)
        incumbent = registry.incumbent()
        version = registry.add(made[-1] if last else rng.choice(made))
        if version == incumbent:
            if last:
                return
            registry.rollback("once more")
            continue
        let_through(registry, version)
        try:
            if not registry.state().on_trial:
                registry.begin_trial(version, incumbent, force="a drill")
            registry.end_trial(registry.state().on_trial, "a drill")
            registry.promote(version, incumbent, force="a drill")
        except (Conflict, NoEvidence):
            continue  # the sidecar moved it first


def main(folder: Path, place: Path, kills: int) -> int:
    """How many lives were cut short; the last one came to its end."""
    # Near the neutral one, each in its own way: whichever decides, nobody suffers.
    made = [a_checkpoint(place / f"c{k}", name=f"c{k}", class_output=(0.01 * k, 0.0)) for k in range(1, 4)]
    cut = 0
    for life in range(kills):
        child = os.fork()
        if child == 0:
            try:
                one_life(folder, made, life, last=False)
            finally:
                os._exit(1)
        time.sleep(random.Random(1000 + life).uniform(0.0, LONGEST_LIFE_S))
        os.kill(child, signal.SIGKILL)
        cut += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    one_life(folder, made, kills, last=True)
    return cut


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
