"""Real ticks of a large cluster: a day's beginning under the shipped checkpoint, in the simulator."""

from pathlib import Path
from typing import Any

from poolpilot.commands.simulating.recorded import recorded_run
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.env.scenario import Scenario, parse_scenario
from poolpilot.telemetry.record import TickRecord

POOLS = {
    "h100": ("H100-SXM-80GB", 6.88),
    "h200": ("H200-SXM-141GB", 8.0),
    "a100": ("A100-SXM-80GB", 3.67),
    "a100-spot": ("A100-SXM-80GB", 2.33),
    "l40s": ("L40S-48GB", 1.86),
    "l40s-zone-b": ("L40S-48GB", 1.95),
    "a10g": ("A10G-24GB", 1.21),
    "l4": ("L4-24GB", 0.8),
}
CLASSES = {"chat": 3.0, "code": 1.5, "summarisation": 0.5, "batch": 1.0}


def eight_by_four(duration_s: float = 3600.0) -> Scenario:
    """Eight pools of one 8B model, four classes."""
    pools: dict[str, Any] = {
        name: {
            "gpu": gpu,
            "price": {"usd_per_hr": usd},
            "replicas": {"min": 0, "max": 4, "start": 1},
            "engine": {"max_num_seqs": 64, "max_model_len": 4096},
        }
        for name, (gpu, usd) in POOLS.items()
    }
    pools["a100-spot"] |= {"price": {"usd_per_hr": 2.33, "kind": "spot"}, "spot": {"preemptions_per_hr": 0.5}}
    target = {"ttft_s": 2.0, "tpot_s": 0.1, "attainment": 0.95}
    lengths = {"kind": "lognormal", "median": 300, "sigma": 0.8, "max": 1500}
    document = {
        "schema": 1,
        "name": "eight-by-four",
        "summary": "Eight pools, four classes.",
        "duration_s": duration_s,
        "tick_s": 10,
        "model": "llama-3.1-8b",
        "pools": pools,
        "classes": {name: {"target": target} for name in CLASSES},
        "workload": {
            "kind": "generated",
            "classes": {
                name: {"rate_per_s": rate, "prompt_tokens": lengths, "output_tokens": lengths}
                for name, rate in CLASSES.items()
            },
        },
    }
    return parse_scenario(document, Path("eight-by-four"))


def ticks_of_a_day(n_ticks: int, policy: str = "steady-hand") -> list[TickRecord]:
    """The first ticks of a day of `eight_by_four`."""
    return list(recorded_run(eight_by_four(n_ticks * 10.0), PolicyChoice(policy), seed=1, started_unix_s=1.8e9))
