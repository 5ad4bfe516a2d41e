"""`poolpilot demo-vllm`: the whole of poolpilot around real vLLM servers, on a machine without a GPU."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from ..agents.portfolio import RULES
from ..controller.actuators.envoy_process import EnvoyStartError, envoy_binary
from ..env.emulator.replay import Replay
from ..env.scenario import load_scenario
from ..env.workload.load import load_workload
from ..telemetry.record import read_log
from ..telemetry.store import StoreError
from ..telemetry.valkey import ValkeyError, valkey_url
from .bad_input import one_line_errors, refuse
from .demonstration.measures import RunFigures, as_json
from .demonstration.real_vllm.changes import PoolChanges, pool_changes
from .demonstration.real_vllm.servers import environment, scenario_document
from .demonstration.stack import DemoError, Entrant, Stage, run_entrant
from .demonstration.watching import watch
from .printing import console, log_console, percent, print_json, table

START_PATIENCE_S = 1800.0
"""A server takes half a minute of a core to start, and a busy machine has none to spare."""
STOP_PATIENCE_S = 180.0


@click.command(name="demo-vllm")
@click.option(
    "--vllm-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="POOLPILOT_VLLM_PYTHON",
    required=True,
    help="The Python of an environment with vLLM for CPUs; `make demo-vllm` makes one. Also POOLPILOT_VLLM_PYTHON.",
)
@click.option(
    "--servers",
    type=click.IntRange(2, 8),
    default=3,
    show_default=True,
    help="One paced as an L40S, the others as L4s.",
)
@click.option("--duration", type=click.FloatRange(min=30), default=180.0, show_default=True, help="Seconds of load.")
@click.option(
    "--policy",
    default="plan-tracking",
    show_default=True,
    help=f"A checkpoint's name or folder, or one of {', '.join(RULES)}.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the workload.")
@click.option("--store", help="redis://host:port of a Redis or Valkey. Default: an embedded Valkey.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep logs and decisions there.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document on stdout instead of the tables.")
@one_line_errors
def demo_vllm(
    vllm_python: Path,
    servers: int,
    duration: float,
    policy: str,
    seed: int,
    store: str | None,
    keep: Path | None,
    as_document: bool,
) -> None:
    """Watch a policy steer real vLLM servers live: weights, batch caps, and replicas that sleep and wake. No GPU needed.

    Starts Valkey, Envoy and vLLM servers with a tiny random model, their steps paced to the law of an 8B model on an L40S
    and on L4s; sends a load with a rush through Envoy in real time; and lets the sidecar route, cap and scale. Prints
    what changed live, as the engines themselves said, and what became of every request.
    """
    try:
        envoy_binary()
        figures, changes = asyncio.run(
            _run(vllm_python.absolute(), servers, duration, policy, seed, store, keep, quiet=as_document)
        )
    except (EnvoyStartError, StoreError, ValkeyError, DemoError) as error:
        refuse(str(error))
    except asyncio.CancelledError:
        log_console().print("stopped; nothing was left running")
        sys.exit(130)
    if as_document:
        print_json(_document(figures, changes, servers, seed))
    else:
        _print(figures, changes)


async def _run(
    vllm_python: Path,
    servers: int,
    duration_s: float,
    policy: str,
    seed: int,
    store: str | None,
    keep: Path | None,
    quiet: bool,
) -> tuple[RunFigures, tuple[PoolChanges, ...]]:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    folder = keep or Path(tempfile.mkdtemp(prefix="poolpilot-demo-vllm-"))
    folder.mkdir(parents=True, exist_ok=True)
    entrant = Entrant(Path(policy).name, policy)
    if (folder / entrant.name).exists():
        raise DemoError(f"{folder / entrant.name} holds an earlier run; name another folder to keep this one in")
    try:
        scenario_file = folder / "scenario.yaml"
        document = scenario_document(folder, vllm_python, servers, duration_s)
        scenario_file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        scenario = load_scenario(scenario_file)
        workload = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, seed, scenario.base_dir)
        async with valkey_url(store) as url:
            stage = Stage(
                scenario,
                scenario_file,
                workload,
                url,
                folder,
                speed_up=1.0,
                stream_interval=1,
                start_patience_s=START_PATIENCE_S,
                stop_patience_s=STOP_PATIENCE_S,
                environment=environment(os.environ),
            )
            figures = await _shown(stage, entrant, quiet)
        return figures, pool_changes(tuple(read_log(folder / entrant.name / "decisions.jsonl")))
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


async def _shown(stage: Stage, entrant: Entrant, quiet: bool) -> RunFigures:
    """The run, shown while it goes on."""
    out = Console(stderr=True, force_terminal=False) if quiet else log_console()
    out.print("starting sidecar, Envoy and vLLM servers (half a minute of a core each) ...")
    watching: list[asyncio.Task[None]] = []

    def start(progress: Replay) -> None:
        watching.append(asyncio.create_task(watch(stage, entrant, progress, out, None)))

    try:
        return await run_entrant(stage, entrant, start)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


def _document(figures: RunFigures, changes: Sequence[PoolChanges], servers: int, seed: int) -> dict[str, Any]:
    return {
        "servers": servers,
        "seed": seed,
        "run": as_json(figures),
        "pools": {
            pool.name: {
                "ready": list(pool.ready),
                "asleep": list(pool.asleep),
                "batch_cap": list(pool.batch_cap),
                "weight_percent": list(pool.weight_percent),
            }
            for pool in changes
        },
    }


def _print(figures: RunFigures, changes: Sequence[PoolChanges]) -> None:
    out = console()
    rows = [
        (pool.name, *(_series(s) for s in (pool.ready, pool.asleep, pool.batch_cap, pool.weight_percent)))
        for pool in changes
    ]
    caption = (
        "Ready and asleep as the actuator saw them, caps as the engines' own pages told, weights of the first class."
    )
    out.print(
        table("What changed while requests ran", ("pool", "ready", "asleep", "batch cap", "weight %"), rows, caption)
    )
    out.print(
        table(
            f"What became of {figures.sent} requests, at {figures.usd_per_hr:.2f} $/h",
            ("class", "sent", "served", "shed", "lost", "met"),
            [
                (c.name, str(c.sent), str(c.served), str(c.shed), str(c.lost), percent(c.attainment))
                for c in figures.classes
            ],
        )
    )


def _series(values: Sequence[int], most: int = 12) -> str:
    shown = [str(value) for value in values[:most]]
    return " ".join([*shown, "..."] if len(values) > most else shown) or "-"
