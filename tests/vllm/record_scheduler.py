"""Runs in the environment that has vLLM, and imports nothing else: its own Scheduler and KV cache, without a model.

    python record_scheduler.py MODEL_FOLDER < loads.json > recordings.json

An engine is simulated around vLLM's scheduler: a virtual clock, iterations that take as long as the load says, tokens
that are made up. Before each iteration, what was due by its start happens: requests come or are aborted, limits change.
"""

from __future__ import annotations

import json
import os
import sys
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
from vllm.engine.arg_utils import EngineArgs
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

_SHARED, _OWN = 1 << 20, 1 << 40  # token ids that are unique to a node of the prefix tree, or to a request


class Watched(Scheduler):
    """vLLM's scheduler, which also tells in which order it preempted."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.thrown_out: list[int] = []

    def _preempt_request(self, request: Request, *arguments: Any, **named: Any) -> None:
        self.thrown_out.append(int(request.request_id))
        super()._preempt_request(request, *arguments, **named)


def make_scheduler(load: dict[str, Any], model: str) -> Watched:
    """A scheduler as `vllm serve` would make it with these limits."""
    config = EngineArgs(
        model=model,
        runner="pooling" if load["prefill_only"] else "generate",
        load_format="dummy",
        enforce_eager=True,
        max_model_len=load["max_model_len"],
        max_num_seqs=load["cap"],
        max_num_batched_tokens=load["token_budget"],
        block_size=load["block_tokens"],
        enable_prefix_caching=load["prefix_caching"],
        enable_chunked_prefill=True,
        scheduling_policy="priority" if load["by_priority"] else "fcfs",
        async_scheduling=False,
    ).create_engine_config()
    config.scheduler_config.scheduler_reserve_full_isl = load["reserve_prompt"]
    blocks = load["kv_blocks"] + 1  # one is vLLM's own
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=load["block_tokens"], num_kv_heads=1, head_size=16, dtype=torch.float32)
    return Watched(
        config,
        KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]),
        StructuredOutputManager(config),
        block_size=load["block_tokens"],
        log_stats=True,
    )


def make_request(load: dict[str, Any], name: int, now_ps: int, hasher: Any) -> Request:
    """A request whose prompt begins with the tokens of its node and of those above it."""
    prompt, output, priority, node = load["requests"][name]
    tokens = [_OWN * (name + 1) + position for position in range(prompt)]
    while node >= 0:
        parent, end = load["tree"][node]
        start = load["tree"][parent][1] if parent >= 0 else 0
        tokens[start:end] = [_SHARED * (node + 1) + position for position in range(start, end)]
        node = parent
    return Request(
        request_id=str(name),
        prompt_token_ids=tokens,
        sampling_params=None if load["prefill_only"] else SamplingParams(max_tokens=output, ignore_eos=True),
        pooling_params=PoolingParams(task="embed") if load["prefill_only"] else None,
        arrival_time=now_ps / 1e12,
        priority=priority,
        block_hasher=hasher,
    )


def record(load: dict[str, Any], model: str) -> list[list[Any]]:
    """Each iteration: start in ps, requests scheduled, their tokens, preempted, finished, blocks held after it, and the
    tokens looked up in the prefix cache and found there."""
    scheduler = make_scheduler(load, model)
    hash_tokens = get_hash_fn_by_name("sha256")
    init_none_hash(hash_tokens)
    hasher = get_request_block_hasher(load["block_tokens"], hash_tokens) if load["prefix_caching"] else None
    pool = scheduler.kv_cache_manager.block_pool
    events = [tuple(event) for event in load["events"]]
    iterations, clock_ps, place = [], 0, 0
    while place < len(events) or scheduler.has_unfinished_requests():
        if not scheduler.has_unfinished_requests():
            clock_ps = max(clock_ps, events[place][0])
        while place < len(events) and events[place][0] <= clock_ps:
            at_ps, what, first, second = events[place]
            place += 1
            if what == "enqueue":
                scheduler.add_request(make_request(load, first, at_ps, hasher))
            elif what == "abort":
                scheduler.finish_requests(str(first), RequestStatus.FINISHED_ABORTED)
            elif what == "limit":
                scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens = first, second
        if not scheduler.has_unfinished_requests():
            continue
        scheduler.thrown_out = []
        output = scheduler.schedule()
        looked_up = scheduler.kv_cache_manager.prefix_cache_stats
        queries, hits = looked_up.queries, looked_up.hits
        scheduled = output.num_scheduled_tokens
        ends = [made_up(load, scheduler.requests[name]) for name in scheduled]
        before = set(scheduler.requests)
        scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=list(scheduled),
                req_id_to_index={name: index for index, name in enumerate(scheduled)},
                sampled_token_ids=[] if load["prefill_only"] else [tokens for tokens, _ in ends],
                pooler_output=[pooled for _, pooled in ends] if load["prefill_only"] else None,
            ),
        )
        finished = [int(name) for name in scheduled if name in before and name not in scheduler.requests]
        iterations.append(
            [
                clock_ps,
                [int(name) for name in scheduled],
                list(scheduled.values()),
                scheduler.thrown_out,
                finished,
                pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
                queries,
                hits,
            ]
        )
        if scheduled:
            clock_ps += load["iteration_ps"] + load["token_ps"] * sum(scheduled.values())
    return iterations


def made_up(load: dict[str, Any], request: Request) -> tuple[list[int], Any]:
    """What a model would give for a request after this iteration: a token, or an embedding; nothing in mid-prompt."""
    if request.num_computed_tokens < request.num_tokens:
        return [], None
    if load["prefill_only"]:
        return [], torch.zeros(1)
    return [_OWN * (int(request.request_id) + 1) + request.num_tokens], None


def main() -> None:
    """Record every load of stdin."""
    loads = json.load(sys.stdin)
    recorded = {name: record(load, sys.argv[1]) for name, load in loads.items()}
    json.dump({"vllm": vllm.__version__, "iterations": recorded}, sys.stdout)


if __name__ == "__main__":
    main()
