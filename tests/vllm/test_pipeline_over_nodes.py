"""The planner's commands for a pipeline over two machines start real vLLM: both nodes here, on the CPU."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from poolpilot.agents.planner.layouts.layout import Layout, LayoutStage
from poolpilot.agents.planner.layouts.serve_command import serve_command
from poolpilot.commands.demonstration.real_vllm.tiny_model import make_tiny_model

from .serving import free_port, quiet_environment, stop, wait_until_up

NODE = Path(__file__).with_name("serve_node.py")
LAYERS = (9, 3)
LAYOUT = Layout("facebook/opt-125m", "fp32", (LayoutStage("A100", LAYERS[0]), LayoutStage("L4", LAYERS[1])))
"""Of a model with twelve layers; two machines, since the GPUs differ."""
ON_THE_CPU = (
    *("--load-format", "dummy", "--distributed-executor-backend", "mp", "--num-gpu-blocks-override", "32"),
    # The CPU's workers make a pipeline's buffers only when they warm up, which they leave out where nothing is compiled.
    *("-cc.mode=2", "-cc.backend=eager"),
)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_nodes_serve_one_pipeline_with_the_split_they_were_given(vllm_python: Path, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", layers=sum(LAYERS))
    port, meeting_port = free_port(), free_port()
    command = serve_command(
        LAYOUT,
        max_model_len=512,
        max_num_seqs=8,
        max_num_batched_tokens=512,
        checkpoint=str(model),
        head_address="127.0.0.1",
        port=port,
    )
    assert len(command.nodes) == 2
    logs = [tmp_path / f"node-{rank}.log" for rank in range(2)]
    started = []
    try:
        for node, log in zip(command.nodes, logs, strict=True):
            with open(log, "wb") as output:
                started.append(
                    subprocess.Popen(
                        [vllm_python, NODE, *node.args[1:], *ON_THE_CPU, "--master-port", str(meeting_port)],
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=quiet_environment() | dict(node.env),
                        cwd=tmp_path,
                        start_new_session=True,
                    )
                )
        wait_until_up(started[0], f"http://127.0.0.1:{port}", logs[0])
        asked = {"model": "facebook/opt-125m", "prompt": [5, 6, 7, 8], "max_tokens": 8, "ignore_eos": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            document = json.load(answer)
        assert document["usage"]["completion_tokens"] == 8
    finally:
        for process in reversed(started):
            stop(process)
    for rank, log in enumerate(logs):
        assert f"PP rank {rank}" in log.read_text(encoding="utf-8", errors="replace")
