"""A trace in place of a scenario's own workload."""

from __future__ import annotations

from pathlib import Path

from ...env.beliefs import mean_load
from ...env.scenario import Scenario
from ...env.workload.load import load_workload
from ...env.workload.spec import AssignRule, TraceSpec
from ...env.workload.traces import TraceError, read_trace_batches

LONG_PROMPT_TOKENS = 1500
"""Longer prompts count as summarisation, where the scenario has such a class."""
BATCH_SHARE = 0.15
"""Of the other requests, this share may wait, where the scenario has a class that may."""


def with_trace(scenario: Scenario, path: Path) -> tuple[Scenario, Scenario]:
    """The scenario with its load replaced by the trace's first part, and with that of the part after it, to tune on.

    The trace is replayed at the rate that makes its mean that of the scenario's own load: the services behind public
    traces are far larger than a few replicas.

    Raises:
        TraceError: the trace cannot be read, or is too short to be replayed.
    """
    n, span_s = _counted(path)
    if span_s <= 0:
        raise TraceError(f"{path}: all requests arrive at once; wanted some seconds of requests")
    own = load_workload(scenario.workload, scenario.class_names, scenario.duration_s, 0, scenario.base_dir)
    rate_per_s = float(mean_load(own, scenario.duration_s)[0].sum())
    factor = rate_per_s / (n / span_s)
    used_s = scenario.duration_s * factor
    rules = _rules(scenario)
    # A trace that is too short for a second part is tuned on as it is: the same days, which favours the baselines.
    second_s = used_s if 2 * used_s <= span_s else 0.0

    def part(start_s: float) -> Scenario:
        spec = TraceSpec(path=path.resolve(), start_s=start_s, end_s=start_s + used_s, rate_factor=factor, assign=rules)
        return scenario.model_copy(update={"workload": spec})

    return part(0.0), part(second_s)


def _counted(path: Path) -> tuple[int, float]:
    """Requests of a trace, and the time of the last, however long it is."""
    n, last_s = 0, 0.0
    for batch in read_trace_batches(path):
        n, last_s = n + len(batch), batch.seen_s
    return n, last_s


def _rules(scenario: Scenario) -> tuple[AssignRule, ...]:
    """Which of the scenario's classes a request of the trace becomes."""
    rules = []
    if "summarisation" in scenario.classes:
        rules.append(AssignRule(class_name="summarisation", min_prompt_tokens=LONG_PROMPT_TOKENS))
    waiting = [name for name, requests in scenario.classes.items() if requests.target.deadline_s is not None]
    if waiting:
        rules.append(AssignRule(class_name=waiting[0], share=BATCH_SHARE))
    return (*rules, AssignRule(class_name=scenario.class_names[0]))
