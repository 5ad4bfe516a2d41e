"""A small cluster, some recorded days of it in the twin, and checkpoints whose merits are known."""

from __future__ import annotations

from pathlib import Path

from poolpilot.agents.checkpoint import Checkpoint, load_checkpoint
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.env.workload.load import load_workload
from poolpilot.tests.agents.registry.candidates import a_checkpoint
from poolpilot.training.finetuning.gates.days import TwinDay

STARVING = {"class_output": (-1.0, 0.0), "pool_output": (-1.0, 0.0, -1.0, 0.0)}
"""Half the head-room, fewer replicas, half the batch."""
WASTEFUL = {"class_output": (0.9, 0.0), "pool_output": (0.9, 0.0, 0.0, 0.9)}
"""Nearly twice the head-room, more replicas, and hardly a scale-down."""


def a_scenario(duration_s: float = 900.0) -> Scenario:
    return load_scenario("mixed-chat").model_copy(update={"duration_s": duration_s})


def some_days(n: int = 2, duration_s: float = 600.0) -> list[TwinDay]:
    scenario = a_scenario(duration_s)
    return [
        TwinDay(
            f"day-{seed}",
            scenario,
            load_workload(scenario.workload, scenario.class_names, duration_s, seed, scenario.base_dir),
        )
        for seed in range(n)
    ]


def made(folder: Path, name: str, **outputs: object) -> Checkpoint:
    return load_checkpoint(a_checkpoint(folder / name, name=name, **outputs))  # type: ignore[arg-type]
