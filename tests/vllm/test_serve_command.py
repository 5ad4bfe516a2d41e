"""The planner's commands mean to vLLM itself what they should: its own argument parser, its own split of layers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.agents.planner.layouts.serve_command import CAPABILITY, NodeCommand, serve_command
from poolpilot.env.catalog.gpus import gpu
from poolpilot.env.catalog.models import model

PARSER = Path(__file__).with_name("parse_commands.py")
MODEL = "llama-2-13b"
LIMITS = {"max_model_len": 4096, "max_num_seqs": 64, "max_num_batched_tokens": 1024}


def one(card: str, precision: str, degree: int = 1) -> Layout:
    return Layout(MODEL, precision, (LayoutStage(card, 40, degree),))


LAYOUTS = [
    *[one(card, "fp16") for card in ("V100", "T4")],
    *[one(card, "bf16", 2) for card in ("A100", "H100")],
    *[one(card, "fp8") for card in ("A100", "L4", "H100")],
    *[one(card, "int8") for card in ("V100", "T4", "A100", "H100")],
    *[one(card, "int4") for card in ("V100", "T4", "A10G", "L40S")],
    Layout(MODEL, "bf16", tuple(LayoutStage("L4", layers) for layers in (13, 14, 13))),
    Layout(MODEL, "bf16", (LayoutStage("A100", 33), LayoutStage("L4", 7))),
    Layout(MODEL, "fp8", (LayoutStage("H100", 28, 2), LayoutStage("L40S", 12, 2))),
    Layout(MODEL, "fp16", (LayoutStage("A100", 22), LayoutStage("L4", 9), LayoutStage("L4", 9))),
]
CASES = [
    (layout, rank, node)
    for layout in LAYOUTS
    for rank, node in enumerate(serve_command(layout, **LIMITS, head_address="10.0.0.1").nodes)
]


@pytest.fixture(scope="module")
def understood(vllm_python: Path) -> list[dict[str, Any]]:
    """All commands in one process: vLLM takes half a minute to import."""
    asked = [
        {
            "args": node.args[2:],
            "env": {name: value for name, value in node.env.items() if name.startswith("VLLM_")},
            "layers": model(MODEL).layers,
            "pipeline_parallel": layout.pipeline_parallel,
        }
        for layout, _, node in CASES
    ]
    done = subprocess.run(
        [vllm_python, PARSER], input=json.dumps(asked), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"vLLM {answer['vllm']}")
    found: list[dict[str, Any]] = answer["understood"]
    return found


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{layout.name}-{rank}" for layout, rank, _ in CASES])
def test_vllm_reads_the_command_as_it_is_meant(case: int, understood: list[dict[str, Any]]) -> None:
    layout, rank, node = CASES[case]
    read = understood[case]
    assert read["model"] == node.args[2]
    assert read["served_model_name"] == [model(MODEL).name]
    assert read["tensor_parallel_size"] == layout.stages[0].tensor_parallel
    assert read["pipeline_parallel_size"] == layout.pipeline_parallel
    assert (read["max_model_len"], read["max_num_seqs"], read["max_num_batched_tokens"]) == (4096, 64, 1024)
    assert read["gpu_memory_utilization"] == 0.9
    assert (read["scheduling_policy"], read["enable_prefix_caching"]) == ("fcfs", False)
    assert read["split"] == list(layout.layers)
    assert_runs_on_its_gpus(node, read)
    nodes = serve_command(layout, **LIMITS).nodes
    assert (read["nnodes"], read["node_rank"]) == (len(nodes), rank)
    assert read["headless"] == (rank > 0)
    if len(nodes) > 1:
        assert read["master_addr"] == "10.0.0.1"


def assert_runs_on_its_gpus(node: NodeCommand, read: dict[str, Any]) -> None:
    assert read["known_method"]
    cards = [gpu(name) for name in node.gpus]
    if not all(card.supports_bf16 for card in cards):
        assert read["dtype"] == "float16"
    if read["min_capability"] is not None:
        assert all(CAPABILITY[card.architecture] >= read["min_capability"] for card in cards)
