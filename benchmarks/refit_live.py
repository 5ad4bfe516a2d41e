"""`python -m poolpilot.benchmarks.refit_live`: a refit to what a real sidecar recorded of servers that are not as believed.

A sidecar (`poolpilot control`) steers emulated replicas through a real Envoy, with a real Valkey, faster than real time. One
pool takes 1.3 times as long as it believes, cold starts twice as long, and the classes come in another mix. While it runs,
`poolpilot finetune refit` reads its record and tells it how far its twin is off. What is found stands beside what is true.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.commands.demonstration.stack import Entrant, Sidecar, Stage, addressees, sidecar
from poolpilot.controller.actuators.envoy_process import EnvoyFolder
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.env.scenario import load_scenario
from poolpilot.env.workload.load import load_workload
from poolpilot.telemetry.record.segments import files_of
from poolpilot.telemetry.valkey import embedded_valkey

from .report import Section, markdown, print_sections, put
from .two_pools import LONGER, SLOWER, Document, lengths, load, pool, slowed, with_rates, written

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "finetuning.md"
PART: Final = "refit-live"
RESULT: Final = "result.json"
PERIOD_S: Final = 240.0
"""Load swings so fast that replicas come and go several times in a quarter of an hour."""
COLD_START: Final = {"provision_s": 10, "load_s": 20}
RATES: Final = {"chat": 2.0, "summarisation": 0.2}
TRUE_RATES: Final = {"chat": 1.4, "summarisation": 0.5}
NOT_REPRODUCED: Final = 3
STREAM_INTERVAL: Final = 16


def believed_document(duration_s: float, control: Mapping[str, Any] | None = None) -> Document:
    """What everybody believes."""
    engine = {"max_num_seqs": 8, "max_model_len": 2048}
    swing = {"kind": "diurnal", "period_s": PERIOD_S, "amplitude": 0.7}

    def traffic(name: str, prompt: int, output: int) -> Document:
        return load(RATES[name], swing, lengths(prompt, 0.4, 1400), lengths(output, 0.4, 600))

    return {
        "schema": 1,
        "name": "two-pools",
        "summary": "Two pools, two classes, small enough to be emulated faster than real time.",
        "duration_s": duration_s,
        "tick_s": 5,
        "model": "llama-2-13b",
        "pools": {
            "a100": pool("A100-SXM-80GB", 2.2, (1, 2), engine, COLD_START),
            "l40s": pool("L40S-48GB", 1.1, (2, 8), engine, COLD_START),
        },
        "classes": {
            "chat": {"target": {"ttft_s": 3.0, "tpot_s": 0.1, "attainment": 0.95}},
            "summarisation": {"target": {"ttft_s": 6.0, "tpot_s": 0.15, "attainment": 0.9}},
        },
        "workload": {
            "kind": "generated",
            "classes": {"chat": traffic("chat", 200, 250), "summarisation": traffic("summarisation", 900, 150)},
        },
        "guard": {"scale_down_cooldown_s": 20},
        "control": dict(control or {}),
    }


def true_document(duration_s: float) -> Document:
    """The world as it is."""
    return with_rates(slowed(believed_document(duration_s)), TRUE_RATES)


@dataclass(frozen=True)
class Asked:
    """How long, how fast, and who decides."""

    duration_s: float
    speed_up: float
    policy: str
    seed: int = 0
    control: Mapping[str, Any] = field(default_factory=dict)
    """Of the scenario that is believed."""


async def measured(asked: Asked, folder: Path) -> dict[str, Any]:
    """Record, refit beside the running sidecar, and what all of them said."""
    believed, true = written(
        folder,
        believed=believed_document(asked.duration_s, asked.control),
        true=true_document(asked.duration_s),
    )
    scenario, world = load_scenario(str(believed)), load_scenario(str(true))
    requests = load_workload(world.workload, world.class_names, asked.duration_s, asked.seed, Path())
    async with embedded_valkey(folder / "valkey") as valkey:
        stage = Stage(
            scenario, believed, requests, valkey.url, folder, asked.speed_up, STREAM_INTERVAL, world_file=true
        )
        async with sidecar(stage, Entrant("run", asked.policy), folder / "run") as running:
            clients = await replay(requests, addressees(scenario), running.url, asked.speed_up, Replay())
            # One more tick, so that the last answers are in the record.
            await asyncio.sleep(1.5 * scenario.tick_s / asked.speed_up)
            before = await _told(running)
            # The record of the traffic: where the command takes long to start, half of what it reads would be of an idle cluster.
            record = folder / "record"
            record.mkdir()
            for file in files_of(running.folder):
                shutil.copy(file, record)
            code, found = await refitted(believed, record, running.folder, folder / "refit")
            after = await _told(running, ticks=2)
    return {
        "duration_s": asked.duration_s,
        "speed_up": asked.speed_up,
        "policy": asked.policy,
        "requests": dict(Counter(record.outcome for record in clients)),
        "reproduces": code == 0,
        "refit": found,
        "before": before,
        "after": after,
    }


async def refitted(believed: Path, record: Path, run: Path, out: Path) -> tuple[int, dict[str, Any]]:
    """`poolpilot finetune refit` on the record of a sidecar, which works in `run` and is told; exit code and document.

    Raises:
        RuntimeError: it fails.
    """
    log = EnvoyFolder(run / "envoy").access_log
    command = [sys.executable, "-m", "poolpilot", "finetune", "refit", str(record), "--scenario", str(believed)]
    command += ["--access-log", str(log), "--out", str(out), "--tell", str(run), "--json"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    said, wrong = await process.communicate()
    if process.returncode not in (0, NOT_REPRODUCED):
        raise RuntimeError(f"finetune refit: exit code {process.returncode}: {wrong.decode(errors='replace').strip()}")
    return process.returncode, json.loads(said)


async def _told(running: Sidecar, ticks: int = 0) -> dict[str, Any]:
    """What the sidecar says of drift, so many ticks from now."""
    async with aiohttp.ClientSession() as session:

        async def status() -> dict[str, Any]:
            async with session.get(f"{running.api_url}/v1/status") as answer:
                own: dict[str, Any] = await answer.json()
                return own

        own = await status()
        wanted = own["ticks"] + ticks
        async with asyncio.timeout(60.0):
            while own["ticks"] < wanted:
                await asyncio.sleep(0.1)
                own = await status()
        async with session.get(f"{running.api_url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
            figures = {sample.name: sample.value for family in families for sample in family.samples}
    names = ("poolpilot_policy_trust_ratio", "poolpilot_twin_error_ratio", "poolpilot_outside_range_ratio")
    return {"warnings": own["warnings"], **{name: figures[name] for name in names}}


def truths() -> dict[str, dict[str, float]]:
    """What is true, by where it stands in the refit's document."""
    cold_start_s = LONGER * sum(COLD_START.values())
    return {
        "time_factors": {"a100": 1.0, "l40s": SLOWER},
        "cold_start_s": {"a100": cold_start_s, "l40s": cold_start_s},
        "rate_per_s": TRUE_RATES,
    }


def estimates(refit: dict[str, Any]) -> dict[str, dict[str, dict[str, Any] | None]]:
    """What was found, in the same places; None where the record tells nothing."""
    rates = {name: own and own["rate_per_s"] for name, own in refit["traffic"].items()}
    factors = {name: refit["time_factors"].get(name) for name in truths()["time_factors"]}
    return {"time_factors": factors, "cold_start_s": refit["cold_start_s"], "rate_per_s": rates}


def sections(result: dict[str, Any]) -> list[Section]:
    """What was found beside what is true, and what was held out."""
    rows = []
    for place, label in (
        ("time_factors", "times of `{}`"),
        ("cold_start_s", "cold start of `{}`, s"),
        ("rate_per_s", "{}, requests/s"),
    ):
        for name, true in truths()[place].items():
            own = estimates(result["refit"])[place][name]
            cells = ("-", "not told", "-") if own is None else _cells(own)
            rows.append((label.format(name), cells[0], f"{true:g}", *cells[1:]))
    lost = result["requests"].get("lost", 0)
    note = (
        f"{result['duration_s']:g} s at {result['speed_up']:g} times real time under `{result['policy']}`:"
        f" {sum(result['requests'].values())} requests, {lost} lost. The refitted twin"
        f" {'reproduces' if result['reproduces'] else 'does not reproduce'} what was held out"
        f" (`{result['refit']['held_out']['before']['verdict']}` before, `{result['refit']['verdict']}` after)."
    )
    head = ("figure", "believed", "true", "found", "95 % interval")
    return [Section("What was found on real servers", note, head, tuple(rows))]


def _cells(own: dict[str, Any]) -> tuple[str, str, str]:
    believed = "-" if own["believed"] is None else f"{own['believed']:.3g}"
    return believed, f"{own['value']:.3g}", f"{own['low']:.3g} to {own['high']:.3g}"


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--duration-s", type=click.FloatRange(min=400.0), default=1500.0, show_default=True)
@click.option("--speed-up", type=click.FloatRange(1, 20), default=4.0, show_default=True)
@click.option("--policy", default=None, help="Who decides. Default: the first checkpoint that is shipped.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the requests.")
@click.option("--write", is_flag=True, help="Run nothing: put what is there into docs/finetuning.md.")
def main(out: Path, duration_s: float, speed_up: float, policy: str | None, seed: int, write: bool) -> None:
    """Measure how a refit finds what is true of real servers."""
    if not write:
        asked = Asked(duration_s, speed_up, policy or next(iter(shipped_checkpoints())), seed)
        result = asyncio.run(measured(asked, out))
        (out / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    result = json.loads((out / RESULT).read_text(encoding="utf-8"))
    tables = sections(result)
    print_sections(tables, Console())
    for when in ("before", "after"):
        Console().print(when, result[when])
    if write:
        put(PAGE, PART, f"Made by `python -m poolpilot.benchmarks.refit_live`.\n\n{markdown(tables)}")


if __name__ == "__main__":
    main()
