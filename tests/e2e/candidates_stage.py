"""A steady load on a real cluster whose policy is a registry's, short turns for candidates, and who decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from poolpilot.agents.registry import Registry
from poolpilot.commands.demonstration.stack import Stage, addressees
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload
from poolpilot.telemetry.record import read_log

from .miniature import MINIATURE, Control, control, end_processes_naming

DURATION_S, SPEED_UP = 400.0, 10.0
RUSH = "{{kind: ramp, times_s: [0, 35, 40, 60, 65, 100], factors: [1, 1, 6, 6, 0.5, 0.5]}}"
TURNS = """\
control:
  trial: {share: 0.5, settle_s: 10, measure_s: 40, blocks: 6}
  gates: {breach_ticks: 4, breach_requests: 10}
"""


def a_steady_stage(folder: Path, store_url: str, duration_s: float = DURATION_S) -> Stage:
    """The miniature under an even load."""
    path = folder / "steady.yaml"
    even = MINIATURE.replace(RUSH, "{{kind: ramp, times_s: [0, 1], factors: [3.5, 3.5]}}")
    path.write_text(even.format(duration_s=duration_s) + TURNS)
    scenario = load_scenario(str(path))
    workload = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return Stage(scenario, path, workload, store_url, folder, SPEED_UP, stream_interval=4)


@asynccontextmanager
async def served(stage: Stage, registry: Registry, folder: Path, *more: str) -> AsyncIterator[tuple[Control, Replay]]:
    """Requests come as long as the block lasts; the sidecar, and what became of each request."""
    try:
        async with control(stage, folder, "--policy", f"registry:{registry.folder}", *more) as running:
            clients = Replay()
            load = asyncio.create_task(
                replay(stage.workload, addressees(stage.scenario), running.url, stage.speed_up, clients)
            )
            try:
                yield running, clients
            finally:
                load.cancel()
                await asyncio.gather(load, return_exceptions=True)
                await running.ended()
    finally:  # what outlives a killed sidecar by design must not outlive a test
        end_processes_naming(stage.scenario_file)
        end_processes_naming(folder)


async def until(holds: Callable[[], bool], patience_s: float = 120.0) -> None:
    async with asyncio.timeout(patience_s):
        while not holds():
            await asyncio.sleep(0.1)


def deciders(folder: Path) -> list[str]:
    """The version of every tick so far."""
    return [tick.decision.policy_hash for tick in read_log(folder / "decisions.jsonl", lambda _: None)]
