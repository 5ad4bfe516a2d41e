"""The scenario of the demo on real vLLM, and what it says changed. The run itself is in `tests/vllm`."""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from poolpilot import engine_plugin
from poolpilot.commands.demonstration import real_vllm
from poolpilot.commands.demonstration.real_vllm.changes import pool_changes
from poolpilot.commands.demonstration.real_vllm.servers import MODEL, environment, pools, scenario_document
from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.perf.law_file import read_law_file
from poolpilot.env.scenario import load_scenario

from ...controller.ticks import a_sitting, sat_through


def test_its_servers_are_started_as_vllm_wants_it_and_keep_the_law_of_their_gpu(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario_document(tmp_path, Path("/venv/bin/python"), 3, 120.0)))
    scenario = load_scenario(path)
    assert {name: pool.replicas.start for name, pool in scenario.pools.items()} == {"l40s": 1, "l4": 2}
    step_s = {}
    for name, pool in scenario.pools.items():
        assert pool.command is not None
        words = ReplicaCommand(pool.command).fill(Endpoint("127.0.0.1", 8123))
        assert words[words.index("--port") + 1] == "8123"
        assert words[words.index("--served-model-name") + 1] == MODEL == scenario.model
        assert words[words.index("--max-num-seqs") + 1] == str(pool.engine.max_num_seqs)
        assert words[words.index("--max-num-batched-tokens") + 1] == str(pool.engine.max_num_batched_tokens)
        assert "--shutdown-timeout" in words
        law = next(word.partition("=")[2] for word in words if word.startswith("POOLPILOT_PACING_LAW="))
        card = next(word.partition("=")[2] for word in words if word.startswith("POOLPILOT_PACED_GPU="))
        assert json.loads(card)["tdp_w"] == gpu(pool.gpu).tdp_w
        step_s[name] = read_law_file(Path(law)).law.law().iteration_s(0, 0, 8, 8 * 150)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["max_position_embeddings"] >= 1024
    assert step_s["l4"] > 2 * step_s["l40s"], "unlike GPUs"


def test_fewer_than_one_of_each_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 2"):
        pools(1)


def test_what_stands_on_the_path_stays_there() -> None:
    assert environment({"PYTHONPATH": "/mine"})["PYTHONPATH"].endswith(":/mine")
    assert not environment({})["PYTHONPATH"].endswith(":")


def test_what_changed_is_each_series_without_repetitions() -> None:
    ticks = list(sat_through(a_sitting(), 5, seed=1))
    for tick, ready, cap in zip(ticks, (1, 1, 2, 1, 1), (8.0, 8.0, np.nan, 6.0, 8.0), strict=True):
        tick.snapshot.ready[0], tick.snapshot.batch_cap[0] = ready, cap
    changed = pool_changes(ticks)[0]
    assert changed.name == ticks[0].sitting.cluster.pool_names[0]
    assert (changed.ready, changed.batch_cap) == ((1, 2, 1), (8, 6, 8)), "what is unknown is left out"
    assert all(0 <= weight <= 100 for weight in changed.weight_percent)
    assert pool_changes([]) == ()


@pytest.fixture
def paced_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module as vLLM's processes import it: beside the engine plugin."""
    for folder in (engine_plugin, real_vllm):
        monkeypatch.syspath_prepend(str(Path(folder.__file__).parent))
    monkeypatch.setenv("POOLPILOT_CAPS_STATUS", str(tmp_path / "status"))
    return importlib.import_module("paced_gpu")


def test_a_busy_gpu_warms_and_an_idle_one_cools_on_the_page(
    paced_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"idle_w": 20.0, "tdp_w": 100.0, "room_c": 35.0, "rise_at_tdp_c": 50.0, "time_constant_s": 10.0}
    monkeypatch.setenv("POOLPILOT_PACED_GPU", json.dumps({**card, "folder": str(tmp_path / "warmth")}))
    # The engine is a child of the API server; here one process plays both.
    monkeypatch.setattr(os, "getppid", os.getpid)
    now_s = time.monotonic()
    warmth = paced_gpu.Warmth(paced_gpu.gpu_of_environment(), now_s - 60.0)

    def told() -> dict[str, float]:
        lines = paced_gpu.GpuMetrics(None).lines().decode().splitlines()
        return {line.split("{")[0]: float(line.split()[-1]) for line in lines if not line.startswith("#")}

    assert told()["poolpilot_gpu_temperature_celsius"] == pytest.approx(35.0 + 50.0 * 0.2)
    warmth.worked(60.0, now_s)
    assert told()["poolpilot_gpu_temperature_celsius"] == pytest.approx(85.0, abs=0.5)
    assert told()["poolpilot_gpu_utilization_ratio"] == 1.0
    assert told()["poolpilot_gpu_power_watts"] == pytest.approx(100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 10.0)
    assert told()["poolpilot_gpu_temperature_celsius"] == pytest.approx(45.0 + 40.0 / math.e, abs=0.5), "it cools"
    assert told()["poolpilot_gpu_utilization_ratio"] == 0.0


def test_without_a_card_nothing_is_added(paced_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POOLPILOT_PACED_GPU", raising=False)
    assert paced_gpu.GpuMetrics(None).lines() == b""
