"""The scenario of `poolpilot demo-vllm`: two pools of real vLLM servers, each paced to the law of its GPU.

The model is tiny and random, made on the spot. What is real is everything that is decided about: vLLM's queue, scheduler,
KV cache, metrics, sleep and shutdown. What is not is how long a step takes, and how warm that makes the GPU: as the performance
model says of an 8B model on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ....env.catalog.gpus import gpu
from ....env.catalog.models import model
from ....env.perf.law_file import LawFile, table_of
from ....env.perf.power import IDLE_TDP_FRAC
from ....env.perf.roofline import iteration_law
from .tiny_model import make_tiny_model

MODEL: Final = "llama-3.1-8b"
"""Whose laws the servers keep, and under whose name they serve."""
PRECISION: Final = "bf16"
_LENGTH: Final = 1024
_SEQUENCES: Final = 8
"""A small batch: the rush must be more than one server takes, and light enough for a machine with two cores."""
_KV_BLOCKS: Final = 320
"""Of 128 tokens, about what an L4 has left beside the weights."""
_ROOM_C: Final = 35.0
_RISE_AT_TDP_C: Final = 55.0
_TIME_CONSTANT_S: Final = 15.0
_HOT_C: Final = 78.0
"""A warm room and small coolers: what a busy GPU reaches in minutes elsewhere, it reaches within the rush here. A hot one
may run only half of its largest batch (`env/guard.py`), until it is cooler."""
_PACING: Final = Path(__file__).parent
QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
}
"""For vLLM's processes: nothing from the network, one thread for the model."""


@dataclass(frozen=True)
class Pool:
    """One pool of the demo."""

    name: str
    gpu: str
    usd_per_hr: float
    source: str
    servers: int


def pools(servers: int) -> tuple[Pool, ...]:
    """A fast server, and the others slower and cheaper. ValueError below two."""
    if servers < 2:
        raise ValueError(f"{servers} servers, wanted at least 2: one of each kind")
    return (
        Pool("l40s", "L40S-48GB", 1.861, "AWS us-east-1 g6e.xlarge on demand, 2026-07-20", 1),
        Pool("l4", "L4-24GB", 0.8048, "AWS us-east-1 g6.xlarge on demand, 2026-07-20", servers - 1),
    )


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What the sidecar hands to the servers that it starts: the pacing scheduler, and quiet."""
    path = ":".join(filter(None, (str(_PACING), inherited.get("PYTHONPATH", ""))))
    return {**QUIET, "PYTHONPATH": path}


def scenario_document(folder: Path, vllm_python: Path, servers: int, duration_s: float) -> dict[str, Any]:
    """The scenario, as YAML would have it. Model and laws are written into `folder`."""
    checkpoint = make_tiny_model(folder / "model")
    return {
        "schema": 1,
        "name": "real-vllm",
        "summary": "Real vLLM servers on the CPU, paced as an L40S and L4s: a rush in the middle, and servers that sleep.",
        "duration_s": duration_s,
        "tick_s": 5,
        "model": MODEL,
        "pools": {pool.name: _pool(pool, folder, vllm_python, checkpoint) for pool in pools(servers)},
        "classes": {
            "chat": {"target": {"ttft_s": 3.0, "tpot_s": 0.12, "attainment": 0.9}},
            "batch": {
                "target": {"deadline_s": 60, "attainment": 0.9},
                "match": {"body": {"metadata.slo_class": "batch"}},
            },
        },
        "workload": {"kind": "generated", "classes": {"chat": _chat(duration_s), "batch": _batch()}},
        # A busy machine without a GPU may keep a server from answering for a while: that does not make it a dead one.
        "guard": {"scale_up_step": 2, "scale_down_step": 1, "scale_down_cooldown_s": 10, "stale_after_s": 60}
        | {"hot_gpu_c": _HOT_C},
    }


def _pool(pool: Pool, folder: Path, vllm_python: Path, checkpoint: Path) -> dict[str, Any]:
    law_file = folder / f"law-{pool.name}.json"
    law = iteration_law(gpu(pool.gpu), model(MODEL), PRECISION)
    law_file.write_text(json.dumps(LawFile(schema=1, law=table_of(law)).document()), encoding="utf-8")
    return {
        "gpu": pool.gpu,
        "precision": PRECISION,
        "price": {"usd_per_hr": pool.usd_per_hr, "source": pool.source},
        "replicas": {"min": 0, "max": pool.servers, "start": pool.servers},
        "engine": {"max_num_seqs": _SEQUENCES, "max_num_batched_tokens": 1024, "max_model_len": _LENGTH},
        # A server sleeps instead of being stopped: a new one would take half a minute of two cores.
        "sleep": {"max": pool.servers, "level": 1},
        "cold_start": {"provision_s": 0, "load_s": 40},
        "command": serve_command(vllm_python, checkpoint, law_file, _card(pool, folder)),
    }


def _card(pool: Pool, folder: Path) -> str:
    """What the pacing scheduler is told of the GPU's power and warmth."""
    tdp_w = gpu(pool.gpu).tdp_w
    return json.dumps(
        {
            "idle_w": IDLE_TDP_FRAC * tdp_w,
            "tdp_w": tdp_w,
            "room_c": _ROOM_C,
            "rise_at_tdp_c": _RISE_AT_TDP_C,
            "time_constant_s": _TIME_CONSTANT_S,
            "folder": str(folder / "warmth"),
        }
    )


def serve_command(vllm_python: Path, checkpoint: Path, law_file: Path, card: str) -> list[str]:
    """One server: vLLM's own flags, the engine plugin, and below it the scheduler that paces."""
    return [
        *("env", f"POOLPILOT_PACING_LAW={law_file}", f"POOLPILOT_PACED_GPU={card}"),
        "POOLPILOT_SCHEDULER_BASE=paced_scheduler.PacedScheduler",
        *(str(vllm_python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)),
        *("--served-model-name", MODEL, "--host", "{host}", "--port", "{port}"),
        *("--load-format", "dummy", "--enforce-eager", "--max-model-len", str(_LENGTH)),
        *("--max-num-seqs", str(_SEQUENCES), "--max-num-batched-tokens", "1024"),
        *("--num-gpu-blocks-override", str(_KV_BLOCKS), "--no-enable-prefix-caching"),
        # In the engine's own process: a worker of its own would spin on a core, waiting for work.
        *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
        *("--scheduler-cls", "poolpilot_engine.CappedScheduler", "--middleware", "paced_gpu.GpuMetrics"),
        # No --enable-sleep-mode: on CPUs vLLM has nothing to give up, but lies down and gets up all the same.
        *("--shutdown-timeout", "10", "--disable-uvicorn-access-log"),
    ]


def _chat(duration_s: float) -> dict[str, Any]:
    times_s = [round(share * duration_s, 1) for share in (0.0, 0.2, 0.25, 0.45, 0.5, 1.0)]
    return {
        "rate_per_s": 0.7,
        # A quiet end long enough for a rule to believe it, and let a server go to sleep.
        "shape": [{"kind": "ramp", "times_s": times_s, "factors": [1, 1, 5, 5, 0.2, 0.2]}],
        "prompt_tokens": {"kind": "lognormal", "median": 120, "sigma": 0.5, "max": 500},
        "output_tokens": {"kind": "lognormal", "median": 50, "sigma": 0.4, "max": 200},
    }


def _batch() -> dict[str, Any]:
    return {
        "rate_per_s": 0.2,
        "prompt_tokens": {"kind": "lognormal", "median": 200, "sigma": 0.5, "max": 500},
        "output_tokens": {"kind": "lognormal", "median": 40, "sigma": 0.4, "max": 200},
    }
