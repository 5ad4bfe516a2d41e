"""Two sidecars of one cluster, with real processes, Envoy and Valkey: one leads, the other takes over, nobody is lost."""

import asyncio
import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis.asyncio as redis

from poolpilot.commands.demonstration.stack import Stage, addressees
from poolpilot.controller.choosing import FALLBACK
from poolpilot.controller.decision_replay import replay as decide_again
from poolpilot.controller.fencing import highest_token
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.env.wire import memory_to_json
from poolpilot.telemetry.record import TickRecord, read_log
from poolpilot.telemetry.store import Store
from poolpilot.telemetry.valkey import embedded_valkey

from .miniature import START_PATIENCE_S, a_stage, end_processes_naming, processes_naming

pytestmark = pytest.mark.e2e
PATIENCE_S = 90.0
_LINE = re.compile(r"(steering|standing by) .*sidecar at (\S+)")
_STEERS = re.compile(r"steering .*requests to (\S+),")


@pytest.fixture(autouse=True)
def swept(tmp_path: Path) -> Iterator[None]:
    """A test that fails half-way leaves what outlives a killed sidecar by design: end it."""
    yield
    end_processes_naming(tmp_path)


@dataclass
class Running:
    """A `poolpilot control`."""

    process: asyncio.subprocess.Process
    api_url: str
    said: list[str]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def status(self) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{self.api_url}/v1/status") as got:
            return dict(await got.json())

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its status once something holds of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(aiohttp.ClientError, TimeoutError):
                    if holds(seen := await self.status()):
                        return seen
                await asyncio.sleep(0.05)

    @property
    def envoy_url(self) -> str:
        found = _STEERS.search("".join(self.said))
        assert found, self.said
        return found[1]


@asynccontextmanager
async def sidecar(stage: Stage, folder: Path, *more: str) -> AsyncIterator[Running]:
    """As people run it; gives it once it leads or stands by."""
    command = [sys.executable, "-m", "poolpilot", "control", "--scenario", str(stage.scenario_file), "--mode", "active"]
    command += ["--no-step-back", "--folder", str(folder), "--store", stage.store_url]
    command += ["--speed-up", f"{stage.speed_up:g}", "--stream-interval", str(stage.stream_interval), *more]
    with (folder.parent / "control.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log)
    said: list[str] = []
    assert process.stdout is not None

    async def listen(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            said.append(line.decode())

    listening: asyncio.Task[None] | None = None
    try:
        first = (await asyncio.wait_for(process.stdout.readline(), START_PATIENCE_S)).decode()
        said.append(first)
        found = _LINE.search(first)
        assert found, (first, (folder.parent / "control.log").read_text()[-3000:])
        listening = asyncio.create_task(listen(process.stdout))
        yield Running(process, found[2], said)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if listening:
            await listening


def leads(status: dict[str, Any]) -> bool:
    """And has decided: its count of ticks goes on from the last leader's."""
    return bool(status["role"] == "leader" and "no decision yet" not in status["problems"])


def stands_by(status: dict[str, Any]) -> bool:
    return bool(status["role"] == "standby")


def ticks_of(folder: Path) -> list[TickRecord]:
    return list(read_log(folder / "decisions.jsonl", lambda _: None))


async def test_a_leader_killed_under_load_is_replaced_within_five_seconds_and_no_request_is_lost(
    tmp_path: Path,
) -> None:
    folder, progress = tmp_path / "run", Replay()
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_stage(tmp_path, valkey.url, speed_up=5.0, duration_s=150)
        async with sidecar(stage, folder) as first, sidecar(stage, folder) as second:
            assert stands_by(await second.status())
            clients = asyncio.create_task(
                replay(stage.workload, addressees(stage.scenario), first.envoy_url, stage.speed_up, progress)
            )
            await first.until(leads)
            await asyncio.sleep(8.0)  # into the rush
            async with asyncio.timeout(PATIENCE_S):
                while progress.in_flight == 0:
                    await asyncio.sleep(0.01)
            killed_at_s, queued_s = time.time(), _queued_s(second.process.pid)
            first.signal(signal.SIGKILL)
            await first.process.wait()
            spent = _bill(folder)
            after = await second.until(leads)
            queued_s = _queued_s(second.process.pid) - queued_s
            assert after["fencing_token"] > 1
            assert after["ticks"] > spent["ticks"], "it counts anew"
            acted_after_s = next(t.wall_s for t in ticks_of(folder) if t.decision.fencing_token > 1) - killed_at_s
            # A third one stands by: the second hands over to it, and nothing is stopped.
            async with sidecar(stage, folder) as third:
                async with asyncio.timeout(PATIENCE_S):
                    while not (await _standby(stage)):
                        await asyncio.sleep(0.05)
                    await asyncio.sleep(1.0)  # the leader hears of it with its next renewal
                before = _replicas(tmp_path)
                second.signal(signal.SIGTERM)
                assert await asyncio.wait_for(second.process.wait(), PATIENCE_S) == 0
                await third.until(leads)
                assert before & _replicas(tmp_path), "what was running was not handed over"
                records = await clients
                third.signal(signal.SIGINT)
                assert await asyncio.wait_for(third.process.wait(), PATIENCE_S) == 0
        left = processes_naming(folder)
    logged = ticks_of(folder)
    _goes_on(logged)
    bill = _bill(folder)
    assert (bill["since_unix_s"], bill["ticks"]) == (spent["since_unix_s"], len({t.decision.tick for t in logged}))
    assert bill["usd"] > spent["usd"] > 0
    assert bill["usd"] == pytest.approx(sum(float(np.nansum(t.since.usd)) for t in logged if t.since), rel=0.05)
    assert [r.detail for r in records if r.outcome == "lost"] == []
    assert sum(r.outcome == "served" for r in records) > 0.8 * len(records)
    # A machine that gives the sidecar no processor keeps nobody's promise: what it waited for one does not count.
    assert acted_after_s - queued_s < 5.0, (acted_after_s, queued_s)
    assert [t.decision.fencing_token for t in logged] == sorted(t.decision.fencing_token for t in logged)
    assert {t.decision.fencing_token for t in logged} == {1, 2, 3}
    assert decide_again(logged).differences == ()
    assert left == []


async def test_a_leader_that_was_only_stopped_writes_nothing_when_it_wakes(tmp_path: Path) -> None:
    folder, progress = tmp_path / "run", Replay()
    async with embedded_valkey(tmp_path / "valkey") as valkey, Store(valkey.url, timeout_s=10.0) as store:
        stage = a_stage(tmp_path, valkey.url, speed_up=5.0, duration_s=200)
        lease = ("--lease-seconds", "10")
        async with sidecar(stage, folder, *lease) as old, sidecar(stage, folder, *lease) as new:
            clients = asyncio.create_task(
                replay(stage.workload, addressees(stage.scenario), old.envoy_url, stage.speed_up, progress)
            )
            # Stopped while it has much under way: the rush begins after 35 s, and replicas are being started.
            async with asyncio.timeout(PATIENCE_S):
                while not any(_starting(record) for record in ticks_of(folder)[-1:]):
                    await asyncio.sleep(0.1)
            old.signal(signal.SIGSTOP)
            await new.until(leads)
            # With the new leader stopped too, whatever changes now was changed by the old one.
            new.signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            stood = _written(folder), _replicas(tmp_path), len(await store.ticks(1000))
            old.signal(signal.SIGCONT)
            deposed = await old.until(stands_by)
            await asyncio.sleep(1.0)
            woken = _written(folder), _replicas(tmp_path), len(await store.ticks(1000))
            new.signal(signal.SIGCONT)
            assert deposed["fencing_token"] == 0
            assert deposed["leader"] == (await new.until(leads))["leader"]
            assert woken == stood
            records = await clients
            assert highest_token(folder) == 2
            new.signal(signal.SIGTERM)
            await old.until(leads)  # back again, by its turn
            old.signal(signal.SIGINT)
            assert await asyncio.wait_for(old.process.wait(), PATIENCE_S) == 0
        left = processes_naming(folder)
    assert [r.detail for r in records if r.outcome == "lost"] == []
    assert left == []


def _bill(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "bill.json").read_text()))


def _goes_on(logged: list[TickRecord]) -> None:
    """Ticks, the clock and what is remembered, over every change of leader."""
    ticks = np.array([t.decision.tick for t in logged])
    assert (np.diff(ticks) > 0).all(), ticks
    assert (np.diff([t.decision.time_s for t in logged]) > 0).all()
    # The fallback follows along at every tick, whoever decides, and the first tick of a term is its.
    fallback, remembered = FALLBACK.make(logged[0].sitting.cluster), logged[0].memory
    for last, tick in pairwise(logged):
        _, remembered = fallback.decide(last.snapshot, last.plan, remembered)
        if tick.decision.tick != last.decision.tick + 1:
            return  # the leader was killed before this one was in the log: nobody can tell any more
        if tick.decision.fencing_token != last.decision.fencing_token:
            assert tick.fell_back
            assert memory_to_json(tick.memory) == memory_to_json(remembered)
            assert tick.memory


def _starting(record: TickRecord) -> bool:
    return bool((record.snapshot.plausible("starting", 0.0) > 0).any())


def _written(folder: Path) -> dict[str, tuple[int, str]]:
    """All that sidecars write, and when: a file written anew with what it held has been written too."""
    ours = [path for path in folder.rglob("*") if path.is_file() and not _of_others(path.relative_to(folder))]
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in ours
    }


def _of_others(path: Path) -> bool:
    """Written by Envoy or the replicas, or a sign of life that nobody acts on."""
    return path.parts[0] == "logs" or path.name.startswith(".leader-") or path.name in ("access.log", "envoy.log")


def _replicas(folder: Path) -> set[str]:
    """Process numbers of the emulated replicas."""
    return {line.split(":")[0] for line in processes_naming(folder) if " emulate " in line}


def _queued_s(pid: int) -> float:
    """How long a process has been ready to run while others had the processors; its busiest thread's."""
    waits = [path.read_text().split()[1] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return max((int(wait) / 1e9 for wait in waits), default=0.0)


async def _standby(stage: Stage) -> bool:
    async with redis.Redis.from_url(stage.store_url) as client:
        return bool(await client.exists("poolpilot:standby"))
