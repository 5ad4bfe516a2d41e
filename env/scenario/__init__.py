"""The scenario file: cluster, classes, targets, workload, prices and faults, as validated YAML.

`document` is the whole of it and how it is read; the other modules hold its parts.
"""

from .document import (
    MAX_FILE_BYTES,
    SHIPPED,
    Fault,
    Scenario,
    ScenarioError,
    load_scenario,
    parse_scenario,
    shipped_scenarios,
)

__all__ = [
    "MAX_FILE_BYTES",
    "SHIPPED",
    "Fault",
    "Scenario",
    "ScenarioError",
    "load_scenario",
    "parse_scenario",
    "shipped_scenarios",
]
