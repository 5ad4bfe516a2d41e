"""The requests and the cluster that are timed.

500 prompt and 250 output tokens, Poisson arrivals, Llama-2-7B on A100: the load that simulators of LLM serving are
usually timed with.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from poolpilot.env.contract import Action
from poolpilot.env.scenario import Scenario
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.engine import enqueue, run
from poolpilot.env.sim.engine_state import ABSENT, load_requests, make_engine
from poolpilot.env.sim.world import WorldSpec, world_from_scenario
from poolpilot.env.workload.prefixes import PrefixTree
from poolpilot.env.workload.requests import Workload

PROMPT_TOKENS, OUTPUT_TOKENS = 500, 250
MODEL, GPU = "llama-2-7b", "A100-SXM-80GB"
MAX_NUM_SEQS, TOKEN_BUDGET, MAX_MODEL_LEN = 256, 2048, 4096
POOL_REPLICAS = 1000
"""Most replicas of one pool, as in a scenario file; more need more pools."""
PREFIXES, PREFIX_TOKENS = 8, 112
"""Instructions that prompts begin with, and their length: engines that cache prefixes compute them once."""
NEVER_S = 1e6


def requests(count: int, rate_per_s: float, seed: int = 0) -> Workload:
    """`count` Poisson arrivals, in turn of an urgent and a patient class; each begins with one of a few instructions."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0 / rate_per_s, count))
    tokens = np.ones(count, dtype=np.int64)
    return Workload(
        arrival_s,
        PROMPT_TOKENS * tokens,
        OUTPUT_TOKENS * tokens,
        np.arange(count) % 2,
        CLASSES,
        prefix_index=rng.integers(0, PREFIXES, count),
        prefixes=PrefixTree(np.full(PREFIXES, -1), np.full(PREFIXES, PREFIX_TOKENS)),
    )


def scenario(replicas: int) -> Scenario:
    """So many replicas with every feature on: half of them spot, half of them in pipeline stages; all draw power."""
    plain: dict[str, Any] = {
        "gpu": GPU,
        "engine": {
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": TOKEN_BUDGET,
            "max_model_len": MAX_MODEL_LEN,
            "scheduling": "priority",
            "prefix_caching": True,
        },
    }
    spot = {
        **plain,
        "price": {"usd_per_hr": 2.3, "kind": "spot"},
        # Notices come, and machines go: the pool asks for new ones, which cold-start.
        "spot": {"preemptions_per_hr": 0.2, "notice_s": 30},
    }
    staged = {**plain, "price": {"usd_per_hr": 9.0}, "pipeline_parallel": 2}
    pools: dict[str, dict[str, Any]] = {}
    left, kinds = replicas, (("spot", spot), ("staged", staged))
    share = max(1, min(POOL_REPLICAS, -(-replicas // 2)))
    while left:
        name, kind = kinds[len(pools) % 2]
        count = min(share, left)
        pools[f"{name}-{len(pools)}"] = {**kind, "replicas": {"min": 0, "max": count, "start": count}}
        left -= count
    return Scenario.model_validate(
        {
            "schema": 1,
            "name": "bench",
            "summary": "What is timed.",
            "duration_s": 60,
            "tick_s": 10,
            "model": MODEL,
            "pools": pools,
            "classes": {name: {"target": _TARGET, "priority": i} for i, name in enumerate(CLASSES)},
            "workload": {"kind": "generated", "classes": dict.fromkeys(CLASSES, _UNUSED)},
            "energy": {"paid_by_user": True},
        }
    )


CLASSES = ("urgent", "patient")
_TARGET = {"ttft_s": 2.0, "tpot_s": 0.1, "attainment": 0.99}
_UNUSED = {
    "rate_per_s": 1.0,
    "prompt_tokens": {"kind": "lognormal", "median": 500, "sigma": 0.1, "max": 600},
    "output_tokens": {"kind": "lognormal", "median": 250, "sigma": 0.1, "max": 300},
}
"""A scenario must say what arrives; the requests that are timed are handed in."""


def world(replicas: int, work: Workload) -> WorldSpec:
    """The cluster and its requests."""
    return world_from_scenario(scenario(replicas), seed=1, workload=work)


def even_action(clusters: SimulatedClusters) -> Action:
    """All replicas wanted, requests spread by replicas, engines at their start values."""
    limits = clusters.cluster
    weights = limits.serves * limits.max_replicas[:, None, :]
    return Action(
        route=weights / weights.sum(axis=-1, keepdims=True),
        admit=np.ones(limits.class_mask.shape),
        batch_cap=limits.max_batch_cap,
        token_budget=limits.max_token_budget,
        replicas=limits.max_replicas,
    )


@cache
def saturated_per_s() -> float:
    """Requests per second of one replica (not staged) that always has a queue: what load is a share of."""
    first = world(1, requests(1, 1.0))
    count = 4000
    engine = make_engine(
        first.law_rows[:1],
        kv_blocks=int(first.kv_tokens[0]) // 16,
        caps=MAX_NUM_SEQS,
        token_budgets=TOKEN_BUDGET,
        max_model_len=MAX_MODEL_LEN,
        max_seqs=MAX_NUM_SEQS,
        capacity=count,
    )
    work = requests(count, 1.0)
    load_requests(engine, work.prompt_tokens, work.output_tokens, work.class_index)
    for request in range(count):
        enqueue(engine, 0, request, 0)
    run(engine, 0, int(NEVER_S * 1e12))
    assert (engine.requests["state"] != ABSENT).all()
    return count / (float(engine.requests["finish_ps"].max()) / 1e12)
