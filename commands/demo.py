"""`poolpilot demo`: a trained policy steers mixed pools through a real Envoy, against tuned baselines."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import click
import yaml
from rich.console import Console

from ..agents.portfolio import RULES, STATIC, THRESHOLD
from ..controller.actuators.envoy_process import EnvoyStartError, envoy_binary
from ..env.emulator.replay import Replay
from ..env.scenario import Scenario, load_scenario
from ..env.workload.load import load_workload
from ..telemetry.store import StoreError
from ..telemetry.valkey import ValkeyError, valkey_url
from .bad_input import one_line_errors, refuse
from .demonstration.entrants import entrants_for
from .demonstration.measures import RunFigures, as_json
from .demonstration.stack import DemoError, Entrant, Stage, run_entrant
from .demonstration.tracing import with_trace
from .demonstration.watching import watch
from .printing import console, log_console, percent, print_json, seconds, table

DEFAULT_POLICIES = ("steady-hand", STATIC, THRESHOLD)


@click.command()
@click.option("--scenario", default="mixed-chat", show_default=True, help="A shipped scenario's name, or a file.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="Replay this trace instead of the scenario's workload: Azure, BurstGPT, Mooncake or plain (arrival_s, input_tokens, output_tokens), as CSV, Parquet or JSON lines, packed or not. Its rate is scaled to the scenario's.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help=f"A checkpoint's name or folder, or one of {', '.join(RULES)}; repeatable. Default: {', '.join(DEFAULT_POLICIES)}.",
)
@click.option("--duration", type=click.FloatRange(min=30), help="Scenario seconds instead of the scenario's own.")
@click.option(
    "--speed-up", type=click.FloatRange(1, 10), default=10.0, show_default=True, help="Scenario seconds in a second."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the workload.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of Envoy; default a free one.")
@click.option("--store", help="redis://host:port of a Redis or Valkey. Default: an embedded Valkey.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep logs, decisions and bills there.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the first run's display at a busy moment, as SVG.",
)
@click.option("--json", "as_document", is_flag=True, help="One JSON document on stdout instead of the table.")
@one_line_errors
def demo(
    scenario: str,
    trace: Path | None,
    policies: tuple[str, ...],
    duration: float | None,
    speed_up: float,
    seed: int,
    port: int,
    store: str | None,
    keep: Path | None,
    picture: Path | None,
    as_document: bool,
) -> None:
    """Watch a trained policy steer mixed GPU pools through a real Envoy, against baselines. No GPU needed.

    Starts an embedded Valkey, Envoy, and emulated vLLM replicas of unlike GPUs; replays a workload of several classes
    through Envoy, faster than real time; and lets the sidecar route, cap and scale, first with the shipped
    checkpoint, then with each baseline on the same requests. Rules have the knobs that are shipped (docs/tuning.md); fixed counts are the
    best on other days of the same shape.
    """
    loaded = load_scenario(scenario)
    if duration is not None:
        loaded = loaded.model_copy(update={"duration_s": duration})
    replayed, tuned_on = with_trace(loaded, trace) if trace else (loaded, loaded)
    names = tuple(dict.fromkeys(policies or DEFAULT_POLICIES))
    try:
        envoy_binary()
        figures = asyncio.run(
            _run(replayed, tuned_on, names, speed_up, seed, port, store, keep, picture, quiet=as_document)
        )
    except (EnvoyStartError, StoreError, ValkeyError, DemoError) as error:
        refuse(str(error))
    except asyncio.CancelledError:
        log_console().print("stopped; nothing was left running")
        sys.exit(130)
    if as_document:
        print_json(
            {
                "scenario": loaded.name,
                "speed_up": speed_up,
                "seed": seed,
                "trace": str(trace) if trace else None,
                "runs": [as_json(f) for f in figures],
            }
        )
    else:
        _print(replayed, figures, speed_up)


async def _run(
    scenario: Scenario,
    tuned_on: Scenario,
    policies: tuple[str, ...],
    speed_up: float,
    seed: int,
    port: int,
    store: str | None,
    keep: Path | None,
    picture: Path | None,
    quiet: bool,
) -> list[RunFigures]:
    task = asyncio.current_task()
    assert task is not None
    giving_up = threading.Event()

    def give_up() -> None:
        if not giving_up.is_set():  # a second Ctrl-C must not cut short the cleaning up that the first one began
            giving_up.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, give_up)
    folder = keep or Path(tempfile.mkdtemp(prefix="poolpilot-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        scenario_file = folder / "scenario.yaml"
        # The sidecar knows the other days only: what it will meet is not for it to read.
        document = tuned_on.model_dump(mode="json", by_alias=True)
        scenario_file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        workload = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, seed, scenario.base_dir)
        entrants = await asyncio.to_thread(entrants_for, tuned_on, policies, log_console(), giving_up)
        _refuse_taken(folder, [entrant.name for entrant in entrants])
        figures = []
        async with valkey_url(store) as url:
            stage = Stage(scenario, scenario_file, workload, url, folder, speed_up, stream_interval=16, port=port)
            for entrant in entrants:
                figures.append(await _shown(stage, entrant, quiet, picture if entrant is entrants[0] else None))
        return figures
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_taken(folder: Path, names: list[str]) -> None:
    """Each run needs a folder of its own: an earlier run's log would count among its figures."""
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DemoError(f"two of the policies are called {name}; run them one after the other")
        if (folder / name).exists():
            raise DemoError(f"{folder / name} holds an earlier run; name another folder to keep this one in")


async def _shown(stage: Stage, entrant: Entrant, quiet: bool, picture: Path | None) -> RunFigures:
    """One entrant's run, shown while it goes on."""
    out = Console(stderr=True, force_terminal=False) if quiet else log_console()
    out.print(f"[bold]{entrant.name}[/bold]: starting sidecar, Envoy and replicas ...")
    watching: list[asyncio.Task[None]] = []

    def start(progress: Replay) -> None:
        watching.append(asyncio.create_task(watch(stage, entrant, progress, out, picture)))

    try:
        return await run_entrant(stage, entrant, start)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


def _print(scenario: Scenario, figures: list[RunFigures], speed_up: float) -> None:
    out = console()
    wanted = scenario.targets().attainment
    rows = []
    for run in figures:
        met = [
            f"{percent(c.attainment)}" + ("" if c.attainment >= w else " [red]short[/red]")
            for c, w in zip(run.classes, wanted, strict=True)
        ]
        served, shed = sum(c.served for c in run.classes), sum(c.shed for c in run.classes)
        rows.append(
            (
                run.policy,
                f"{run.usd_per_hr:.2f}",
                f"{run.usd_per_1000_met:.3f}" if run.met else "-",
                *met,
                str(run.sent),
                str(served),
                str(shed),
                str(run.lost),
                f"{run.proxy_added_p50_ms:.2f} / {run.proxy_added_p95_ms:.2f}",
            )
        )
    goals = [f"{c} met ({w * 100:g} %)" for c, w in zip(scenario.class_names, wanted, strict=True)]
    columns = ("policy", "$/h", "$ per 1,000 met", *goals, "sent", "served", "shed", "lost", "Envoy adds p50 / p95 ms")
    caption = f"Emulated GPUs, real Envoy and Valkey, {speed_up:g} times faster than real time. Met: of all requests sent, by the clients' clocks."
    out.print(table(f"{scenario.name}: what it cost and what it reached", columns, rows, caption))
    latencies = [
        (run.policy, c.name, seconds(c.ttft_p50_s), seconds(c.ttft_p95_s), seconds(c.tpot_p50_s), seconds(c.tpot_p95_s))
        for run in figures
        for c in run.classes
    ]
    out.print(
        table(
            "Latency as the clients measured it (scenario time)",
            ("policy", "class", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"),
            latencies,
        )
    )
