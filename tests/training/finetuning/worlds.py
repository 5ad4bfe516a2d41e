"""A small cluster as it is believed to be, and as it is."""

from collections.abc import Container
from pathlib import Path
from typing import Any

from poolpilot.benchmarks.two_pools import slowed, two_pools
from poolpilot.commands.simulating.recorded import recorded_run
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.env.scenario import Scenario, parse_scenario
from poolpilot.telemetry.record import Record, entry_of, episodes_of, line_of, sitting_text

from ...knobs import EVERY_KNOB

DRIVER = PolicyChoice("plan-tracking", knobs=EVERY_KNOB)
"""Who decides on a record."""


def _document(duration_s: float) -> dict[str, Any]:
    document = two_pools(duration_s)
    document["pools"]["l40s"] |= {"price": {"usd_per_hr": 1.86}, "replicas": {"min": 1, "max": 6, "start": 2}}
    return document


def believed(duration_s: float = 5400.0) -> Scenario:
    """What policy and planner are told."""
    return parse_scenario(_document(duration_s), Path("two-pools.yaml"))


def true(duration_s: float = 5400.0) -> Scenario:
    """A pool slower than believed, cold starts twice as long, a new class mix with longer answers."""
    document = slowed(_document(duration_s))
    classes = document["workload"]["classes"]
    classes["chat"] |= {"rate_per_s": 14.0}
    classes["summarisation"] |= {"rate_per_s": 6.0}
    classes["chat"]["output_tokens"] = {"kind": "lognormal", "median": 300, "sigma": 0.5, "max": 900}
    return parse_scenario(document, Path("two-pools.yaml"))


def lines_of(world: Scenario, seed: int, left_out: Container[int] = frozenset()) -> list[tuple[str, bytes]]:
    """What a sidecar that believes `believed` writes down of a world, deciding in all slots but these."""
    ticks = recorded_run(believed(world.duration_s), DRIVER, seed, world, started_unix_s=1.8e9, left_out=left_out)
    lines: list[tuple[str, bytes]] = []
    for n, tick in enumerate(ticks, start=2):
        if not lines:
            lines.append(("log:1", sitting_text(tick.sitting).encode() + b"\n"))
        lines.append((f"log:{n}", line_of(entry_of(tick)).encode() + b"\n"))
    return lines


def record_of(world: Scenario, seed: int, left_out: Container[int] = frozenset()) -> Record:
    """The same, read."""
    return episodes_of(lines_of(world, seed, left_out), memories=False)
