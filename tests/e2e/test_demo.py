"""The demo in miniature: real Envoy, real Valkey, emulated replicas, clients with clocks of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING
from poolpilot.commands.demonstration.measures import RunFigures
from poolpilot.commands.demonstration.stack import Entrant, run_entrant
from poolpilot.controller.decision_replay import replay
from poolpilot.env.contract import BILL_LAYERS, Decision, Snapshot
from poolpilot.env.emulator.replay import Replay
from poolpilot.telemetry.record import TickRecord, read_log
from poolpilot.telemetry.store import Store
from poolpilot.telemetry.valkey import embedded_valkey

from ..knobs import EVERY_KNOB
from .miniature import a_stage, falls, miniature, processes_naming

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Played:
    """One run and all that it left."""

    figures: RunFigures
    progress: Replay
    folder: Path
    ticks: list[TickRecord]
    stored_snapshots: list[Snapshot]
    stored_decisions: list[Decision]
    left_behind: list[str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return asyncio.run(_play(tmp_path_factory.mktemp("demo")))


async def _play(folder: Path) -> Played:
    seen: list[Replay] = []
    async with embedded_valkey(folder / "valkey") as valkey, Store(valkey.url, prefix=PLAN_TRACKING) as store:
        stage = a_stage(folder, valkey.url, speed_up=10.0)
        figures = await run_entrant(stage, Entrant(PLAN_TRACKING, PLAN_TRACKING, knobs=EVERY_KNOB), seen.append)
        snapshots, decisions = await store.snapshots(1000), await store.decisions(1000)
    own = folder / PLAN_TRACKING
    return Played(
        figures,
        seen[0],
        own,
        list(read_log(own / "decisions.jsonl")),
        [snapshot for _, snapshot in snapshots],
        [decision for _, decision in decisions],
        processes_naming(folder),
    )


def test_no_request_is_lost_while_replicas_drain_and_a_pool_empties(played: Played) -> None:
    wanted = np.stack([record.decision.applied.replicas for record in played.ticks])
    ready = np.stack([record.snapshot.ready for record in played.ticks])
    dear, cheap = 0, 1
    assert (ready[0, dear], wanted[-1, dear], ready[-1, dear]) == (1, 0, 0)
    assert falls(wanted[:, cheap])
    assert [r.detail for r in played.progress.records if r.outcome == "lost"] == []
    assert {r.outcome for r in played.progress.records} <= {"served", "shed"}
    assert played.figures.sent == len(played.progress.records) > 100
    assert played.figures.lost == 0


def test_clients_measured_what_they_were_promised(played: Played) -> None:
    chat, batch = played.figures.classes
    assert 0 < chat.ttft_p50_s <= chat.ttft_p95_s
    assert 0 < chat.tpot_p50_s <= chat.tpot_p95_s
    assert np.isnan(batch.ttft_p50_s)  # a plain answer tells no time to first token
    assert chat.attainment > 0.5
    assert batch.met > 0
    assert 0 < played.figures.proxy_added_p50_ms <= played.figures.proxy_added_p95_ms


def test_the_bill_is_of_layers_pools_and_classes_alike(played: Played) -> None:
    bill = json.loads((played.folder / "bill.json").read_text())
    assert bill["usd"] > 0
    assert set(bill["usd_by_layer"]) == set(BILL_LAYERS)
    for part in ("usd_by_layer", "usd_by_pool", "usd_by_class"):
        assert sum(bill[part].values()) == pytest.approx(bill["usd"], rel=1e-9)
    assert bill["usd_by_pool"]["dear"] > 0
    assert bill["troubles"] == []


def test_every_decision_comes_out_the_same_from_its_log(played: Played) -> None:
    again = replay(played.ticks)
    assert again.ticks == len(played.ticks) > 15
    assert again.differences == ()
    assert played.figures.fallback_ticks == 0


def test_the_store_holds_every_snapshot_and_decision(played: Played) -> None:
    logged = [record.decision.tick for record in played.ticks]
    assert [decision.tick for decision in played.stored_decisions] == logged
    assert [float(s.time_s) for s in played.stored_snapshots] == [float(r.snapshot.time_s) for r in played.ticks]


def test_nothing_is_left_running(played: Played) -> None:
    assert played.left_behind == []


def _demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`poolpilot demo` as a process, with all its temporary files in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "poolpilot", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    )


def test_the_command_prints_one_json_document_with_the_promised_fields(tmp_path: Path) -> None:
    arguments = ("--scenario", str(miniature(tmp_path)), "--policy", PLAN_TRACKING, "--duration", "30", "--json")
    process = _demo(tmp_path, *arguments)
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    document = json.loads(out)
    assert set(document) == {"scenario", "speed_up", "seed", "trace", "runs"}
    (run,) = document["runs"]
    assert set(run) >= {"policy", "usd_per_hr", "usd", "usd_by_layer", "requests", "classes", "proxy_added_ms"}
    assert run["policy"] == PLAN_TRACKING
    assert run["requests"]["lost"] == 0
    assert run["requests"]["served"] + run["requests"]["shed"] == run["requests"]["sent"] > 10
    assert set(run["classes"]) == {"chat", "batch"}
    assert sum(run["usd_by_layer"].values()) == pytest.approx(run["usd"])
    assert processes_naming(tmp_path) == []


@pytest.mark.shared_data
def test_a_public_trace_takes_the_place_of_the_workload(tmp_path: Path, shared_data: Path) -> None:
    trace = shared_data / "traces" / "azure_llm_2023_conv.parquet"
    arguments = ("--scenario", str(miniature(tmp_path)), "--trace", str(trace), "--policy", PLAN_TRACKING)
    process = _demo(tmp_path, *arguments, "--duration", "30", "--json")
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    document = json.loads(out)
    assert document["trace"] == str(trace)
    requests = document["runs"][0]["requests"]
    assert requests["lost"] == 0
    assert requests["served"] == requests["sent"] > 0


def test_ctrl_c_ends_the_demo_with_130_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = _demo(
        tmp_path, "--scenario", str(miniature(tmp_path)), "--policy", PLAN_TRACKING, "--keep", str(tmp_path)
    )
    try:
        _wait_for(process, "sent")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=25)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "nothing was left running" in said
    assert processes_naming(tmp_path) == []


def _wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Read what it says until a line has the word."""
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return
    pytest.fail(f"it ended with {process.wait()} before it said {word!r}")
