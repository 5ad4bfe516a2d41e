"""`poolpilot profile` against a real vLLM server that is paced to a GPU's law: it finds that law."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from poolpilot.commands.profile import profile
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model
from poolpilot.env.perf.law_file import read_law_file
from poolpilot.env.perf.roofline import iteration_law

from ..env.sim.served import BLOCK_TOKENS, Flags
from .serving import paced_server

pytestmark = pytest.mark.long  # measures in real time

LAW = iteration_law(gpu("L4-24GB"), model("llama-3.1-8b"), "bf16")
FLAGS = Flags(max_num_seqs=16, max_num_batched_tokens=1024, max_model_len=4096)


@pytest.mark.timeout(500)
def test_the_law_of_a_paced_server_is_found_again(vllm_python: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    with paced_server(vllm_python, tmp_path, LAW, FLAGS) as server:
        arguments = [
            "--url",
            server.url,
            "--max-concurrency",
            "12",
            "--max-tokens",
            "60000",
            "--out",
            str(out),
            "--json",
        ]
        result = CliRunner().invoke(profile, arguments)
        assert result.exit_code == 0, result.stderr
        served = sum(step["prefill"] + step["decodes"] for step in server.steps())
    document = json.loads(result.stdout)
    law_file = read_law_file(out)
    found = law_file.law.law()
    held_out = [probe for probe in document["probes"] if probe["held_out"] and probe["kind"] == "decode"]
    ours = np.array([found.iteration_s(0, 0, p["sequences"], p["context_tokens"]) for p in held_out])
    true = np.array([LAW.iteration_s(0, 0, p["sequences"], p["context_tokens"]) for p in held_out])
    tokens = np.array([16.0, 64.0, 200.0, 512.0, 700.0, 1000.0])
    prefill = found.iteration_s(tokens, tokens**2 / 2, 0, 0) / LAW.iteration_s(tokens, tokens**2 / 2, 0, 0) - 1.0
    print(
        f"\nheld-out iterations off by {np.round(100 * (ours / true - 1), 2)} %, prompts by {np.round(100 * prefill, 2)} %"
    )
    print(f"by its own account: {document['held_out']}; cost {document['cost']}")
    assert len(held_out) >= 2
    assert np.abs(ours / true - 1.0).max() <= 0.05
    assert np.abs(prefill).max() <= 0.05
    assert law_file.measured["token_budget"] == FLAGS.max_num_batched_tokens
    assert law_file.kv_tokens == FLAGS.kv_blocks * BLOCK_TOKENS
    assert served <= document["cost"]["tokens"] <= 60_000
    assert not document["notes"]
