"""An audit as one self-contained HTML page. Pure: the document and its curves in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from markupsafe import Markup

from ..dashboard.figures.bill import BillRow, bill_figure, layers_of
from ..dashboard.figures.differences import DifferenceRow, differences_figure
from ..dashboard.figures.timeline import timeline_figure
from ..dashboard.report.shell import environment, page, slot
from ..env.timeline import TimelineRow
from .headline import headlines, lasting
from .wording import figure_name, figure_value

TEMPLATES: Final = Path(__file__).with_name("templates")
STYLE: Final = ".lead { overflow-wrap: anywhere; }\ntd.words { min-width: 15ch; }\n"
"""A source may have a long name."""
TITLE: Final = "Audit of an LLM fleet"
AS_MEASURED: Final = "as measured"
MOST_BESIDE: Final = 3
"""Classes whose differences stand side by side."""


def page_of(document: Mapping[str, Any], timeline: Sequence[TimelineRow], began_at_s: float | None) -> str:
    """The page of `document.document_of`, with the curves of `curves.timeline_of`."""
    figures: dict[str, go.Figure] = {
        "bill": bill_figure(bills_of(document)),
        "pools": bill_figure(pools_of(document)),
        "timeline": timeline_figure(timeline, started_at_s=began_at_s),
    }
    narrow: dict[str, go.Figure] = {}
    instead = document["instead"]
    best = None
    if instead is not None:
        differences = differences_of(document)
        figures["differences"] = differences_figure(differences, narrow=len(document["classes"]) > MOST_BESIDE)
        narrow["differences"] = differences_figure(differences, narrow=True)
        best = next(option for option in instead["options"] if option["name"] == instead["best"])
    body = (
        environment(TEMPLATES)
        .get_template("audit.html")
        .render(
            found=document,
            best=best,
            headlines=headlines(document),
            lasting=lasting(document["duration_s"]),
            slot=slot,
            figure_name=figure_name,
            figure_value=figure_value,
        )
    )
    began = document["began_at"]
    when = f", from {datetime.fromisoformat(began):%Y-%m-%d %H:%M} UTC" if began else ""
    lead = f"{document['source']}: {lasting(document['duration_s'])}{when}"
    return page(TITLE, Markup(body), figures, narrow=narrow, lead=lead, styles=[STYLE])


def bills_of(document: Mapping[str, Any]) -> list[BillRow]:
    """A bar for what was measured and one for each option, by layer, in dollars an hour."""
    per_hr = 3600.0 / document["duration_s"]
    spent = document["spent"]
    idle = {f"idle_{part}": usd * per_hr for part, usd in spent["usd_idle_by_part"].items()}
    rows = layers_of(AS_MEASURED, {**_scaled(spent["usd_by_layer"], per_hr), **idle})
    for option in document["instead"]["options"] if document["instead"] else ():
        parts = {f"idle_{part}": usd * per_hr for part, usd in option["usd_idle_by_part"].items()}
        rows += layers_of(option["name"], {**_scaled(option["usd_by_layer"], per_hr), **parts})
    return rows


def pools_of(document: Mapping[str, Any]) -> list[BillRow]:
    """A bar for each pool as it was measured."""
    per_hr = 3600.0 / document["duration_s"]
    return [
        row for name, own in document["pools"].items() for row in layers_of(name, _scaled(own["usd_by_layer"], per_hr))
    ]


def differences_of(document: Mapping[str, Any]) -> list[DifferenceRow]:
    """Bill and attainment of each option against the fleet's own steps."""
    instead = document["instead"]
    own = instead["as_it_was"]
    rows: list[DifferenceRow] = []
    for option in instead["options"]:
        ends = {end: None if value is None else 100.0 * (value - 1.0) for end, value in option["ratio"].items()}
        rows.append(_row("Bill", "%", option["name"], own["name"], ends))
    for name in document["classes"]:
        base = own["attainment"][name]["mean"]
        for option in instead["options"]:
            reached = option["attainment"][name]
            if base is None or reached["mean"] is None:
                continue
            ends = {end: None if value is None else 100.0 * (value - base) for end, value in reached.items()}
            rows.append(_row(f"Attainment of {name}", "points", option["name"], own["name"], ends))
    return rows


def _row(measure: str, unit: str, series: str, against: str, ends: Mapping[str, float | None]) -> DifferenceRow:
    return {
        "measure": measure,
        "unit": unit,
        "series": series,
        "against": against,
        "mean": float(ends["mean"] or 0.0),
        "low": ends["low"],
        "high": ends["high"],
    }


def _scaled(usd: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in usd.items()}
