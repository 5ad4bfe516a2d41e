"""A small cluster for studies of learning on the job, as a scenario's document: as it is believed, and as it is instead."""

from __future__ import annotations

from typing import Any, Final

SLOWER: Final = 1.3
"""Times of the pool `l40s` over what is believed of it."""
LONGER: Final = 2.0
"""Cold starts over what is believed of them."""


def two_pools(duration_s: float) -> dict[str, Any]:
    """What policy and planner believe: two pools and two classes whose load swells and sinks."""
    pools = {"h100": _pool("H100-SXM-80GB", 6.88, 3, 1), "l40s": _pool("L40S-48GB", 1.861, 8, 2)}
    return {
        "schema": 1,
        "name": "two-pools",
        "summary": "Two pools, two classes.",
        "duration_s": duration_s,
        "tick_s": 10,
        "model": "llama-3.1-8b",
        "pools": pools,
        "classes": {
            "chat": {"target": {"ttft_s": 2.0, "tpot_s": 0.08, "attainment": 0.98}},
            "summarisation": {"target": {"ttft_s": 5.0, "tpot_s": 0.12, "attainment": 0.95}},
        },
        "workload": {
            "kind": "generated",
            "classes": {"chat": _load(20.0, 300, 220), "summarisation": _load(2.0, 1400, 150)},
        },
        "world": {"performance_error_frac": 0.0, "cold_start_error_frac": 0.0},
    }


def slowed(document: dict[str, Any]) -> dict[str, Any]:
    """The same document, changed in place: a pool is slower than believed, and every cold start longer."""
    document["pools"]["l40s"]["time_factor"] = SLOWER
    for pool in document["pools"].values():
        pool["cold_start"] = {name: LONGER * seconds for name, seconds in pool["cold_start"].items()}
    return document


def _pool(gpu: str, usd_per_hr: float, most: int, start: int) -> dict[str, Any]:
    return {
        "gpu": gpu,
        "price": {"usd_per_hr": usd_per_hr},
        "replicas": {"min": 1, "max": most, "start": start},
        "engine": {"max_num_seqs": 64, "max_model_len": 4096},
        "cold_start": {"provision_s": 20, "load_s": 25},
    }


def _load(rate_per_s: float, prompt_tokens: float, output_tokens: float) -> dict[str, Any]:
    return {
        "rate_per_s": rate_per_s,
        "shape": [{"kind": "diurnal", "period_s": 2400, "amplitude": 0.6}],
        "prompt_tokens": {"kind": "lognormal", "median": prompt_tokens, "sigma": 0.7, "max": 3000},
        "output_tokens": {"kind": "lognormal", "median": output_tokens, "sigma": 0.5, "max": 900},
    }
