"""One policy's run: a sidecar with its Envoy and emulated replicas, clients in front of it, figures at the end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from ...controller.actuators.envoy_process import EnvoyFolder
from ...controller.recording import BILL_FILE
from ...env.emulator.replay import Addressee, ClientRecord, Replay, replay
from ...env.scenario import Scenario
from ...env.workload.requests import Workload
from ...telemetry.envoy_log import LogTail, RequestRecord, added_s
from .measures import RunFigures, class_figures, quantile

_READY: Final = re.compile(r"requests to (\S+), sidecar at (\S+)")
MARK: Final = "POOLPILOT_STARTED_BY"
"""In the environment of all that a run starts, by which it is found again at the end."""
START_PATIENCE_S: Final = 150.0
"""The very first start compiles the engine, once per machine."""
STOP_PATIENCE_S: Final = 40.0


class DemoError(RuntimeError):
    """A run could not be carried through; the message says what failed."""


@dataclass(frozen=True)
class Entrant:
    """A policy that takes part, as `poolpilot control` is told of it."""

    name: str
    """For people."""
    policy: str
    setting: tuple[float, ...] = ()
    knobs: Mapping[str, float] = field(default_factory=dict)
    """Of a rule, in place of those shipped; in place of `setting` too."""


@dataclass(frozen=True)
class Stage:
    """What is the same for all entrants."""

    scenario: Scenario
    scenario_file: Path
    workload: Workload
    store_url: str
    folder: Path
    speed_up: float
    stream_interval: int
    port: int = 0
    start_patience_s: float = START_PATIENCE_S
    """Of the wall, until the first replicas serve."""
    stop_patience_s: float = STOP_PATIENCE_S
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the sidecar and of the replicas that it starts, beside this process's own."""
    world_file: Path | None = None
    """What is true of the replicas, where that is not the scenario."""


@dataclass(frozen=True)
class Sidecar:
    """A running `poolpilot control`."""

    process: asyncio.subprocess.Process
    url: str
    """Of Envoy."""
    api_url: str
    folder: Path


async def run_entrant(
    stage: Stage,
    entrant: Entrant,
    on_start: Callable[[Replay], None],
    on_ready: Callable[[Sidecar], None] | None = None,
) -> RunFigures:
    """Replay the workload under one policy; what came of it."""
    folder = stage.folder / entrant.name
    async with sidecar(stage, entrant, folder) as running:
        if on_ready:
            on_ready(running)
        progress = Replay()
        on_start(progress)
        records = await replay(stage.workload, addressees(stage.scenario), running.url, stage.speed_up, progress)
        # One more tick, so that the last answers are in the log and on the bill.
        await asyncio.sleep(1.5 * stage.scenario.tick_s / stage.speed_up)
        return figures(stage.scenario, entrant.name, records, folder)


@asynccontextmanager
async def sidecar(stage: Stage, entrant: Entrant, folder: Path) -> AsyncIterator[Sidecar]:
    """`poolpilot control` in a process group of its own, with everything it starts; nothing of it is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "poolpilot", "control", "--scenario", str(stage.scenario_file)]
    command += ["--policy", entrant.policy, "--mode", "active", "--no-step-back"]
    command += ["--folder", str(folder), "--store", stage.store_url]
    command += ["--store-prefix", entrant.name, "--speed-up", f"{stage.speed_up:g}", "--port", str(stage.port)]
    command += ["--stream-interval", str(stage.stream_interval)]
    if stage.world_file is not None:
        command += ["--world", str(stage.world_file)]
    own = [f"{value:g}" for value in entrant.setting]
    own = [f"{name}={value:g}" for name, value in entrant.knobs.items()] or own
    if own:
        command += ["--setting", ",".join(own)]
    run = uuid.uuid4().hex
    with (folder / "control.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **stage.environment, MARK: run},
        )
    try:
        url, api_url = await _ready(process, folder / "control.log", stage.start_patience_s)
        yield Sidecar(process, url, api_url, folder)
    finally:
        await _stop(process, f"{MARK}={run}", stage.stop_patience_s)


async def _ready(process: asyncio.subprocess.Process, log: Path, patience_s: float) -> tuple[str, str]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(patience_s):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    found = _READY.search(line)
    if not found:
        words = log.read_text(errors="replace").strip().splitlines()
        raise DemoError(f"the sidecar did not start: {words[-1] if words else 'it said nothing'} ({log})")
    return found[1], found[2]


async def _stop(process: asyncio.subprocess.Process, mark: str, patience_s: float) -> None:
    """Ask, wait, then end whatever it started and left: replicas and Envoy outlive a killed sidecar by design."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(process.wait()), patience_s)
    for pid in left_behind(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def left_behind(mark: str) -> list[int]:
    """Processes that inherited a mark (`NAME=VALUE`) in their environment. Not those that only name the run's folder: a
    dashboard that follows its log does too."""
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                pids.append(int(entry.name))
    return pids


def addressees(scenario: Scenario) -> list[Addressee]:
    """How each class's requests are sent: interactive ones streamed and named by header, others by the body."""
    senders = []
    for name, requests in scenario.classes.items():
        waits = requests.target.deadline_s is not None
        by_body = waits and requests.match.body.get("metadata.slo_class") == name
        senders.append(
            Addressee(
                class_name=name,
                model=requests.model or scenario.model,
                by_header=not by_body,
                stream=not waits,
                give_up_after_s=max(scenario.world.give_up_after_s, requests.target.deadline_s or 0.0),
            )
        )
    return senders


def figures(scenario: Scenario, name: str, records: Sequence[ClientRecord], folder: Path) -> RunFigures:
    """The run's figures: clients' measurements, the sidecar's bill, the proxy's log."""
    bill = json.loads((folder / BILL_FILE).read_text(encoding="utf-8"))
    tail = LogTail(EnvoyFolder(folder / "envoy").access_log)
    added_ms = np.array([added_s(r) * 1000.0 for r in tail.read() if isinstance(r, RequestRecord)], dtype=np.float64)
    tail.close()
    return RunFigures(
        policy=name,
        usd_per_hr=bill["usd"] / bill["time_s"] * 3600.0,
        usd=bill["usd"],
        usd_by_layer=bill["usd_by_layer"],
        classes=class_figures(records, scenario.class_names, scenario.targets()),
        proxy_added_p50_ms=quantile(added_ms, 0.5),
        proxy_added_p95_ms=quantile(added_ms, 0.95),
        fallback_ticks=bill["fallback_ticks"],
        ticks=bill["ticks"],
    )
