"""A soak: the sidecar in active mode at the highest load that this machine carries, watched for growth.

    python -m poolpilot.benchmarks.soak                 # ten minutes; --write puts the figures into docs/reliability.md
    python -m poolpilot.benchmarks.soak --minutes 0.5 --rate 5

Real Envoy, real Valkey, emulated replicas, clients of whom each counts. Every few seconds memory, file handles and the
processor time that was used are read of all processes; what grows from the first third to the last is named. Processor
time, and not the wall's: how long a tick lasts on a shared machine tells more of the others than of the sidecar. And in
parts of what a piece of work takes that is always the same: caches and clock rates are shared too.
"""

from __future__ import annotations

import asyncio
import json
import os
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
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from ..commands.demonstration.stack import Entrant, Sidecar, Stage, addressees, sidecar
from ..env.emulator.replay import ClientRecord, Replay, replay
from ..env.scenario import load_scenario
from ..env.workload.load import load_workload
from ..telemetry.valkey import embedded_valkey
from .load_search import MOST_SLIPPED_FRAC, Step, following, highest_carried, piled_up, slipped_frac
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
CPU_SLACK_FRAC: Final = 0.25
"""Growth of processor time from the first third to the last that counts as none; a busy cache costs some of it."""
TICK_SLACK_MS, CORE_SLACK_PERCENT = 5.0, 3.0
SIDECAR: Final = "sidecar"
_WORK: Final = {str(n): [n / 7.0, str(n)] for n in range(1500)}
STEP_S: Final = 20.0
"""Of the search for the highest load."""
FIRST_RATE_PER_S: Final = 4.0
SHARE_OF_MOST: Final = 0.8
"""Of the highest load that is carried: the soak is not to end by a moment's bad luck."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_CLOCK_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

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
    cpu_s: float
    """Processor time that they have used, without that of their children."""
    ticks: float = 0.0
    """That the sidecar has finished."""
    work_s: float = 1.0
    """Processor time that the same piece of work took at that moment (`_same_work_s`)."""


@dataclass(frozen=True)
class Growth:
    """One quantity in the first and in the last third of the time after the warm-up."""

    what: str
    unit: str
    first: float
    last: float
    allowed: float
    """Most that `last` may be."""

    @property
    def grew(self) -> bool:
        """Beyond what counts as none; what could not be told is no pass."""
        return not self.last <= self.allowed


@dataclass(frozen=True)
class Soaked:
    """What came of it."""

    minutes: float
    rate_per_s: float
    steps: tuple[Step, ...]
    """What was tried to find that rate; empty where it was given."""
    sent: int
    served: int
    shed: int
    lost: int
    lost_for: tuple[str, ...]
    slipped_frac: float
    """Share of the requests that the clients sent late: how busy the machine was."""
    ticks: int
    growths: tuple[Growth, ...]

    @property
    def grew(self) -> tuple[str, ...]:
        """What did, by name."""
        return tuple(g.what for g in self.growths if g.grew)

    @property
    def passed(self) -> bool:
        """Nothing grew, no request was lost, and the load was the one that was meant."""
        return not self.grew and not self.lost and self.slipped_frac <= MOST_SLIPPED_FRAC


def growth(what: str, unit: str, values: Sequence[float], slack_frac: float, slack: float) -> Growth:
    """Compare the medians of the thirds of a series, its warm-up left out."""
    steady = np.asarray(values[int(WARM_UP_FRAC * len(values)) :], dtype=np.float64)
    third = max(1, len(steady) // 3)
    first, last = float(np.median(steady[:third])), float(np.median(steady[-third:]))
    return Growth(what, unit, first, last, first * (1.0 + slack_frac) + slack)


def growth_of_rate(
    what: str, unit: str, totals: Sequence[float], per: Sequence[float], slack_frac: float, slack: float
) -> Growth:
    """Compare how fast a total grew beside another one in the thirds of a series, its warm-up left out.

    Args:
        what, unit: of the quotient.
        totals: what was used up to each sample.
        per: what it was used for up to each sample, such as ticks.
        slack_frac, slack: growth that counts as none.
    """
    used, spent = (np.asarray(one, dtype=np.float64)[int(WARM_UP_FRAC * len(one)) :] for one in (totals, per))
    third = max(1, (len(used) - 1) // 3)

    def rate(begin: int, end: int) -> float:
        steps = spent[end] - spent[begin]
        return float((used[end] - used[begin]) / steps) if steps > 0 else float("nan")

    first, last = rate(0, third), rate(len(used) - 1 - third, len(used) - 1)
    return Growth(what, unit, first, last, first * (1.0 + slack_frac) + slack)


def evened(totals: Sequence[float], work_s: Sequence[float]) -> list[float]:
    """What a total of processor time would have been had the same work always taken as long as in the median."""
    total, work = np.asarray(totals, dtype=np.float64), np.asarray(work_s, dtype=np.float64)
    slower = work / np.median(work)
    steps = np.diff(total) / (0.5 * (slower[1:] + slower[:-1]))
    even: list[float] = np.append(total[0], total[0] + np.cumsum(steps)).tolist()
    return even


def growths(samples: dict[str, list[Sample]]) -> tuple[Growth, ...]:
    """Of every kind of process memory, handles and processor time; of the sidecar that of a tick."""
    found = []
    for kind, own in samples.items():
        memory = [sample.memory_bytes / 2**20 for sample in own]
        found.append(growth(f"{kind}: memory", "MiB", memory, MEMORY_SLACK_FRAC, MEMORY_SLACK_MIB))
        found.append(growth(f"{kind}: file handles", "", [float(sample.files) for sample in own], 0.0, FILES_SLACK))
        cpu_s = evened([sample.cpu_s for sample in own], [sample.work_s for sample in own])
        if kind == SIDECAR:
            used_ms, ticks = [1e3 * used for used in cpu_s], [sample.ticks for sample in own]
            what = f"{kind}: processor time of a tick"
            found.append(growth_of_rate(what, "ms", used_ms, ticks, CPU_SLACK_FRAC, TICK_SLACK_MS))
        else:
            used_percent, at_s = [100.0 * used for used in cpu_s], [sample.at_s for sample in own]
            what = f"{kind}: processor time"
            found.append(growth_of_rate(what, "% of a core", used_percent, at_s, CPU_SLACK_FRAC, CORE_SLACK_PERCENT))
    return tuple(found)


async def soak(
    folder: Path, minutes: float, rate_per_s: float | None, console: Console, step_s: float = STEP_S
) -> Soaked:
    """Run it; without a rate, at most of what the machine carries, which takes steps of `step_s` to find."""
    async with embedded_valkey(folder / "valkey") as valkey:
        stage = _stage(folder, valkey.url, minutes, rate_per_s or FIRST_RATE_PER_S)
        async with sidecar(stage, Entrant("soak", "plan-tracking"), folder / "soak") as running:
            steps: tuple[Step, ...] = ()
            if rate_per_s is None:
                steps = await _searched(stage, running, console, step_s)
                rate_per_s = SHARE_OF_MOST * highest_carried(steps)
                if rate_per_s == 0.0:
                    raise click.ClickException(
                        f"at {steps[-1].rate_per_s:g} requests a second {steps[-1].slipped_frac:.0%} were sent late and"
                        f" {steps[-1].unserved} not served: this machine is too busy for a soak"
                    )
            console.print(f"[dim]{rate_per_s:.0f} requests a second for {minutes:g} minutes[/dim]")
            stage = _stage(folder, valkey.url, minutes, rate_per_s)
            watch = _Watch(running, valkey.pid, console)
            watching = asyncio.create_task(watch.go_on())
            records = await _sent(stage, running)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return _soaked(stage, minutes, rate_per_s, steps, records, watch)


def _stage(folder: Path, store_url: str, minutes: float, rate_per_s: float) -> Stage:
    path = folder / f"soak-{rate_per_s:.0f}.yaml"
    rates = {"chat_per_s": 0.7 * rate_per_s, "batch_per_s": 0.3 * rate_per_s}
    path.write_text(SCENARIO.format(duration_s=60.0 * minutes, tick_s=TICK_S, **rates))
    scenario = load_scenario(str(path))
    workload = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    return Stage(scenario, path, workload, store_url, folder, 1.0, stream_interval=8)


async def _sent(stage: Stage, running: Sidecar) -> list[ClientRecord]:
    return await replay(stage.workload, addressees(stage.scenario), running.url, 1.0, Replay())


async def _searched(stage: Stage, running: Sidecar, console: Console, step_s: float) -> tuple[Step, ...]:
    """Rates that were tried: more and more, until clients are late or requests fail, and then in between."""
    steps: list[Step] = []
    while (rate_per_s := following(steps, FIRST_RATE_PER_S)) is not None:
        tried = _stage(stage.folder, stage.store_url, step_s / 60.0, rate_per_s)
        records = await _sent(tried, running)  # returns when the last answer is in: no step weighs on the next
        sent_s = np.array([r.sent_s for r in records])
        end_s = np.array([np.inf if r.end_s is None else r.end_s for r in records])
        unserved = sum(r.outcome != "served" for r in records)
        step = Step(rate_per_s, _slipped(tried, records), unserved, piled_up(sent_s, end_s))
        console.print(
            f"[dim]{rate_per_s:.0f} requests a second: {step.slipped_frac:.1%} sent late, {step.unserved} not served"
            f"{', more and more under way' if step.piled_up else ''}[/dim]"
        )
        steps.append(step)
    return tuple(steps)


def _slipped(stage: Stage, records: Sequence[ClientRecord]) -> float:
    return slipped_frac(stage.workload.arrival_s[: len(records)], np.array([r.sent_s for r in records]))


class _Watch:
    """Looks at all processes again and again."""

    def __init__(self, running: Sidecar, valkey_pid: int, console: Console) -> None:
        self._running, self._valkey_pid, self._console = running, valkey_pid, console
        self.samples: dict[str, list[Sample]] = {kind: [] for kind in (SIDECAR, "Envoy", "Valkey", "replicas")}

    @property
    def ticks(self) -> int:
        """That the sidecar finished meanwhile."""
        own = self.samples[SIDECAR]
        return int(own[-1].ticks - own[0].ticks) if own else 0

    async def go_on(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
            while True:
                ticks, work_s = await self._ticks_so_far(session), _same_work_s()
                for kind, pids in self._pids().items():
                    self.samples[kind].append(_sample(pids, ticks, work_s))
                await asyncio.sleep(SAMPLE_EVERY_S)

    async def _ticks_so_far(self, session: aiohttp.ClientSession) -> float:
        async with session.get(f"{self._running.api_url}/metrics") as answer:
            page = await answer.text()
        (family,) = (f for f in text_string_to_metric_families(page) if f.name == "poolpilot_tick_seconds")
        return next(sample.value for sample in family.samples if sample.name.endswith("_count"))

    def _pids(self) -> dict[str, list[int]]:
        folder = self._running.folder
        return {
            SIDECAR: [self._running.process.pid],
            "Envoy": [json.loads((folder / "envoy" / "running.json").read_text())["pid"]],
            "Valkey": [self._valkey_pid],
            "replicas": [one["pid"] for one in json.loads((folder / "roster.json").read_text())],
        }


def _same_work_s() -> float:
    """Processor time of a millisecond's work such as a sidecar's: the median of three, since now and then a host takes its
    own time off ours."""
    took_s = []
    for _ in range(3):
        began_s = time.thread_time()
        json.loads(json.dumps(_WORK))
        took_s.append(time.thread_time() - began_s)
    return float(np.median(took_s))


def _sample(pids: Sequence[int], ticks: float, work_s: float) -> Sample:
    memory = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return Sample(time.monotonic(), memory, files, sum(_cpu_s(pid) for pid in pids), ticks, work_s)


def _cpu_s(pid: int) -> float:
    """Processor time of one process and its threads, in user and kernel mode, without its children's (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S


def _soaked(
    stage: Stage,
    minutes: float,
    rate_per_s: float,
    steps: tuple[Step, ...],
    records: Sequence[ClientRecord],
    watch: _Watch,
) -> Soaked:
    outcomes = [r.outcome for r in records]
    return Soaked(
        minutes=minutes,
        rate_per_s=rate_per_s,
        steps=steps,
        sent=len(records),
        served=outcomes.count("served"),
        shed=outcomes.count("shed"),
        lost=outcomes.count("lost"),
        lost_for=tuple(sorted({r.detail for r in records if r.outcome == "lost"})),
        slipped_frac=_slipped(stage, records),
        ticks=watch.ticks,
        growths=growths(watch.samples),
    )


def headline(soaked: Soaked) -> str:
    """The run in one sentence."""
    return (
        f"{soaked.minutes:g} minutes at {soaked.rate_per_s:.0f} requests a second: {soaked.sent} sent,"
        f" {soaked.served} served, {soaked.shed} put off for good, {soaked.lost} lost; {soaked.ticks} ticks;"
        f" {soaked.slipped_frac:.1%} of the requests were sent late."
    )


def carried(soaked: Soaked) -> str:
    """What the search for the highest load found, in one sentence; empty where the rate was given."""
    if not soaked.steps:
        return ""
    most = highest_carried(soaked.steps)
    beyond = [step for step in soaked.steps if not step.carried and step.rate_per_s > most]
    if not beyond:
        return f"Highest load tried, and carried: {most:.0f} requests a second."
    least = min(beyond, key=lambda step: step.rate_per_s)
    return (
        f"Highest load that this machine carries: {most:.0f} requests a second; at {least.rate_per_s:.0f} the clients, who"
        f" share its processors, send {least.slipped_frac:.0%} late{', and requests pile up' if least.piled_up else ''}. Soaked at"
        f" {SHARE_OF_MOST:.0%} of it."
    )


def verdict(soaked: Soaked) -> str:
    """Whether it passed, and if not, what did not."""
    if soaked.passed:
        return "PASSED: memory, file handles and processor time did not grow, and no request was lost."
    faults = [f"{what} grew" for what in soaked.grew]
    if soaked.lost:
        faults.append(f"{soaked.lost} requests were lost ({'; '.join(soaked.lost_for[:3])})")
    if soaked.slipped_frac > MOST_SLIPPED_FRAC:
        faults.append(
            f"{soaked.slipped_frac:.1%} of the requests were sent late: the clients starved, the load was another"
        )
    return f"FAILED: {'; '.join(faults)}."


def markdown(soaked: Soaked) -> str:
    """The section of docs/reliability.md."""
    lines = ["| what | first third | last third | most that counts as no growth |", "|---|---:|---:|---:|"]
    for g in soaked.growths:
        digits = 1 if g.first < 100.0 and g.unit else 0
        cells = (f"{value:.{digits}f}{f' {g.unit}' if g.unit else ''}" for value in (g.first, g.last, g.allowed))
        lines.append(f"| {g.what} | {' | '.join(cells)} |")
    said = (f"**{verdict(soaked)}**", headline(soaked), carried(soaked))
    return "\n\n".join([*(text for text in said if text), "\n".join(lines)])


def _show(soaked: Soaked, console: Console) -> None:
    table = Table("what", "first third", "last third", "at most", "", title=headline(soaked))
    for g in soaked.growths:
        table.add_row(
            g.what, f"{g.first:.1f} {g.unit}", f"{g.last:.1f} {g.unit}", f"{g.allowed:.1f}", "GREW" if g.grew else ""
        )
    console.print(table)
    for text in filter(None, (carried(soaked), verdict(soaked))):
        console.print(text, highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(min=0.1, max=24 * 60), default=10.0, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0.1), help="Requests a second; left out: as many as are carried.")
@click.option(
    "--step-seconds", type=click.FloatRange(min=1.0), default=STEP_S, show_default=True, help="Of the search."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--write", "rewrite", is_flag=True, help="Put the figures into docs/reliability.md.")
def main(minutes: float, rate: float | None, step_seconds: float, as_json: bool, rewrite: bool) -> None:
    """Soak the sidecar under load; exit code 1 if anything grows, a request is lost, or the clients starve."""
    console = Console(stderr=True)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each request under way is a connection
    with tempfile.TemporaryDirectory(prefix="poolpilot-soak-") as folder:
        soaked = asyncio.run(soak(Path(folder), minutes, rate, console, step_seconds))
    document: dict[str, Any] = {**asdict(soaked), "grew": list(soaked.grew), "verdict": verdict(soaked)}
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(soaked, Console())
    if rewrite:
        put(PAGE, "soak", markdown(soaked))
    raise SystemExit(0 if soaked.passed else 1)


if __name__ == "__main__":
    main()
