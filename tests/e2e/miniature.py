"""A cluster in miniature: a small model on two pools, a rush that one replica cannot carry, and how to look around."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.commands.demonstration.stack import Stage
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload

MINIATURE = """\
schema: 1
name: miniature
summary: A small model on two pools. The dear one empties at once, the cheap one grows for a rush and shrinks again.
duration_s: {duration_s}
tick_s: 5
model: qwen2.5-0.5b
pools:
  dear:
    gpu: H100-SXM-80GB
    precision: bf16
    price: {{usd_per_hr: 6.88}}
    replicas: {{min: 0, max: 1, start: 1}}
    engine: {{max_num_seqs: 4}}
    cold_start: {{provision_s: 5, load_s: 5}}
  cheap:
    gpu: L40S-48GB
    precision: bf16
    price: {{usd_per_hr: 1.861}}
    replicas: {{min: 0, max: 3, start: 2}}
    engine: {{max_num_seqs: 4}}
    cold_start: {{provision_s: 5, load_s: 5}}
classes:
  chat:
    target: {{ttft_s: 2.0, tpot_s: 0.08, attainment: 0.9}}
  batch:
    target: {{deadline_s: 60, attainment: 0.9}}
    match: {{body: {{metadata.slo_class: batch}}}}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 1.0
      shape: [{{kind: ramp, times_s: [0, 35, 40, 60, 65, 100], factors: [1, 1, 6, 6, 0.5, 0.5]}}]
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 200, sigma: 0.4, max: 500}}
    batch:
      rate_per_s: 0.4
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 100, sigma: 0.4, max: 300}}
guard: {{scale_up_step: 4, scale_down_step: 1, scale_down_cooldown_s: 10}}
"""
_READY = re.compile(r"requests to (\S+), sidecar at (\S+)")
START_PATIENCE_S = 300.0
"""The first start on a machine compiles the engine, and it may be a busy one."""


def miniature(folder: Path, duration_s: float = 100) -> Path:
    """The scenario as a file in `folder`."""
    path = folder / "miniature.yaml"
    path.write_text(MINIATURE.format(duration_s=duration_s))
    return path


def a_stage(folder: Path, store_url: str, speed_up: float, duration_s: float = 100) -> Stage:
    """The miniature with its requests, at Envoy's own choice of port."""
    return staged(miniature(folder, duration_s), store_url, speed_up)


def staged(path: Path, store_url: str, speed_up: float) -> Stage:
    """A scenario's file with its requests; whatever is written goes beside it."""
    scenario = load_scenario(str(path))
    workload = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return Stage(scenario, path, workload, store_url, path.parent, speed_up, stream_interval=4)


def processes_naming(folder: Path) -> list[str]:
    """Command lines of live processes that name the folder, or the file; this process and its parent are none of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (os.getpid(), os.getppid()):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:  # it ended meanwhile
                continue
            if str(folder) in words:
                found.append(f"{entry.name}: {words}")
    return found


def end_processes_naming(folder: Path) -> None:
    """Kill them: what outlives a killed sidecar by design must not outlive a test."""
    for line in processes_naming(folder):
        with suppress(ProcessLookupError):
            os.kill(int(line.split(":")[0]), signal.SIGKILL)


@dataclass(frozen=True)
class Told:
    """What a sidecar says of itself."""

    status: dict[str, Any]
    figures: dict[str, float]
    """By name and labels, as in `poolpilot_exploration_usd{part="spent"}`."""


@dataclass
class Control:
    """A running `poolpilot control`."""

    process: asyncio.subprocess.Process
    url: str
    api_url: str

    async def told(self) -> Told:
        """What its API says now: `/v1/status` and `/metrics`."""
        async with aiohttp.ClientSession(self.api_url) as session:
            async with session.get("/v1/status") as answer:
                status = await answer.json()
            async with session.get("/metrics") as answer:
                text = await answer.text()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return Told(status, {_labelled(sample.name, sample.labels): sample.value for sample in samples})

    async def killed(self) -> None:
        """Ended as by the kernel: no chance to clean up."""
        self.process.kill()
        await self.process.wait()

    async def ended(self, patience_s: float = 30.0) -> int:
        """Ended as by Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), patience_s)


@asynccontextmanager
async def control(stage: Stage, folder: Path, *more: str) -> AsyncIterator[Control]:
    """`poolpilot control` as people run it. At the end of the block it is no more; what it started may be."""
    command = [sys.executable, "-m", "poolpilot", "control", "--scenario", str(stage.scenario_file)]
    command += ["--mode", "active", "--folder", str(folder), "--store", stage.store_url]
    command += ["--speed-up", f"{stage.speed_up:g}", "--stream-interval", str(stage.stream_interval), *more]
    with (folder.parent / "control.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), START_PATIENCE_S)).decode()
        found = _READY.search(line)
        assert found, (line, (folder.parent / "control.log").read_text())
        yield Control(process, found[1], found[2])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _labelled(name: str, labels: Mapping[str, str]) -> str:
    return name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")


def falls(counts: np.ndarray) -> bool:
    """Whether a series ever goes down."""
    return bool((np.diff(counts) < 0).any())
