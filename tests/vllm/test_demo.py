"""`poolpilot demo-vllm` on real vLLM, Envoy and Valkey: weights, caps and counts change live, and no request is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poolpilot.telemetry.record import read_log


def run(vllm_python: Path, folder: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "poolpilot", "demo-vllm", "--vllm-python", str(vllm_python), "--json"]
    done = subprocess.run(
        [*command, "--keep", str(folder), *more], capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def assert_steered(document: dict[str, Any], folder: Path) -> None:
    requests = document["run"]["requests"]
    assert requests["lost"] == 0
    assert requests["served"] + requests["shed"] == requests["sent"] >= 30
    pools = document["pools"]
    assert any(len(pool["weight_percent"]) > 1 for pool in pools.values()), "weights never changed"
    assert any(len(pool["batch_cap"]) > 1 for pool in pools.values()), "no engine ever took another cap"
    assert any(len(pool["ready"]) > 1 for pool in pools.values()), "counts never changed"
    ticks = list(read_log(folder / "plan-tracking" / "decisions.jsonl"))
    assert all(tick.decision.mode.value == "active" for tick in ticks)
    left = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(folder) in _words(entry) and entry.name != "self"
    ]
    assert left == [], "processes were left behind"


def _words(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.timeout(3600)
def test_two_servers_are_steered_and_no_request_is_lost(vllm_python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert_steered(run(vllm_python, folder, "--servers", "2", "--duration", "150"), folder)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_three_servers_are_steered_and_no_request_is_lost(vllm_python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert_steered(run(vllm_python, folder), folder)
