"""A steady load on a real cluster whose policy is a registry's, short turns for candidates, and who decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.registry import Registry, version_of
from poolpilot.commands.demonstration.stack import Stage, addressees
from poolpilot.controller.trial import begun, candidates_window, rules_of
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.telemetry.record import read_log
from poolpilot.tests.agents.registry.candidates import a_checkpoint

from .miniature import MINIATURE, Control, control, end_processes_naming, staged

DURATION_S, SPEED_UP = 400.0, 10.0
RUSH = "{{kind: ramp, times_s: [0, 35, 40, 60, 65, 100], factors: [1, 1, 6, 6, 0.5, 0.5]}}"
TURNS = """\
control:
  trial: {share: 0.5, settle_s: 10, measure_s: 40, blocks: 6}
  gates: {breach_ticks: 4, breach_requests: 10}
"""


def a_steady_stage(folder: Path, store_url: str, duration_s: float = DURATION_S, settings: str = TURNS) -> Stage:
    """The miniature under an even load, with what the scenario says of the sidecar."""
    path = folder / "steady.yaml"
    even = MINIATURE.replace(RUSH, "{{kind: ramp, times_s: [0, 1], factors: [3.5, 3.5]}}")
    path.write_text(even.format(duration_s=duration_s) + settings)
    return staged(path, store_url, SPEED_UP)


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


def a_candidate(
    stage: Stage,
    registry: Registry,
    name: str,
    class_output: Sequence[float],
    pool_output: Sequence[float],
    *,
    window: int,
) -> str:
    """A new version whose turn against the incumbent is this window of its trial's first block.

    That is drawn by a hash over both versions, which hang on every byte of a checkpoint: one is taken whose card, by a
    price that its network does not look at, draws so.
    """
    asked, cluster = stage.scenario.control, stage.scenario.cluster()
    rules = rules_of(asked.trial, asked.gates, cluster.class_names, cluster.cold_start_s)
    for n in range(100):
        card: dict[str, object] = {"miss_price": 0.5 + n / 1000}
        made = a_checkpoint(
            stage.folder / f"{name}-{n}", name=name, class_output=class_output, pool_output=pool_output, card=card
        )
        trial = begun(rules, version_of(load_checkpoint(made)), registry.incumbent())
        if candidates_window(trial, 0) == window:
            return registry.add(made)
    raise AssertionError("no draw in a hundred gave that window")


async def until(holds: Callable[[], bool], patience_s: float = 120.0) -> None:
    async with asyncio.timeout(patience_s):
        while not holds():
            await asyncio.sleep(0.1)


def deciders(folder: Path) -> list[str]:
    """The version of every tick so far."""
    return [tick.decision.policy_hash for tick in read_log(folder / "decisions.jsonl", lambda _: None)]
