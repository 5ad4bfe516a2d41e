"""Plans simulated at the load they were made for, by engines as fast as believed, reach the wanted attainment.

Each problem is drawn: GPUs and prices, one to three classes with their own lengths, targets and wanted attainment. The
plan is held, counts and shares, while Poisson arrivals come at the planned rate without head-room.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.planner.milp import compose
from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.written import planned_scenario
from poolpilot.commands.planning.simulated import simulate_plan
from poolpilot.env.scenario.document import parse_scenario
from poolpilot.env.workload.load import load_workload

GPUS = {"H100-SXM-80GB": 3.0, "A100-SXM-80GB": 2.0, "L40S-48GB": 1.1, "L4-24GB": 0.55, "A10G-24GB": 0.7}
REQUESTS = 1500
"""Of each class at least: their attainment is then known to a point or so."""
POINTS = 0.02


def drawn(seed: int, error_frac: float = 0.0) -> dict[str, Any]:
    """A scenario to be planned."""
    rng = np.random.default_rng(seed)
    offers = [
        {"gpu": gpu, "usd_per_hr": round(usd * rng.uniform(0.6, 1.6), 2)}
        for gpu, usd in GPUS.items()
        if rng.random() < 0.7
    ] or [{"gpu": "H100-SXM-80GB", "usd_per_hr": 3.0}]
    classes: dict[str, Any] = {}
    loads: dict[str, Any] = {}
    duration_s = 400
    for c in range(int(rng.integers(1, 4))):
        kind = rng.choice(["chat", "summary", "end-to-end", "prompt", "later"])
        wanted = float(rng.choice([0.9, 0.95, 0.99]))
        prompt, output = float(rng.uniform(150, 700)), float(rng.uniform(60, 250))
        target = {
            "chat": {"ttft_s": 2.0, "tpot_s": 0.1},
            "summary": {"ttft_s": 8.0, "tpot_s": 0.15},
            "end-to-end": {"e2e_s": 25.0},
            "prompt": {"ttft_s": 1.5},
            "later": {"deadline_s": 240.0},
        }[str(kind)]
        if kind == "summary":
            prompt *= 4
        output_tokens: dict[str, Any] = {"kind": "lognormal", "median": output, "sigma": 0.6, "max": 700}
        if kind == "prompt":
            output_tokens = {"kind": "fixed", "tokens": 0}
        name = f"{kind}-{c}"
        classes[name] = {"target": {**target, "attainment": wanted}}
        loads[name] = {
            "rate_per_s": max(REQUESTS / duration_s, float(rng.uniform(4, 24))),
            "prompt_tokens": {
                "kind": "lognormal",
                "median": prompt,
                "sigma": float(rng.uniform(0.2, 0.9)),
                "max": 4000,
            },
            "output_tokens": output_tokens,
        }
    return {
        "schema": 1,
        "name": "drawn",
        "summary": "Drawn for a test.",
        "duration_s": duration_s,
        "model": str(rng.choice(["llama-2-7b", "llama-3.1-8b", "llama-2-13b"])),
        "classes": classes,
        "workload": {"kind": "generated", "classes": loads},
        "planning": {"prices": offers, "max_tensor_parallel": 2, "engine": {"max_model_len": 8192}},
        "world": {"performance_error_frac": error_frac},
    }


@pytest.mark.parametrize("seed", range(10))
def test_a_plan_attains_at_its_load_what_is_wanted(seed: int) -> None:
    scenario = parse_scenario(drawn(seed), Path("drawn.yaml"), needs_pools=False)
    names, span_s = scenario.class_names, scenario.duration_s
    requests = load_workload(scenario.workload, names, span_s, seed, scenario.base_dir)
    problem = problem_of(scenario, requests, load="mean", headroom=1.0)
    plan = compose(problem)
    held = planned_scenario(scenario, problem, plan, held=True)
    outcome = simulate_plan(held, seeds=2)
    missing = {
        own.name: (own.wanted, own.attainment)
        for own in outcome.classes
        if own.attainment is None or own.attainment < own.wanted - POINTS
    }
    assert not missing
