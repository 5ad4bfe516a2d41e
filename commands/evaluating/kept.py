"""What an evaluation leaves: files beside its rows, and the summary on a checkpoint's card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...agents.checkpoint import add_to_card
from ...training.evaluation.rows import Row, read_rows
from ...training.evaluation.run_folder import MANIFEST, ROWS, RunFolder, RunFolderError
from ...training.evaluation.summary import FORMAT
from ...training.evaluation.timelines import Timeline, read_timelines
from .tables import suite_notes
from .timelines import TIMELINES

SUMMARY, REPORT = "summary.json", "report.html"
NO_REPORT = "no report.html: it needs plotly and jinja2 (pip install 'poolpilot[figures]'); then give --report"
_DIGITS = 6
_OF_POLICY = (
    *("policy", "kind", "usd_per_hr", "usd_per_1000_met", "bill_ratio", "attainment", "shortfall", "held", "lost"),
    *("replica_changes", "above_bound_frac", "cost_ratio", "reached", "compared", "not_reached"),
)
_ON_CARD = ("command", "poolpilot", "commit", "code", "python", "versions", "suites", "policies", "headrooms", "seeds")


def keep_summary(folder: RunFolder, document: Mapping[str, Any]) -> None:
    """`summary.json`."""
    folder.write(SUMMARY, json.dumps(document, indent=2, allow_nan=False) + "\n")


def can_draw() -> bool:
    """Whether the extra that draws reports is installed."""
    return all(find_spec(name) is not None for name in ("plotly", "jinja2"))


def keep_report(
    folder: Path,
    manifest: Mapping[str, Any],
    document: Mapping[str, Any],
    rows: Sequence[Row],
    timelines: Sequence[Timeline],
) -> Path:
    """`report.html`, all in one file."""
    from ...dashboard.report.evaluation import RecordedRun, evaluation_report  # plotly takes long to import

    recorded = [RecordedRun(t.of.suite, t.of.scenario, t.of.seed, t.of.policy, t.rows) for t in timelines]
    notes = {name: list(suite_notes(suite)) for name, suite in document["suites"].items()}
    path, temporary = folder / REPORT, folder / f"{REPORT}.part"
    temporary.write_text(evaluation_report(manifest, document, rows, recorded, notes), encoding="utf-8")
    temporary.replace(path)
    return path


def report_again(folder: Path) -> Path:
    """The report of what a folder holds; nothing is run.

    Raises:
        RunFolderError: it holds no finished run.
        RowsError: its rows are of another version.
        TimelinesError: likewise its timelines.
    """
    for name in (MANIFEST, ROWS, SUMMARY):
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder}: holds no {name}; wanted a folder that `poolpilot evaluate --out` finished")
    documents = [_document(folder / name) for name in (MANIFEST, SUMMARY)]
    path = folder / TIMELINES
    timelines = read_timelines(path) if path.is_file() else []
    return keep_report(folder, documents[0], documents[1], read_rows(folder / ROWS), timelines)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise RunFolderError(
            f"{path}: wanted a document of format {FORMAT}, as this version of `poolpilot evaluate` writes"
        )
    return document


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
