"""What a plan leaves on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...agents.planner.written import planned_scenario, scenario_yaml
from ..bad_input import refuse
from .asked import Asked
from .found import Found
from .frontier import Point
from .serving import Serving, commands_text


def write_scenario(found: Found, asked: Asked, path: Path, commands: Mapping[str, Serving]) -> None:
    """The scenario whose pools are the plan's; OSError where the file cannot be written."""
    scenario = planned_scenario(found.scenario, found.problem, found.composition)
    path.write_text(
        scenario_yaml(scenario, path.parent, _header(found, asked), _pool_comments(found, commands)), encoding="utf-8"
    )


def _header(found: Found, asked: Asked) -> list[str]:
    changes = "; ".join(asked.changes())
    composition = found.composition
    return [
        f"Made by poolpilot plan from {found.scenario.name}{f' ({changes})' if changes else ''}, for the {asked.load} load"
        f" times {found.problem.wishes.headroom:g} of seed {asked.seed}: {composition.usd_per_hr:.2f} $/h, and no plan costs"
        f" less than {composition.bound:.2f}."
        if composition.objective == "cost"
        else f"Made by poolpilot plan --goodput from {found.scenario.name}{f' ({changes})' if changes else ''}:"
        f" {composition.usd_per_hr:.2f} $/h.",
        "`replicas.start` and `classes.*.shares` are the plan; the policy held-plan follows them to the letter:",
        "  poolpilot simulate --scenario THIS --policy held-plan --policy plan-tracking",
        "`replicas.max` leaves a policy room to scale, up to twice the plan as far as stock allows.",
        *(f"Warning: {warning}" for warning in found.warnings),
    ]


def _pool_comments(found: Found, commands: Mapping[str, Serving]) -> dict[str, list[str]]:
    comments = {}
    for pool in found.pools:
        day = f", price of {pool.price_as_of.isoformat()}" if pool.price_as_of else ""
        count = "1 replica" if pool.replicas == 1 else f"{pool.replicas} replicas"
        what = f"{count} on {pool.layout}, {pool.precision}: {pool.usd_per_hr:.2f} $/h{day}"
        load = f"{pool.share_of_requests * 100:.0f} % of the requests, {pool.used_frac * 100:.0f} % used"
        comments[pool.name] = [f"{what}; {load}."]
        if pool.name in commands:
            serving = commands[pool.name]
            comments[pool.name] += [*serving.notes, *serving.lines]
    return comments


def keep_plan(folder: Path, document: Mapping[str, Any], commands: Mapping[str, Serving]) -> list[Path]:
    """`plan.json` and `serve.sh` in a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_shell = folder / "plan.json", folder / "serve.sh"
    as_json.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    as_shell.write_text(commands_text(commands) + "\n", encoding="utf-8")
    return [as_json, as_shell]


def need_figures() -> None:
    """Refuse before any work what could not be drawn after it."""
    if find_spec("plotly") is None or find_spec("jinja2") is None:  # an extra
        refuse("--frontier draws with plotly, which is not installed: pip install 'poolpilot[figures]'")


def keep_frontier(folder: Path, points: Sequence[Point], name: str) -> list[Path]:
    """`frontier.html`, which opens offline, and `frontier.json`."""
    from ...dashboard.figures.frontier import frontier_figure  # plotly takes long to import
    from ...dashboard.report.shell import page, slot

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Any] = [point.record() for point in points]
    as_html, as_json = folder / "frontier.html", folder / "frontier.json"
    title, figure = f"{name}: rent against wanted attainment", frontier_figure(rows, "")
    as_html.write_text(page(title, slot("frontier", title, "tall"), {"frontier": figure}), encoding="utf-8")
    as_json.write_text(
        json.dumps({"scenario": name, "points": rows}, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    return [as_html, as_json]
