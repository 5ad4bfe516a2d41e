"""The sidecar is killed under load: traffic goes on as it was, and the next sidecar takes over what it finds."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from poolpilot.commands.demonstration.stack import addressees
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.telemetry.valkey import embedded_valkey

from .miniature import a_stage, control, end_processes_naming, processes_naming

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def swept(tmp_path: Path) -> Iterator[None]:
    """A test that fails half-way leaves what outlives a killed sidecar by design: end it."""
    yield
    end_processes_naming(tmp_path)


async def test_traffic_outlives_the_sidecar_and_the_next_one_takes_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_stage(tmp_path, valkey.url, speed_up=10.0, duration_s=150)
        progress = Replay()
        async with control(stage, folder) as first:
            clients = asyncio.create_task(
                replay(stage.workload, addressees(stage.scenario), first.url, stage.speed_up, progress)
            )
            await asyncio.sleep(2.0)
            await first.killed()
        replicas = _replicas(tmp_path)
        alone_from = len(progress.records)
        await asyncio.sleep(2.0)
        alone = progress.records[alone_from:]
        envoy = json.loads((folder / "envoy" / "running.json").read_text())["pid"]
        async with control(stage, folder) as second:
            assert second.url == first.url
            assert json.loads((folder / "envoy" / "running.json").read_text())["pid"] == envoy
            assert _replicas(tmp_path) & replicas, "no replica was taken over"
            await asyncio.sleep(1.5)
            # The new one decides, and its decisions reach the world.
            assert await _status(f"{second.api_url}/readyz") == 200
            records = await clients
            assert await second.ended() == 0
        left = processes_naming(folder)
    assert [r.detail for r in records if r.outcome == "lost"] == []
    assert len(alone) >= 10
    assert {r.outcome for r in alone} <= {"served", "shed"}
    assert sum(r.outcome == "served" for r in alone) > 0.9 * len(alone)
    assert left == []


async def test_ctrl_c_while_the_first_replicas_load_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_stage(tmp_path, valkey.url, speed_up=1.0)
        command = [sys.executable, "-m", "poolpilot", "control", "--scenario", str(stage.scenario_file)]
        command += ["--folder", str(folder), "--store", valkey.url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(60):
            while not _replicas(tmp_path):
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        left = processes_naming(folder)
    assert process.returncode == 0
    assert b"steering" not in out, "it served before it was stopped: nothing was tried"
    assert left == []


def _replicas(folder: Path) -> set[str]:
    """Process numbers of the emulated replicas."""
    return {line.split(":")[0] for line in processes_naming(folder) if " emulate " in line}


async def _status(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status
