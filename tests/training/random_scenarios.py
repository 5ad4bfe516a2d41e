"""Small scenarios drawn at random, with everything that a world can do to a bill: for what must hold in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from poolpilot.env.scenario import Scenario, parse_scenario

GPUS = ("L4-24GB", "A10G-24GB", "L40S-48GB", "A100-SXM-80GB", "H100-SXM-80GB")


def a_scenario(seed: int, duration_s: float = 240.0) -> Scenario:
    """One of up to three pools and three classes of an 0.5B model, always the same for a seed."""
    rng = np.random.default_rng(seed)
    n_pools, n_classes = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    pools = {f"pool-{p}": _pool(rng, duration_s) for p in range(n_pools)}
    classes = {f"class-{c}": {"target": _target(rng)} for c in range(n_classes)}
    if n_pools > 1 and n_classes > 1 and rng.random() < 0.4:
        classes["class-0"]["pools"] = ["pool-0"]
    document: dict[str, Any] = {
        "schema": 1,
        "name": f"random-{seed}",
        "summary": "Drawn at random.",
        "duration_s": duration_s + float(rng.choice([0.0, 4.0])),
        "tick_s": float(rng.choice([5.0, 10.0, 30.0])),
        "model": "qwen2.5-0.5b",
        "pools": pools,
        "classes": classes,
        "workload": {"kind": "generated", "classes": {name: _load(rng) for name in classes}},
        "guard": {
            "scale_down_step": int(rng.integers(1, 4)),
            "scale_down_cooldown_s": float(rng.choice([0.0, 25.0, 60.0])),
            **({"budget_usd_per_hr": float(rng.uniform(3.0, 30.0))} if rng.random() < 0.2 else {}),
        },
        "energy": {"paid_by_user": bool(rng.random() < 0.3), "room_c": float(rng.choice([25.0, 45.0]))},
        "network": {"egress_usd_per_gb": float(rng.choice([0.0, 0.1, 5.0]))},
        "faults": [_fault(rng, f"pool-{int(rng.integers(n_pools))}", duration_s) for _ in range(rng.integers(0, 3))],
    }
    return parse_scenario(document, Path(f"random-{seed}.yaml"))


def _pool(rng: np.random.Generator, duration_s: float) -> dict[str, Any]:
    low = int(rng.integers(0, 2))
    start = low + int(rng.integers(0, 3))
    spot = rng.random() < 0.3
    usd_per_hr = float(rng.uniform(0.5, 8.0))
    pool: dict[str, Any] = {
        "gpu": str(rng.choice(GPUS)),
        "precision": "bf16",
        "price": {"usd_per_hr": usd_per_hr, "kind": "spot" if spot else "on_demand"},
        "replicas": {"min": low, "start": start, "max": max(start, 1) + int(rng.integers(0, 3))},
        "engine": {
            "max_num_seqs": int(rng.choice([1, 4, 16, 64])),
            "max_num_batched_tokens": int(rng.choice([64, 256, 2048])),
            "gpu_memory_utilization": float(rng.choice([0.2, 0.9])),
            "scheduling": str(rng.choice(["fcfs", "priority"])),
            "prefix_caching": bool(rng.random() < 0.4),
        },
        "cold_start": {"provision_s": float(rng.uniform(0, 40)), "load_s": 5.0, "stuck_start_frac": 0.1},
    }
    if rng.random() < 0.3:
        steps = [[0.0, usd_per_hr], [float(rng.uniform(10, duration_s)), usd_per_hr * float(rng.uniform(0.3, 3.0))]]
        pool["price"]["series"] = {"steps": steps}
    if spot and rng.random() < 0.5:
        changes = np.sort(rng.uniform(5.0, duration_s, 3)).tolist()
        steps = [[0.0, int(rng.integers(0, 4))], *([at_s, int(rng.integers(0, 4))] for at_s in changes)]
        pool["spot"] = {"notice_s": float(rng.choice([0.0, 30.0])), "availability": {"steps": steps}}
    elif spot:
        pool["spot"] = {"preemptions_per_hr": float(rng.choice([1.0, 60.0])), "notice_s": 15.0}
    if rng.random() < 0.2:
        pool["crashes_per_hr"] = 30.0
    if rng.random() < 0.2:
        pool["sleep"] = {"max": 1, "wake": 3.0, "fall_asleep": 2.0, "rent_frac": float(rng.choice([0.0, 1.0]))}
    if rng.random() < 0.2:
        pool["stock_outs"] = {"per_hr": 30.0, "duration": 40.0}
    return pool


def _target(rng: np.random.Generator) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = [
        {"ttft_s": 1.0, "tpot_s": 0.05},
        {"ttft_s": 0.3},
        {"tpot_s": 0.03},
        {"e2e_s": 8.0},
        {"deadline_s": 90.0},
    ]
    return {**kinds[int(rng.integers(len(kinds)))], "attainment": float(rng.choice([0.8, 0.95, 0.99]))}


def _load(rng: np.random.Generator) -> dict[str, Any]:
    outputs = [{"kind": "lognormal", "median": 80, "sigma": 0.9, "max": 800}, {"kind": "fixed", "tokens": 0}]
    output = outputs[int(rng.random() < 0.25)]
    if rng.random() < 0.2:
        return {
            "kind": "sessions",
            "sessions_per_s": 0.2,
            "turns_mean": 4,
            "think_s": 10,
            "message_tokens": {"kind": "lognormal", "median": 100, "sigma": 0.8, "max": 1000},
            "output_tokens": {"kind": "lognormal", "median": 60, "sigma": 0.8, "max": 500},
        }
    load: dict[str, Any] = {
        "rate_per_s": float(rng.choice([0.2, 3.0, 12.0])),
        "arrivals": "gamma",
        "cv": 2.0,
        "prompt_tokens": {"kind": "lognormal", "median": float(rng.choice([3, 150, 900])), "sigma": 1.0, "max": 6000},
        "output_tokens": output,
    }
    if rng.random() < 0.4:
        tokens = {"kind": "lognormal", "median": 300, "sigma": 0.5, "max": 1000}
        load["shared_prefix"] = {"count": 3, "zipf": 1.0, "share": 0.8, "tokens": tokens}
    return load


def _fault(rng: np.random.Generator, pool: str, duration_s: float) -> dict[str, Any]:
    kind = str(rng.choice(["preempt", "crash", "stock_out", "capacity"]))
    return {
        "kind": kind,
        "pool": pool,
        "at_s": float(rng.uniform(0.0, duration_s)),
        "count": int(rng.integers(1, 3)),
        **({"duration_s": 60.0} if kind == "stock_out" else {}),
    }
