"""vLLM's own scheduler and KV cache, recorded anew: the kernel does the same, and the recordings kept are still true."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from poolpilot.commands.demonstration.real_vllm.tiny_model import make_tiny_model
from poolpilot.tests.env.sim.vllm_comparison import disagreement
from poolpilot.tests.env.sim.vllm_loads import LOADS, as_document, keep_recording, recording_of

RECORDER = Path(__file__).with_name("record_scheduler.py")


@pytest.fixture(scope="module")
def recorded(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scheduler does now with every load. POOLPILOT_KEEP_RECORDINGS=1 keeps it for the default tests."""
    model = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    loads = json.dumps({name: as_document(load) for name, load in LOADS.items()})
    done = subprocess.run(
        [vllm_python, RECORDER, model], input=loads, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    if os.environ.get("POOLPILOT_KEEP_RECORDINGS"):
        for name, iterations in document["iterations"].items():
            keep_recording(name, document["vllm"], iterations)
    return document


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LOADS)
def test_every_iteration_is_the_one_of_the_scheduler_itself(name: str, recorded: dict[str, Any]) -> None:
    differs = disagreement(name, recorded["iterations"][name])
    assert differs is None, differs


@pytest.mark.parametrize("name", LOADS)
def test_the_recording_kept_is_what_the_scheduler_does(name: str, recorded: dict[str, Any]) -> None:
    version, iterations = recording_of(name)
    assert version == recorded["vllm"], "recorded with another vLLM; POOLPILOT_KEEP_RECORDINGS=1 make test-vllm"
    assert iterations == recorded["iterations"][name]
