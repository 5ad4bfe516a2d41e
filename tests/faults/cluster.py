"""A live cluster to break: Envoy, Valkey, replicas, `poolpilot control --mode active`, and clients of whom each counts.

All parts are processes of their own, as in life, at the wall's own pace. The model servers are emulated ones.
"""

import asyncio
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from poolpilot.commands.demonstration.stack import addressees
from poolpilot.controller.actuators.child import free_port
from poolpilot.env.emulator.replay import ClientRecord, Replay, replay
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload
from poolpilot.telemetry.valkey import embedded_valkey

from ..e2e.miniature import end_processes_naming

HERE = Path(__file__).parent
TICK_S = 2.0
STALE_AFTER_S = 10.0
HELD_UP_S = 15.0
"""A tick that takes this long was held up: the drills' slow parts take half a minute or more, a busy machine some seconds."""
PATIENCE_S = 180.0
"""For whatever must happen; how long it takes is measured, and is no reason to fail on a busy machine."""
START_PATIENCE_S = 150.0
"""The very first start on a machine compiles the engine."""

SCENARIO = """\
schema: 1
name: faults
summary: Two pools of two replicas, each of which can carry the load alone.
duration_s: 3600
tick_s: {tick_s}
model: llama-2-7b
pools:
  a100:
    gpu: A100-SXM-80GB
    precision: bf16
    price: {{usd_per_hr: 2.2}}
    replicas: {{min: 2, max: 3, start: 2}}
    cold_start: {{provision_s: 0.5, load_s: 1.0, spread_frac: 0}}
    command: {command_a100}
  l40s:
    gpu: L40S-48GB
    precision: bf16
    price: {{usd_per_hr: 1.0, feed: {{path: prices.csv, max_age_s: 3600}}}}
    replicas: {{min: 2, max: 3, start: 2}}
    cold_start: {{provision_s: 0.5, load_s: 1.0, spread_frac: 0}}
    command: {command_l40s}
classes:
  chat:
    target: {{ttft_s: 2.0, tpot_s: 0.1, attainment: 0.9}}
  batch:
    target: {{deadline_s: 60, attainment: 0.9}}
    match: {{body: {{metadata.slo_class: batch}}}}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 4.0
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 100, sigma: 0.3, max: 200}}
    batch:
      rate_per_s: 2.0
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 60, sigma: 0.3, max: 120}}
guard: {{stale_after_s: {stale_after_s}}}
"""
PRICES = "gpu,usd_hr_ondemand\nL40S,1.25\n"
_READY = re.compile(r"requests to (\S+), sidecar at (\S+)")


class Clients:
    """Who sends requests all the while, and remembers of each what became of it."""

    def __init__(self, scenario_file: Path) -> None:
        """Nothing is sent yet."""
        self._scenario = load_scenario(str(scenario_file))
        self._progress = Replay()
        self._enough = asyncio.Event()
        self._sending: asyncio.Task[list[ClientRecord]] | None = None

    @property
    def records(self) -> list[ClientRecord]:
        """All requests so far, those under way included."""
        return self._progress.records

    def start(self, url: str) -> None:
        """Send from now on."""
        workload = load_workload(self._scenario.workload, self._scenario.class_names, 3600.0, 0, HERE)
        self._sending = asyncio.create_task(
            replay(workload, addressees(self._scenario), url, 1.0, self._progress, until=self._enough)
        )

    async def stop(self) -> None:
        """Send no more, and see what was sent answered."""
        self._enough.set()
        if self._sending:
            await asyncio.wait_for(self._sending, PATIENCE_S)


@dataclass
class Drill:
    """One fault, and what came of it."""

    fault: str
    began_s: float = field(default_factory=time.monotonic)
    healed_s: float | None = None
    """When the cause was taken away, where it does not heal by itself."""
    recovered_s: float = float("nan")
    reported: str = ""
    requests: list[ClientRecord] = field(default_factory=list)
    """Those under way when it began, and those sent until it was over."""
    allowed: str = ""
    """Which requests may be lost, for the table; empty: none."""

    def healed(self) -> None:
        """The cause is gone as of now."""
        self.healed_s = time.monotonic()

    def recovered(self) -> None:
        """All is well again as of now."""
        self.recovered_s = time.monotonic() - (self.began_s if self.healed_s is None else self.healed_s)

    @property
    def lost(self) -> list[ClientRecord]:
        """Requests that failed."""
        return [r for r in self.requests if r.outcome == "lost"]

    @property
    def lost_details(self) -> list[str]:
        """Why, for each."""
        return [r.detail for r in self.lost]

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "fault": self.fault,
            "test": os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0],
            "sent": len(self.requests),
            "shed": sum(r.outcome == "shed" for r in self.requests),
            "lost": len(self.lost),
            "lost_for": sorted(set(self.lost_details)),
            "allowed": self.allowed,
            "recovered_s": self.recovered_s,
            "after": "the fault" if self.healed_s is None else "its cause was gone",
            "reported": self.reported,
        }


@dataclass
class Cluster:
    """The whole of it, under load."""

    folder: Path
    scenario_file: Path
    clients: Clients
    valkey_port: int
    environment: dict[str, str]
    http: aiohttp.ClientSession
    url: str = ""
    api_url: str = ""
    _control: asyncio.subprocess.Process | None = None
    _valkey: AsyncExitStack = field(default_factory=AsyncExitStack)
    valkey_pid: int = 0

    @property
    def store_url(self) -> str:
        """Of the store, running or not."""
        return f"redis://127.0.0.1:{self.valkey_port}/0"

    @property
    def run(self) -> Path:
        """The sidecar's working folder."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """The sidecar's own words."""
        return self.folder / "control.log"

    @property
    def control_pid(self) -> int:
        """Of the running sidecar."""
        assert self._control is not None
        return self._control.pid

    # The sidecar

    async def start_control(self, *more: str, scenario: Path | None = None) -> None:
        """`poolpilot control` as people run it; returns when it steers."""
        command = [sys.executable, "-m", "poolpilot", "control", "--scenario", str(scenario or self.scenario_file)]
        # A machine that is too busy for the targets is no fault that is drilled here.
        command += ["--mode", "active", "--no-step-back", "--folder", str(self.run), "--store", self.store_url, *more]
        with self.log.open("ab") as log:
            self._control = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=log, env=self.environment
            )
        assert self._control.stdout is not None
        line = (await asyncio.wait_for(self._control.stdout.readline(), START_PATIENCE_S)).decode()
        found = _READY.search(line)
        assert found, (line, self.log.read_text()[-2000:])
        self.url, self.api_url = found[1], found[2]

    async def kill_control(self) -> None:
        """As the kernel does it: no chance to clean up."""
        assert self._control is not None
        self._control.kill()
        await self._control.wait()

    async def end_control(self) -> None:
        """As Ctrl-C does it: it drains and stops all that it started."""
        assert self._control is not None
        if self._control.returncode is None:
            self._control.send_signal(signal.SIGINT)
            await asyncio.wait_for(self._control.wait(), PATIENCE_S)

    # The store

    async def start_valkey(self) -> None:
        """On its port, with the data that it kept."""
        valkey = await self._valkey.enter_async_context(embedded_valkey(self.folder / "valkey", self.valkey_port))
        self.valkey_pid = valkey.pid

    async def kill_valkey(self) -> None:
        """As the kernel does it."""
        os.kill(self.valkey_pid, signal.SIGKILL)
        await self._valkey.aclose()

    async def end_valkey(self) -> None:
        """At the end."""
        await self._valkey.aclose()

    # Looking around

    def envoy_pid(self) -> int:
        """Of the Envoy that runs for the sidecar."""
        pid: int = json.loads((self.run / "envoy" / "running.json").read_text())["pid"]
        return pid

    def replicas(self, pool: str) -> list[dict[str, Any]]:
        """The pool's processes, as the sidecar lists them."""
        listed = json.loads((self.run / "roster.json").read_text())
        return [one for one in listed if one["pool"] == pool and not one["stopping"]]

    async def ready(self) -> bool:
        """Whether the sidecar can decide and act, as an orchestrator asks."""
        async with self.http.get(f"{self.api_url}/readyz") as answer:
            return answer.status == 200

    async def problems(self) -> list[str] | None:
        """What the sidecar says is wrong, be it ready or not; None where it does not answer."""
        try:
            async with self.http.get(f"{self.api_url}/readyz") as answer:
                said = await answer.json()
                return [*said["problems"], *said["warnings"]]
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            return None

    async def decision(self) -> dict[str, Any] | None:
        """The latest, as JSON."""
        return await self._document("/v1/decision")

    async def snapshot(self) -> dict[str, Any] | None:
        """The latest, as JSON."""
        return await self._document("/v1/snapshot")

    async def pool_figure(self, pool: str, column: str) -> float:
        """One figure of the latest snapshot, which must be known."""
        snapshot = await self.snapshot() or {}
        figure: float = snapshot["pools"][column][("a100", "l40s").index(pool)]
        return figure

    async def metric(self, name: str) -> float:
        """One sample of the sidecar's own metrics page, by its full name with labels."""
        async with self.http.get(f"{self.api_url}/metrics") as answer:
            page = await answer.text()
        found = [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name} ")]
        assert len(found) == 1, (name, page[:3000])
        return found[0]

    async def ticks(self) -> float:
        """How many the sidecar has finished."""
        return await self.metric("poolpilot_tick_seconds_count")

    async def _document(self, path: str) -> dict[str, Any] | None:
        try:
            async with self.http.get(f"{self.api_url}{path}") as answer:
                document: dict[str, Any] = await answer.json()
                return document if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    # Waiting

    async def until_well(self) -> None:
        """Every replica that is wanted serves, and the sidecar has no complaint after two ticks on end."""
        first = await self._well_after(-1.0)
        await self._well_after(first)

    async def _well_after(self, tick: float) -> float:
        """All is well after a later tick than this one; which."""
        seen = [tick]

        async def well() -> bool:
            with suppress(aiohttp.ClientError, TimeoutError):
                seen[0] = await self.ticks()
                return seen[0] > tick and await self._is_well()
            return False

        await until(well, "all replicas up and no problems", self.state)
        return seen[0]

    async def until_reported(self, pattern: str) -> str:
        """What the sidecar says that matches, in its API's problems, its reasons or its log from now on."""
        found: list[str] = []
        log_from = self.log.stat().st_size

        async def said() -> bool:
            decision = await self.decision() or {}
            reasons = [" ".join(str(v) for v in reason.values()) for reason in decision.get("reasons", ())]
            lines = [*(await self.problems() or ()), *reasons, *_said_since(self.log, log_from)]
            found[:] = [line for line in lines if re.search(pattern, line)]
            return bool(found)

        await until(said, f"a report of {pattern!r}", self.state)
        return found[0]

    async def state(self) -> str:
        """For failures."""
        snapshot = await self.snapshot() or {}
        return f"{await self.problems()} {snapshot.get('pools')} ... {self.log.read_text()[-1500:]}"

    async def _is_well(self) -> bool:
        snapshot = await self.snapshot()
        if snapshot is None or await self.problems() != []:
            return False
        return all(len(self.replicas(pool)) >= 2 for pool in ("a100", "l40s")) and await self._all_ready()

    async def _all_ready(self) -> bool:
        for pool in ("a100", "l40s"):
            if await self.pool_figure(pool, "ready") < 2:
                return False
        return True

    # Breaking

    @asynccontextmanager
    async def drill(self, fault: str) -> AsyncIterator[Drill]:
        """A fault under load, from all being well until a test says that it is again; then every request has its outcome."""
        await until(self._is_well, "all replicas up and no problems", self.state)
        under_way = [r for r in self.clients.records if r.outcome == "pending"]
        sent_before = len(self.clients.records)
        drill = Drill(fault)
        try:
            yield drill
        finally:
            self.heal()
        assert drill.recovered_s >= 0.0, "a drill ends when all is well again"
        drill.requests = [*under_way, *self.clients.records[sent_before:]]

        async def answered() -> bool:
            return all(r.outcome != "pending" for r in drill.requests)

        await until(answered, "every request to have its outcome", self.state)
        if out := os.environ.get("POOLPILOT_FAULTS_OUT"):
            _add_line(Path(out), json.dumps(drill.row()))

    def heal(self) -> None:
        """Take away every cause, so that a drill that failed half-way spoils no other."""
        for fault in self.folder.glob("*.fault"):
            fault.unlink()
        self.set_clock(0)
        self.age_prices(0)
        with suppress(ProcessLookupError):
            os.kill(self.valkey_pid, signal.SIGCONT)
            self.limit_files(None)

    def limit_files(self, more_than: Path | None, by_bytes: int = 0) -> None:
        """The kernel lets no file of the sidecar grow beyond so much more than this one has now; None: no limit."""
        _, hard = resource.prlimit(self.control_pid, resource.RLIMIT_FSIZE)
        most = hard if more_than is None else more_than.stat().st_size + by_bytes
        resource.prlimit(self.control_pid, resource.RLIMIT_FSIZE, (most, hard))

    def break_pages(self, pool: str, how: str) -> None:
        """From now on the metrics pages of the pool's replicas are like this (see `faulty_replica`)."""
        _fault_file(self.folder, pool).write_text(how)

    def mend_pages(self, pool: str) -> None:
        """From now on they are the real ones."""
        _fault_file(self.folder, pool).unlink()

    def age_prices(self, seconds: float) -> None:
        """The price feed was written so long ago."""
        at_s = time.time() - seconds
        os.utime(self.folder / "prices.csv", (at_s, at_s))

    def set_clock(self, ahead_s: int) -> None:
        """The clock of sidecar, Envoy and replicas is so far ahead of the machine's from now on."""
        path = self.folder / "clock"
        with path.open("r+b") as file:
            file.write(struct.pack("=q", ahead_s))


async def until(holds: Callable[[], Awaitable[bool]], what: str, state: Callable[[], Awaitable[str]]) -> None:
    """Wait for it; an AssertionError says what did not come, and how things were."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not await holds():
        assert time.monotonic() < deadline_s, f"{what} did not come within {PATIENCE_S:g} s: {await state()}"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Everything up and under load; nothing of it is left at the end."""
    (folder / "clock").write_bytes(struct.pack("=q", 0))
    (folder / "prices.csv").write_text(PRICES)
    scenario_file = folder / "faults.yaml"
    commands = {f"command_{pool}": json.dumps(_command(folder, pool, scenario_file)) for pool in ("a100", "l40s")}
    scenario_file.write_text(SCENARIO.format(tick_s=TICK_S, stale_after_s=STALE_AFTER_S, **commands))
    environment = {**os.environ, "JUMPING_CLOCK_FILE": str(folder / "clock"), "LD_PRELOAD": str(_clock_shim(folder))}
    clients = Clients(scenario_file)
    async with AsyncExitStack() as stack:
        stack.callback(end_processes_naming, folder)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)))
        running = Cluster(folder, scenario_file, clients, free_port("127.0.0.1", keep_free=True), environment, http)
        stack.push_async_callback(running.end_valkey)
        await running.start_valkey()
        await running.start_control()
        clients.start(running.url)
        try:
            yield running
            await clients.stop()
        finally:
            await running.end_control()


def _command(folder: Path, pool: str, scenario_file: Path) -> list[str]:
    where = ["--host", "{host}", "--port", "{port}", "--cap-file", "{cap_file}"]
    emulate = ["emulate", "--scenario", str(scenario_file), "--pool", pool, *where]
    pace = ["--load-seconds", "0", "--stream-interval", "8"]
    return [sys.executable, str(HERE / "faulty_replica.py"), str(_fault_file(folder, pool)), *emulate, *pace]


def _add_line(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def _said_since(log: Path, start: int) -> list[str]:
    with log.open(errors="replace") as file:
        file.seek(start)
        return file.read().splitlines()


def _fault_file(folder: Path, pool: str) -> Path:
    return folder / f"{pool}.fault"


def _clock_shim(folder: Path) -> Path:
    """Compile the clock that can be set."""
    library = folder / "jumping_clock.so"
    source = HERE / "jumping_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return library
