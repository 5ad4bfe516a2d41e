"""What `poolpilot evaluate` was asked."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ...env.scenario import Scenario, load_scenario
from ...training.suites import load_suite
from ..bad_input import refuse

OWN_SUITE = "scenarios"
"""What scenarios that were named one by one are called together."""
SWEPT_HEADROOMS = (0.7, 0.85, 1.0, 1.2, 1.5)
"""Of suites, where nothing else is asked."""
_UNSAID = ("out", "onto_card", "workers", "as_json", "timelines", "report_only")
"""Options that change no row."""


@dataclass(frozen=True)
class Asked:
    """Scenarios by suite and name, and those left out, by suite, with the reason."""

    scenarios: dict[tuple[str, str], Scenario]
    skipped: dict[str, dict[str, str]]


def suites_asked(suites: Sequence[str], scenarios: Sequence[str], data: Path | None) -> Asked:
    """Suites by name or file, and the suite of scenarios that were named one by one; one line where that cannot be."""
    if not suites and not scenarios:
        raise click.UsageError("neither --suite nor --scenario: wanted something to evaluate on")
    found: dict[tuple[str, str], Scenario] = {}
    skipped: dict[str, dict[str, str]] = {}
    for given in suites:
        suite = load_suite(given, data)
        if suite.name in skipped or suite.name == OWN_SUITE:
            raise click.UsageError(f"--suite {given}: a suite called {suite.name} is there already; wanted other names")
        skipped[suite.name] = dict(suite.skipped)
        found.update({(suite.name, scenario.name): scenario for scenario in suite.scenarios})
    for given in scenarios:
        scenario = load_scenario(given)
        if (OWN_SUITE, scenario.name) in found:
            raise click.UsageError(f"--scenario {given}: a scenario called {scenario.name} is there already")
        found[OWN_SUITE, scenario.name] = scenario
    if not found:
        reasons = "; ".join(f"{name}: {why}" for own in skipped.values() for name, why in own.items())
        refuse(f"no scenario is left to evaluate on: {reasons}")
    return Asked(found, skipped)


def policies_asked(lists: Sequence[str], single: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """The names in `--policies` lists and `--policy` options."""
    named = [part.strip() for text in lists for part in text.split(",")]
    if any(not name for name in named):
        raise click.UsageError(f"--policies {','.join(lists)}: wanted names with single commas between them")
    return tuple(dict.fromkeys((*named, *single))) or tuple(usual)


def headrooms_asked(text: str | None, swept: bool) -> tuple[float, ...]:
    """The head-rooms to sweep, 1 among them."""
    if text is None:
        return SWEPT_HEADROOMS if swept else (1.0,)
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(0.0 < value <= 100.0 for value in values):
        raise click.UsageError(f"--headroom {text}: wanted numbers above 0, at most 100, with commas between them")
    return tuple(sorted({1.0, *values}))


def options_given(context: click.Context) -> list[str]:
    """Every option that was given, as it is written."""
    return [
        option.opts[0]
        for option in context.command.params
        if context.get_parameter_source(option.name or "") == click.core.ParameterSource.COMMANDLINE
    ]


def command_line(context: click.Context) -> str:
    """The command that makes the same rows, from the options that were given."""
    words = ["poolpilot", "evaluate"]
    for option in context.command.params:
        name = option.name or ""
        if name in _UNSAID or context.get_parameter_source(name) != click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(one)]
    return shlex.join(words)
