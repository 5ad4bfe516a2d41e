"""A fleet that is steered, served through Envoy and scraped by a real Prometheus, and what it truly cost."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from poolpilot.commands.demonstration.stack import Entrant, addressees, sidecar
from poolpilot.controller.actuators.roster import read_roster
from poolpilot.controller.recording import BILL_FILE
from poolpilot.env.emulator.replay import ClientRecord, Replay, replay
from poolpilot.env.emulator.serving import warm_up
from poolpilot.telemetry.valkey import embedded_valkey

from ..deploy.shipped import tool
from ..e2e.miniature import staged
from ..env.emulator.conftest import a_spec

PATIENCE_S = 120.0
SCRAPE_S = 0.5
SPEED_UP = 10.0
DURATION_S = 300.0
LATE_S = 3.0
"""Of the wall: so long after the last answer the fleet stays up."""
FLEET = """\
schema: 1
name: fleet
summary: A dear pool of fixed size, and a cheap one that grows and shrinks.
duration_s: {duration_s}
tick_s: 5
model: qwen2.5-0.5b
pools:
  dear:
    gpu: H100-SXM-80GB
    price: {{usd_per_hr: 6.88}}
    replicas: {{min: 1, max: 1, start: 1}}
    engine: {{max_num_seqs: 4}}
    cold_start: {{provision_s: 10, load_s: 20}}
  cheap:
    gpu: L40S-48GB
    price: {{usd_per_hr: 1.861}}
    replicas: {{min: 1, max: 3, start: 2}}
    engine: {{max_num_seqs: 4}}
    cold_start: {{provision_s: 10, load_s: 20}}
classes:
  chat:
    target: {{ttft_s: 2.0, tpot_s: 0.08, attainment: 0.9}}
workload:
  kind: generated
  classes:
    chat:
      rate_per_s: 1.0
      shape: [{{kind: ramp, times_s: [0, 80, 95, 160, 175, 300], factors: [1, 1, 5, 5, 1, 1]}}]
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.6, max: 1000}}
      output_tokens: {{kind: lognormal, median: 150, sigma: 0.5, max: 500}}
guard: {{scale_up_step: 4, scale_down_step: 1, scale_down_cooldown_s: 20}}
"""
DESCRIPTION = """\
schema: 1
model: qwen2.5-0.5b
pools:
  dear:
    gpu: H100-SXM-80GB
    price: 6.88
    engine: {max_num_seqs: 4}
    cold_start: {provision_s: 10, load_s: 20}
    select: {pool: dear}
  cheap:
    gpu: L40S-48GB
    price: 1.861
    engine: {max_num_seqs: 4}
    cold_start: {provision_s: 10, load_s: 20}
    select: {pool: cheap}
    max: 3
classes:
  chat:
    target: {ttft_s: 2.0, tpot_s: 0.08, attainment: 0.9}
"""


@dataclass(frozen=True)
class Bill:
    """What the sidecar's ledger said at a moment of the wall's clock."""

    at_s: float
    usd: float
    by_pool: dict[str, float]


@dataclass(frozen=True)
class Run:
    """A run that Prometheus saw."""

    url: str
    """Of Prometheus, which still answers."""
    description: Path
    before: Bill
    after: Bill
    clients: list[ClientRecord]
    bill_file: dict[str, Any]

    @property
    def usd(self) -> dict[str, float]:
        """By pool, between the two bills."""
        return {name: self.after.by_pool[name] - self.before.by_pool[name] for name in self.after.by_pool}


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """Scrapes what `targets.json` in its folder lists; gives its address."""
    folder.mkdir()
    (folder / "targets.json").write_text("[]")
    configuration = {
        "global": {"scrape_interval": f"{round(SCRAPE_S * 1000)}ms", "scrape_timeout": f"{round(SCRAPE_S * 1000)}ms"},
        "scrape_configs": [{"job_name": "vllm", "file_sd_configs": [{"files": [str(folder / "targets.json")]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _answers(f"{url}/-/ready"), f"Prometheus is not ready: {folder / 'log'}")
        yield url
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def scraped_run(folder: Path, policy: str = "threshold") -> Iterator[Run]:
    """Run the fleet once; Prometheus stays up until the end of the block."""
    warm_up(a_spec())  # compiled once here, not by every replica at once
    with prometheus(folder / "prometheus") as url:
        description = folder / "pools.yaml"
        description.write_text(DESCRIPTION)
        before, after, clients, bill = asyncio.run(_run(folder, url, policy))
        yield Run(url, description, before, after, clients, bill)


async def _run(folder: Path, url: str, policy: str) -> tuple[Bill, Bill, list[ClientRecord], dict[str, Any]]:
    scenario_file = folder / "fleet.yaml"
    scenario_file.write_text(FLEET.format(duration_s=DURATION_S))
    async with embedded_valkey(folder / "valkey") as valkey:
        stage = staged(scenario_file, valkey.url, SPEED_UP)
        async with sidecar(stage, Entrant("run", policy), folder / "run") as running:
            following = asyncio.create_task(_listed(running.folder, folder / "prometheus" / "targets.json"))
            await _all_seen(url, 2)  # the cheap pool may have shrunk already
            before = await _next_bill(running.folder / BILL_FILE)
            clients = await replay(stage.workload, addressees(stage.scenario), running.url, SPEED_UP, Replay())
            await asyncio.sleep(LATE_S)
            after = await _next_bill(running.folder / BILL_FILE)
            await asyncio.sleep(2 * SCRAPE_S)
            following.cancel()
            return before, after, clients, json.loads((running.folder / BILL_FILE).read_text())


async def _listed(folder: Path, targets: Path) -> None:
    """Tell Prometheus which replicas there are, as a cluster's service discovery does."""
    told = ""
    while True:
        found = [
            {"targets": [f"{one.host}:{one.port}"], "labels": {"pool": one.pool}}
            for path in folder.glob("roster.json")
            for one in read_roster(path)
        ]
        text = json.dumps(found)
        if text != told:
            part = targets.with_suffix(".part")
            part.write_text(text)
            part.replace(targets)
            told = text
        await asyncio.sleep(0.1)


async def _all_seen(url: str, count: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    query = f"{url}/api/v1/query?query=count(vllm:num_requests_running)"
    while True:
        answer = await asyncio.to_thread(_asked, query)
        if answer and answer["data"]["result"] and float(answer["data"]["result"][0]["value"][1]) >= count:
            return
        assert time.monotonic() < deadline_s, f"Prometheus does not see {count} replicas within {PATIENCE_S:g} s"
        await asyncio.sleep(0.2)


async def _next_bill(path: Path) -> Bill:
    """The bill as soon as it is written again, with the time of that."""
    seen = path.stat().st_mtime_ns if path.exists() else 0
    deadline_s = time.monotonic() + PATIENCE_S
    while not path.exists() or path.stat().st_mtime_ns == seen:
        assert time.monotonic() < deadline_s, f"{path} is not written"
        await asyncio.sleep(0.02)
    document = json.loads(path.read_text())
    return Bill(path.stat().st_mtime, document["usd"], document["usd_by_pool"])


def _until(there: Any, otherwise: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline_s, otherwise
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _asked(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None
