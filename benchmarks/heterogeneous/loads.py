"""The load of a scenario whose requests are drawn from distributions."""

from __future__ import annotations

from collections.abc import Mapping

from poolpilot.env.scenario import Scenario
from poolpilot.env.workload.load import load_workload
from poolpilot.env.workload.requests import Workload
from poolpilot.env.workload.spec import ClassLoad, GeneratedSpec, MixSpec


def loads_of(scenario: Scenario) -> dict[str, ClassLoad]:
    """By class."""
    assert isinstance(scenario.workload, GeneratedSpec)
    loads = {name: load for name, load in scenario.workload.classes.items() if isinstance(load, ClassLoad)}
    assert len(loads) == len(scenario.workload.classes)
    return loads


def rate_per_s(scenario: Scenario) -> float:
    """Of all classes."""
    return sum(load.rate_per_s for load in loads_of(scenario).values())


def scaled(scenario: Scenario, factor: float) -> Scenario:
    """The same requests, this many times as often."""
    assert isinstance(scenario.workload, GeneratedSpec | MixSpec)
    workload = scenario.workload.scaled(dict.fromkeys(scenario.classes, factor))
    return scenario.model_copy(update={"workload": workload})


def with_loads(scenario: Scenario, loads: Mapping[str, ClassLoad]) -> Scenario:
    """Other requests."""
    assert isinstance(scenario.workload, GeneratedSpec)
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"classes": dict(loads)})})


def drawn(scenario: Scenario, seed: int = 0) -> Workload:
    """The requests of a run."""
    return load_workload(scenario.workload, scenario.class_names, scenario.duration_s, seed, scenario.base_dir)
