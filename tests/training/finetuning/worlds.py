"""A small cluster as it is believed to be, and as it is."""

from pathlib import Path
from typing import Any

from poolpilot.commands.simulating.recorded import recorded_run
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.env.scenario import Scenario, parse_scenario
from poolpilot.telemetry.record import Record, entry_of, episodes_of, line_of, sitting_text

SLOWER = 1.3
"""Times of the pool `l40s` over what is believed of it."""
LONGER = 2.0
"""Cold starts over what is believed of them."""
DRIVER = PolicyChoice(
    "plan-tracking",
    knobs={
        "headroom": 1.168,
        "burst": 0.373,
        "hold_s": 22.22,
        "backlog_drain_s": 41.03,
        "correction": 0.1081,
        "payback_s": 42.58,
        "spot_risk": 0.1951,
        "zone_share": 0.6206,
        "memory_s": 190.0,
    },
)
"""Who decides on a record: with every knob, so that no record depends on those that ship."""


def _document(duration_s: float) -> dict[str, Any]:
    def load(rate: float, prompt: float, output: float) -> dict[str, Any]:
        return {
            "rate_per_s": rate,
            "shape": [{"kind": "diurnal", "period_s": 2400, "amplitude": 0.6}],
            "prompt_tokens": {"kind": "lognormal", "median": prompt, "sigma": 0.7, "max": 3000},
            "output_tokens": {"kind": "lognormal", "median": output, "sigma": 0.5, "max": 900},
        }

    engine = {"max_num_seqs": 64, "max_model_len": 4096}
    cold_start = {"provision_s": 20, "load_s": 25}
    return {
        "schema": 1,
        "name": "two-pools",
        "summary": "Two pools, two classes.",
        "duration_s": duration_s,
        "tick_s": 10,
        "model": "llama-3.1-8b",
        "pools": {
            "h100": {
                "gpu": "H100-SXM-80GB",
                "price": {"usd_per_hr": 6.88},
                "replicas": {"min": 1, "max": 3, "start": 1},
                "engine": engine,
                "cold_start": cold_start,
            },
            "l40s": {
                "gpu": "L40S-48GB",
                "price": {"usd_per_hr": 1.86},
                "replicas": {"min": 1, "max": 6, "start": 2},
                "engine": engine,
                "cold_start": cold_start,
            },
        },
        "classes": {
            "chat": {"target": {"ttft_s": 2.0, "tpot_s": 0.08, "attainment": 0.98}},
            "summarisation": {"target": {"ttft_s": 5.0, "tpot_s": 0.12, "attainment": 0.95}},
        },
        "workload": {
            "kind": "generated",
            "classes": {"chat": load(20.0, 300, 220), "summarisation": load(2.0, 1400, 150)},
        },
        "world": {"performance_error_frac": 0.0, "cold_start_error_frac": 0.0},
    }


def believed(duration_s: float = 5400.0) -> Scenario:
    """What policy and planner are told."""
    return parse_scenario(_document(duration_s), Path("two-pools.yaml"))


def true(duration_s: float = 5400.0) -> Scenario:
    """A pool slower than believed, cold starts twice as long, a new class mix with longer answers."""
    document = _document(duration_s)
    document["pools"]["l40s"]["time_factor"] = SLOWER
    for pool in document["pools"].values():
        pool["cold_start"] = {"provision_s": 20 * LONGER, "load_s": 25 * LONGER}
    classes = document["workload"]["classes"]
    classes["chat"] |= {"rate_per_s": 14.0}
    classes["summarisation"] |= {"rate_per_s": 6.0}
    classes["chat"]["output_tokens"] = {"kind": "lognormal", "median": 300, "sigma": 0.5, "max": 900}
    return parse_scenario(document, Path("two-pools.yaml"))


def record_of(world: Scenario, seed: int) -> Record:
    """What a sidecar that believes `believed` records of a world."""
    ticks = recorded_run(believed(world.duration_s), DRIVER, seed, world, started_unix_s=1.8e9)
    lines: list[tuple[str, bytes]] = []
    for n, tick in enumerate(ticks, start=2):
        if not lines:
            lines.append(("log:1", sitting_text(tick.sitting).encode() + b"\n"))
        lines.append((f"log:{n}", line_of(entry_of(tick)).encode() + b"\n"))
    return episodes_of(lines, memories=False)
