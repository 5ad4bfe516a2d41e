"""A soak: the sidecar in active mode at the highest load that this machine carries, watched for growth.

    python -m poolpilot.benchmarks.soak                 # ten minutes; --write puts the figures into docs/reliability.md
    python -m poolpilot.benchmarks.soak --minutes 0.5 --rate 5

Real Envoy, real Valkey, emulated replicas, clients of whom each counts. Every few seconds memory, file handles and the
time of a tick are read of all processes; what grows from the first third to the last is named.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
import numpy as np
from rich.console import Console
from rich.table import Table

from ..commands.demonstration.stack import Entrant, Sidecar, Stage, addressees, sidecar
from ..env.emulator.replay import ClientRecord, Replay, replay
from ..env.scenario import load_scenario
from ..env.workload.load import load_workload
from ..telemetry.valkey import embedded_valkey
from .report import put

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
TICK_S: Final = 2.0
SAMPLE_EVERY_S: Final = 2.0
WARM_UP_FRAC: Final = 0.2
"""Of the time; caches, windows and pools fill meanwhile."""
MEMORY_SLACK_FRAC, MEMORY_SLACK_MIB = 0.05, 8.0
"""Growth of resident memory from the first third to the last that counts as none."""
FILES_SLACK: Final = 8
"""File handles: the number of open connections follows the load of the moment."""
TICK_SLACK_FRAC, TICK_SLACK_S = 0.5, 0.05
MOST_LATE_S: Final = 0.25
"""A client that sends this much later than it should is out of CPU: the load is more than the machine carries."""
_FIRST_RATE_PER_S, _STEP_S, _STEP_FACTOR, _STEPS, _SHARE_OF_MOST = 5.0, 8.0, 1.6, 9, 0.8
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

SCENARIO: Final = """\
schema: 1
name: soak
summary: Two pools under a steady load of streams and plain answers.
duration_s: {duration_s}
tick_s: {tick_s}
model: qwen2.5-0.5b
pools:
  dear:
    gpu: H100-SXM-80GB
    precision: bf16
    price: {{usd_per_hr: 6.88}}
    replicas: {{min: 1, max: 1, start: 1}}
  cheap:
    gpu: L40S-48GB
    precision: bf16
    price: {{usd_per_hr: 1.861}}
    replicas: {{min: 1, max: 1, start: 1}}
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
      rate_per_s: {chat_per_s}
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 100, sigma: 0.4, max: 300}}
    batch:
      rate_per_s: {batch_per_s}
      prompt_tokens: {{kind: lognormal, median: 200, sigma: 0.5, max: 1000}}
      output_tokens: {{kind: lognormal, median: 50, sigma: 0.4, max: 150}}
"""


@dataclass(frozen=True)
class Sample:
    """What the processes of one kind held at one moment."""

    at_s: float
    memory_bytes: int
    """Resident, all of them."""
    files: int
    """Open file handles."""


@dataclass(frozen=True)
class Growth:
    """One quantity in the first and in the last third of the time after the warm-up, by medians."""

    what: str
    unit: str
    first: float
    last: float
    allowed: float
    """Most that `last` may be."""

    @property
    def grew(self) -> bool:
        """Beyond what counts as none."""
        return self.last > self.allowed


@dataclass(frozen=True)
class Soaked:
    """What came of it."""

    minutes: float
    rate_per_s: float
    sent: int
    served: int
    shed: int
    lost: int
    lost_for: tuple[str, ...]
    latest_s: float
    """How late the clients sent at the 99th percentile: a measure of how busy the machine was."""
    ticks: int
    growths: tuple[Growth, ...]


def growth(what: str, unit: str, values: Sequence[float], slack_frac: float, slack: float) -> Growth:
    """Compare the thirds of a series, its warm-up left out."""
    steady = np.asarray(values[int(WARM_UP_FRAC * len(values)) :], dtype=np.float64)
    third = max(1, len(steady) // 3)
    first, last = float(np.median(steady[:third])), float(np.median(steady[-third:]))
    return Growth(what, unit, first, last, first * (1.0 + slack_frac) + slack)


def growths(samples: dict[str, list[Sample]], tick_s: Sequence[float]) -> tuple[Growth, ...]:
    """Of every kind of process memory and handles, and of the sidecar the time of a tick."""
    found = []
    for kind, own in samples.items():
        memory = [sample.memory_bytes / 2**20 for sample in own]
        found.append(growth(f"{kind}: memory", "MiB", memory, MEMORY_SLACK_FRAC, MEMORY_SLACK_MIB))
        found.append(growth(f"{kind}: file handles", "", [float(sample.files) for sample in own], 0.0, FILES_SLACK))
    found.append(
        growth("sidecar: time of a tick", "ms", [t * 1e3 for t in tick_s], TICK_SLACK_FRAC, TICK_SLACK_S * 1e3)
    )
    return tuple(found)


async def soak(folder: Path, minutes: float, rate_per_s: float | None, console: Console) -> Soaked:
    """Run it; without a rate, at most of what the machine carries."""
    async with embedded_valkey(folder / "valkey") as valkey:
        stage = _stage(folder, valkey.url, minutes, rate_per_s or _FIRST_RATE_PER_S)
        async with sidecar(stage, Entrant("soak", "plan-tracking"), folder / "soak") as running:
            rate_per_s = rate_per_s or await _most(stage, running, console)
            console.print(f"[dim]{rate_per_s:.0f} requests a second for {minutes:g} minutes[/dim]")
            stage = _stage(folder, valkey.url, minutes, rate_per_s)
            watch = _Watch(running, valkey.pid, console)
            watching = asyncio.create_task(watch.go_on())
            records = await _sent(stage, running)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return _soaked(stage, minutes, rate_per_s, records, watch)


def _stage(folder: Path, store_url: str, minutes: float, rate_per_s: float) -> Stage:
    path = folder / f"soak-{rate_per_s:.0f}.yaml"
    rates = {"chat_per_s": 0.7 * rate_per_s, "batch_per_s": 0.3 * rate_per_s}
    path.write_text(SCENARIO.format(duration_s=60.0 * minutes, tick_s=TICK_S, **rates))
    scenario = load_scenario(str(path))
    workload = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return Stage(scenario, path, workload, store_url, folder, 1.0, stream_interval=8)


async def _sent(stage: Stage, running: Sidecar) -> list[ClientRecord]:
    return await replay(stage.workload, addressees(stage.scenario), running.url, 1.0, Replay())


async def _most(stage: Stage, running: Sidecar, console: Console) -> float:
    """Requests a second that the machine carries: more and more, until clients are late or requests fail."""
    carried_per_s, rate_per_s = _FIRST_RATE_PER_S, _FIRST_RATE_PER_S
    for _ in range(_STEPS):
        step = _stage(stage.folder, stage.store_url, _STEP_S / 60.0, rate_per_s)
        records = await _sent(step, running)
        late_s = _late_s(step, records)
        console.print(f"[dim]{rate_per_s:.0f} requests a second: clients up to {late_s * 1e3:.0f} ms late[/dim]")
        if late_s > MOST_LATE_S or any(r.outcome != "served" for r in records):
            break
        carried_per_s, rate_per_s = rate_per_s, rate_per_s * _STEP_FACTOR
    return _SHARE_OF_MOST * carried_per_s


def _late_s(stage: Stage, records: Sequence[ClientRecord]) -> float:
    late_s = np.array([r.sent_s for r in records]) - stage.workload.arrival_s[: len(records)]
    return float(np.quantile(late_s, 0.99))


class _Watch:
    """Looks at all processes again and again."""

    def __init__(self, running: Sidecar, valkey_pid: int, console: Console) -> None:
        self._running, self._valkey_pid, self._console = running, valkey_pid, console
        self.samples: dict[str, list[Sample]] = {"sidecar": [], "Envoy": [], "Valkey": [], "replicas": []}
        self.tick_s: list[float] = []
        self.ticks = 0

    async def go_on(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
            before = await self._tick_totals(session)
            while True:
                await asyncio.sleep(SAMPLE_EVERY_S)
                for kind, pids in self._pids().items():
                    self.samples[kind].append(_sample(pids))
                now = await self._tick_totals(session)
                if now[1] > before[1]:
                    self.tick_s.append((now[0] - before[0]) / (now[1] - before[1]))
                    self.ticks += int(now[1] - before[1])
                before = now

    async def _tick_totals(self, session: aiohttp.ClientSession) -> tuple[float, float]:
        async with session.get(f"{self._running.api_url}/metrics") as answer:
            page = await answer.text()
        seconds, count = (
            float(found[1])
            if (found := re.search(rf"^poolpilot_tick_seconds_{part} (\S+)$", page, re.MULTILINE))
            else 0.0
            for part in ("sum", "count")
        )
        return seconds, count

    def _pids(self) -> dict[str, list[int]]:
        folder = self._running.folder
        return {
            "sidecar": [self._running.process.pid],
            "Envoy": [json.loads((folder / "envoy" / "running.json").read_text())["pid"]],
            "Valkey": [self._valkey_pid],
            "replicas": [one["pid"] for one in json.loads((folder / "roster.json").read_text())],
        }


def _sample(pids: Sequence[int]) -> Sample:
    memory = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return Sample(time.monotonic(), memory, files)


def _soaked(stage: Stage, minutes: float, rate_per_s: float, records: Sequence[ClientRecord], watch: _Watch) -> Soaked:
    outcomes = [r.outcome for r in records]
    return Soaked(
        minutes=minutes,
        rate_per_s=rate_per_s,
        sent=len(records),
        served=outcomes.count("served"),
        shed=outcomes.count("shed"),
        lost=outcomes.count("lost"),
        lost_for=tuple(sorted({r.detail for r in records if r.outcome == "lost"})),
        latest_s=_late_s(stage, records),
        ticks=watch.ticks,
        growths=growths(watch.samples, watch.tick_s),
    )


def headline(soaked: Soaked) -> str:
    """The run in one sentence."""
    return (
        f"{soaked.minutes:g} minutes at {soaked.rate_per_s:.0f} requests a second: {soaked.sent} sent,"
        f" {soaked.served} served, {soaked.shed} put off for good, {soaked.lost} lost; {soaked.ticks} ticks; clients"
        f" sent up to {soaked.latest_s * 1e3:.0f} ms late (99th percentile)."
    )


def markdown(soaked: Soaked) -> str:
    """The section of docs/reliability.md."""
    lines = ["| what | first third | last third | most that counts as no growth |", "|---|---:|---:|---:|"]
    for g in soaked.growths:
        cells = (f"{value:.0f}{f' {g.unit}' if g.unit else ''}" for value in (g.first, g.last, g.allowed))
        lines.append(f"| {g.what} | {' | '.join(cells)} |")
    return "\n".join([headline(soaked), "", *lines])


def _show(soaked: Soaked, console: Console) -> None:
    table = Table("what", "first third", "last third", "at most", "", title=headline(soaked))
    for g in soaked.growths:
        table.add_row(
            g.what, f"{g.first:.1f} {g.unit}", f"{g.last:.1f} {g.unit}", f"{g.allowed:.1f}", "GREW" if g.grew else ""
        )
    console.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(min=0.1, max=24 * 60), default=10.0, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Requests a second; left out: as many as are carried.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help="Put the figures into docs/reliability.md.")
def main(minutes: float, rate: float | None, as_json: bool, rewrite: bool) -> None:
    """Soak the sidecar under load; exit code 1 if anything grows or a request is lost."""
    console = Console(stderr=True)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each request under way is a connection
    with tempfile.TemporaryDirectory(prefix="poolpilot-soak-") as folder:
        soaked = asyncio.run(soak(Path(folder), minutes, rate, console))
    document: dict[str, Any] = {**asdict(soaked), "grew": [g.what for g in soaked.growths if g.grew]}
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(soaked, Console())
    if rewrite:
        put(PAGE, "soak", markdown(soaked))
    raise SystemExit(1 if document["grew"] or soaked.lost else 0)


if __name__ == "__main__":
    main()
