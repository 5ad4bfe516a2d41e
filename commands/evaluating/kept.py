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
_ON_CARD = ("command", "poolpilot", "commit", "code", "python", "versions", "suites", "policies", "headrooms", "seeds")


def keep_summary(folder: RunFolder, document: Mapping[str, Any]) -> None:
    """`summary.json`, and `frontier.html` where the extra that draws it is installed."""
    folder.write(SUMMARY, json.dumps(document, indent=2, allow_nan=False) + "\n")
    if find_spec("plotly") is not None:
        from ...dashboard.figures.attainment import attainment_figure
        from ...dashboard.figures.attainment_rows import rows_of_summary
        from ...dashboard.figures.frontier import page

        folder.write(FIGURE, page(attainment_figure(rows_of_summary(document))))


def keep_on_card(checkpoint: Path, document: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Both readings by suite, and what they were made from, in place of the card's evaluation before."""
    readings = {
        name: {
            "scenarios": suite["scenarios"],
            "skipped": suite["skipped"],
            "seeds": suite["seeds"],
            "as_shipped": {key: value for key, value in suite["as_shipped"].items() if key != "by_scenario"},
            "equal_attainment": [
                {key: value for key, value in at.items() if key != "by_scenario"} for at in suite["equal_attainment"]
            ],
        }
        for name, suite in document["suites"].items()
    }
    origin = {key: manifest[key] for key in _ON_CARD}
    add_to_card(checkpoint, {"reference": document["reference"], "origin": origin, "readings": readings})
