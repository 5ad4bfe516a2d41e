"""Runs in the environment that has vLLM: its schedulers under caps that change, without a model. Prints JSON.

    POOLPILOT_CAPS=caps.json PYTHONPATH=FOLDER_OF_PLUGIN python step_capped.py MODEL_FOLDER < caps_of_each_step.json

Stdin: `[[batch_cap, token_budget], ...]`, one pair a step; each is written to the file of caps and waited for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_name, _value)

import torch
import vllm
from poolpilot_engine import CappedScheduler
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

SEQUENCES, TOKENS, BLOCK, BLOCKS = 16, 512, 16, 4000


def make(model: str, asynchronous: bool) -> Any:
    """A scheduler as vLLM's engine makes one; on CPUs vLLM itself would not schedule asynchronously."""
    config = EngineArgs(
        model=model, load_format="dummy", enforce_eager=True, max_model_len=1024, block_size=BLOCK,
        max_num_seqs=SEQUENCES, max_num_batched_tokens=TOKENS, enable_prefix_caching=False, async_scheduling=False,
    ).create_engine_config()  # fmt: skip
    config.scheduler_config.async_scheduling = asynchronous
    config.cache_config.num_gpu_blocks = BLOCKS
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=16, dtype=torch.float32)
    return CappedScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        log_stats=True,
    )


def steps(scheduler: Any, caps: list[list[int]]) -> list[list[int]]:
    """Of each step: sequences running, tokens scheduled."""
    for name in range(40):
        scheduler.add_request(
            Request(
                request_id=str(name),
                prompt_token_ids=list(range(3, 53)),
                sampling_params=SamplingParams(max_tokens=3 + name % 5, ignore_eos=True),
                pooling_params=None,
                arrival_time=float(name),
            )
        )
    told = []
    for number, (cap, budget) in enumerate(caps):
        document = {"fencing_token": number, "batch_cap": cap, "token_budget": budget}
        Path(os.environ["POOLPILOT_CAPS"]).write_text(json.dumps(document), encoding="utf-8")
        while scheduler._watch._source.caps is None or scheduler._watch._source.caps.fencing_token < number:
            time.sleep(0.01)
        output = scheduler.schedule()
        scheduled = output.num_scheduled_tokens
        running = len(scheduler.running)
        tokens = [
            [7] if scheduler.requests[name].num_computed_tokens >= scheduler.requests[name].num_prompt_tokens else []
            for name in scheduled
        ]
        index = {name: place for place, name in enumerate(scheduled)}
        scheduler.update_from_output(
            output, ModelRunnerOutput(req_ids=list(scheduled), req_id_to_index=index, sampled_token_ids=tokens)
        )
        told.append([running, sum(scheduled.values())])
    return told


def main() -> None:
    """Both ways of scheduling."""
    caps = json.load(sys.stdin)
    told = {}
    for asynchronous in (False, True):
        Path(os.environ["POOLPILOT_CAPS"]).unlink(missing_ok=True)  # its tokens would count as newer
        scheduler = make(sys.argv[1], asynchronous)
        told["async" if asynchronous else "sync"] = {
            "steps": steps(scheduler, caps),
            "is_async": isinstance(scheduler, AsyncScheduler),
            "left": scheduler.get_num_unfinished_requests(),
        }
        scheduler.shutdown()
    json.dump({"vllm": vllm.__version__, **told}, sys.stdout)


main()
