"""Plans simulated at the load they were made for: problems to draw, and what became of their plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poolpilot.agents.planner.problem import problem_of
from poolpilot.agents.planner.solving.milp import compose
from poolpilot.agents.planner.written import planned_scenario
from poolpilot.commands.planning.simulated import Simulated, simulate_plan
from poolpilot.env.scenario.document import parse_scenario
from poolpilot.env.workload.load import load_workload

GPUS = {"H100-SXM-80GB": 3.0, "A100-SXM-80GB": 2.0, "L40S-48GB": 1.1, "L4-24GB": 0.55, "A10G-24GB": 0.7}
"""Dollars per hour, about; each problem moves them."""
DURATION_S = 400
SEEDS = 2
TARGETS: dict[str, dict[str, float]] = {
    "chat": {"ttft_s": 2.0, "tpot_s": 0.1},
    "summary": {"ttft_s": 8.0, "tpot_s": 0.15},
    "end-to-end": {"e2e_s": 25.0},
    "prompt": {"ttft_s": 1.5},
    "later": {"deadline_s": 240.0},
}


@dataclass(frozen=True)
class Planned:
    """A plan, and what became of it."""

    usd_per_hr: float
    outcome: Simulated

    @property
    def worst(self) -> float:
        """Attainment over what was wanted, of the class that is worst off."""
        return min((own.attainment or 0.0) - own.wanted for own in self.outcome.classes)


def drawn(seed: int, error_frac: float = 0.0) -> dict[str, Any]:
    """A scenario to be planned: GPUs and prices, one to three classes with lengths, targets and attainment of their own.

    Args:
        error_frac: true iteration times differ from the believed ones by up to this.
    """
    rng = np.random.default_rng(seed)
    offers = [
        {"gpu": gpu, "usd_per_hr": round(usd * rng.uniform(0.6, 1.6), 2)}
        for gpu, usd in GPUS.items()
        if rng.random() < 0.7
    ] or [{"gpu": "H100-SXM-80GB", "usd_per_hr": 3.0}]
    classes: dict[str, Any] = {}
    loads: dict[str, Any] = {}
    for c in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(list(TARGETS)))
        wanted = float(rng.choice([0.9, 0.95, 0.99]))
        prompt, output = float(rng.uniform(150, 700)), float(rng.uniform(60, 250))
        classes[f"{kind}-{c}"] = {"target": {**TARGETS[kind], "attainment": wanted}}
        loads[f"{kind}-{c}"] = {
            "rate_per_s": float(rng.uniform(4, 24)),
            "prompt_tokens": {
                "kind": "lognormal",
                "median": 4 * prompt if kind == "summary" else prompt,
                "sigma": float(rng.uniform(0.2, 0.9)),
                "max": 4000,
            },
            "output_tokens": {"kind": "fixed", "tokens": 0}
            if kind == "prompt"
            else {"kind": "lognormal", "median": output, "sigma": 0.6, "max": 700},
        }
    return {
        "schema": 1,
        "name": "drawn",
        "summary": "Drawn at random.",
        "duration_s": DURATION_S,
        "model": str(rng.choice(["llama-2-7b", "llama-3.1-8b", "llama-2-13b"])),
        "classes": classes,
        "workload": {"kind": "generated", "classes": loads},
        "planning": {"prices": offers, "max_tensor_parallel": 2, "engine": {"max_model_len": 8192}},
        "world": {"performance_error_frac": error_frac},
    }


def planned(seed: int, headroom: float = 1.0, error_frac: float = 0.0) -> Planned:
    """The plan for a drawn problem's mean load, held while Poisson arrivals come at that load."""
    scenario = parse_scenario(drawn(seed, error_frac), Path("drawn.yaml"), needs_pools=False)
    requests = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, seed, scenario.base_dir)
    problem = problem_of(scenario, requests, load="mean", headroom=headroom)
    plan = compose(problem)
    held = planned_scenario(scenario, problem, plan, held=True)
    return Planned(plan.usd_per_hr, simulate_plan(held, seeds=SEEDS))
