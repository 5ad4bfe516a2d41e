"""The evaluation's report: one HTML page from what `poolpilot evaluate --out` keeps.

Pure: documents and rows in, a page out. All suites are in it; the page shows one at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import plotly.graph_objects as go
from markupsafe import Markup

from ...env.timeline import TimelineRow
from ..figures.attainment import BillUnit, attainment_figure
from ..figures.bill import bill_figure
from ..figures.differences import differences_figure
from ..figures.evaluation_rows import ALL, bill_rows, difference_rows, frontier_rows, readings
from ..figures.thinning import stretch_s, thinned
from ..figures.timeline import timeline_figure
from .evaluation_tables import knobs_table, policies_table, scenarios_table
from .headlines import featured, headlines
from .shell import ASSETS, environment, page, slot

Record = Mapping[str, Any]
MOST_VALUES: Final = 500_000
"""Of all timelines together: about 1 MB of the page."""
MOST_POINTS, LEAST_POINTS = 720, 60
"""Of a series."""
MOST_RUNS: Final = 40_000
"""That a page lists one by one: about 1.5 MB of it. Of more, only those as shipped."""
_DIGITS: Final = 5


@dataclass(frozen=True)
class RecordedRun:
    """One run tick by tick."""

    suite: str
    scenario: str
    seed: int
    policy: str
    rows: Sequence[TimelineRow]


def evaluation_report(
    manifest: Record,
    summary: Record,
    rows: Sequence[Record],
    recorded: Sequence[RecordedRun] = (),
    notes: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page.

    Args:
        manifest: what was run (`manifest.json`).
        summary: both readings (`summary.json`).
        rows: one a run (`rows.parquet`).
        recorded: runs tick by tick, those of one scenario and seed together; as shipped.
        notes: by suite, what is to be said in words.
    """
    suites = list(summary["suites"])
    recorded, thin_s = _thin(recorded)
    body = environment().get_template("evaluation.html").render(
        manifest=manifest,
        summary=summary,
        suites=suites,
        scenarios=sum(len(own["scenarios"]) for own in summary["suites"].values()),
        featured={suite: featured(summary, suite) for suite in suites},
        headlines={suite: headlines(summary, suite) for suite in suites},
        notes=notes or {},
        policies={suite: policies_table(summary, suite) for suite in suites},
        by_scenario=scenarios_table(summary, run_link),
        knobs=knobs_table(manifest),
        readings=list(dict.fromkeys(reading for suite in suites for reading in readings(summary, suite))),
        recorded=recorded,
        thin_s=thin_s,
        slot=slot,
    )  # fmt: skip
    return page(
        "poolpilot evaluation",
        Markup(body),
        _figures(summary, rows, recorded),
        narrow=_differences(summary, narrow=True),
        lead=f"{len(manifest['policies'])} policies on the same worlds, bills compared with those of {summary['reference']}",
        data=_data(summary, rows, recorded),
        scripts=[(ASSETS / "evaluation.js").read_text(encoding="utf-8")],
        styles=[(ASSETS / "evaluation.css").read_text(encoding="utf-8")],
    )


def run_link(suite: str, scenario: str, policy: str, headroom: float) -> str:
    """Where a setting's runs are listed, on this page; of a whole suite where no scenario is named."""
    return "#runs/" + "/".join(quote(part, safe="") for part in (suite, scenario, policy, f"{headroom:g}"))


def _figures(summary: Record, rows: Sequence[Record], recorded: Sequence[RecordedRun]) -> dict[str, go.Figure]:
    """By key: what is shown, and of what; parts are joined by line feeds, which no name has."""
    found: dict[str, go.Figure] = {}
    by_suite: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        by_suite[row["suite"]].append(row)
    for suite, own in summary["suites"].items():
        for scenario in (ALL, *own["scenarios"]):
            points = frontier_rows(summary, suite, scenario, run_link)
            unit: BillUnit = "ratio" if scenario == ALL else "usd_per_hr"
            found[_key("frontier", suite, scenario)] = attainment_figure(points, "", unit=unit)
            found[_key("bill", suite, scenario)] = bill_figure(bill_rows(by_suite[suite], suite, scenario))
    found.update(_differences(summary, narrow=False))
    for run in recorded:
        found[_key("timeline", run.suite, run.scenario, str(run.seed), run.policy)] = timeline_figure(run.rows)
    return {key: figure for key, figure in found.items() if figure.data}


def _differences(summary: Record, narrow: bool) -> dict[str, go.Figure]:
    """Of the readings in which any is known."""
    return {
        _key("differences", suite, reading): differences_figure(rows, narrow=narrow)
        for suite in summary["suites"]
        for reading in readings(summary, suite)
        if (rows := difference_rows(summary, suite, reading))
    }


def _key(*parts: str) -> str:
    return "\n".join(parts)


def _thin(recorded: Sequence[RecordedRun]) -> tuple[list[RecordedRun], dict[tuple[str, str], float]]:
    """The runs with as many points as the page can carry, and the seconds between points by suite and scenario."""
    series = sum(len({(row["measure"], row["kind"], row["name"], row["pool"]) for row in run.rows}) for run in recorded)
    most = max(LEAST_POINTS, min(MOST_POINTS, MOST_VALUES // max(series, 1)))
    found = [
        RecordedRun(run.suite, run.scenario, run.seed, run.policy, _rounded(thinned(run.rows, most)))
        for run in recorded
    ]
    return found, {(run.suite, run.scenario): stretch_s(run.rows) for run in found}


def _rounded(rows: Sequence[TimelineRow]) -> list[TimelineRow]:
    return [{**row, "value": None if row["value"] is None else float(f"{row['value']:.{_DIGITS}g}")} for row in rows]


def _data(summary: Record, rows: Sequence[Record], recorded: Sequence[RecordedRun]) -> dict[str, Any]:
    """What the page's script chooses from: names, and every run in short."""
    listed = rows if len(rows) <= MOST_RUNS else [row for row in rows if row["headroom"] == 1.0]
    names = {
        column: list(dict.fromkeys(str(row[column]) for row in rows)) for column in ("suite", "scenario", "policy")
    }
    place = {column: {name: i for i, name in enumerate(own)} for column, own in names.items()}
    return {
        "suites": {suite: own["scenarios"] for suite, own in summary["suites"].items()},
        "readings": {suite: readings(summary, suite) for suite in summary["suites"]},
        "timelines": [[run.suite, run.scenario, run.seed, run.policy] for run in recorded],
        "names": names,
        "runs": [
            [
                *(place[column][str(row[column])] for column in ("suite", "scenario", "policy")),
                row["headroom"],
                row["seed"],
                _short(row["usd_per_hr"]),
                _short(row["above_bound_frac"]),
                ", ".join(_class_met(own) for own in row["classes"]),
                row["lost"],
                row["replica_changes"],
                sum(row["vetoes"].values()),
            ]
            for row in listed[:MOST_RUNS]
        ],
    }


def _class_met(own: Record) -> str:
    met = "–" if own["attainment"] is None else f"{own['attainment'] * 100:.2f}"
    return f"{own['name']} {met} ({own['wanted'] * 100:g})"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
