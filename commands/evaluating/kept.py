"""What an evaluation leaves: files beside its rows, and the summary on a checkpoint's card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...agents.checkpoint import add_to_card
from ...training.evaluation.run_folder import RunFolder

SUMMARY, FIGURE = "summary.json", "frontier.html"
_DIGITS = 6
_OF_POLICY = (
    *("policy", "kind", "usd_per_hr", "usd_per_1000_met", "bill_ratio", "attainment", "shortfall", "held", "lost"),
    *("replica_changes", "above_bound_frac", "cost_ratio", "reached", "compared", "not_reached"),
)
_ON_CARD = ("command", "poolpilot", "commit", "code", "python", "versions", "suites", "policies", "headrooms", "seeds")


def keep_summary(folder: RunFolder, document: Mapping[str, Any]) -> None:
    """`summary.json`, and `frontier.html` where the extra that draws it is installed."""
    folder.write(SUMMARY, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if find_spec("plotly") is not None:
        from ...dashboard.figures.attainment import attainment_figure
        from ...dashboard.figures.attainment_rows import rows_of_summary
        from ...dashboard.report.shell import page, slot

        title, figure = "Cost against attainment", attainment_figure(rows_of_summary(document), "")
        folder.write(FIGURE, page(title, slot("frontier", title, "tall"), {"frontier": figure}))


def keep_on_card(checkpoint: Path, document: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Both readings by suite, and what they were made from, in place of the card's evaluation before."""
    readings = {
        name: {
            **{key: suite[key] for key in ("scenarios", "skipped", "seeds")},
            "as_shipped": _brief(suite["as_shipped"]),
            "equal_attainment": [_brief(at) for at in suite["equal_attainment"]],
        }
        for name, suite in document["suites"].items()
    }
    origin = {key: manifest[key] for key in _ON_CARD}
    evaluation = {key: document[key] for key in ("reference", "suites_skipped")}
    add_to_card(checkpoint, {**evaluation, "origin": origin, "readings": readings})


def _brief(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Without single scenarios, and of each policy what cards are read for: a card is read at every start."""
    kept = {key: value for key, value in reading.items() if key not in ("by_scenario", "policies")}
    policies = [{key: own[key] for key in _OF_POLICY if key in own} for own in reading["policies"]]
    brief: dict[str, Any] = _rounded({**kept, "policies": policies})
    return brief


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(own) for key, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, list) else value
