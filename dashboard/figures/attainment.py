"""What policies cost against what they hold: a panel for each suite, a line for each policy's frontier.

Pure: plain rows in, a Plotly figure out; colours, markers and dashes as in `frontier`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .frontier import COLOURS, DASHES, MARKERS, missed, plain

__all__ = ["AttainmentRow", "attainment_figure", "rows_of_summary"]

BOUND = "clairvoyant bound"
"""The series of what no policy can undercut."""
TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)


class AttainmentRow(TypedDict):
    """One setting of one policy, over all scenarios of a suite."""

    panel: str
    """The suite."""
    series: str
    """The policy, or `BOUND`."""
    headroom: float
    """Factor on the policy's head-room; 1 is as shipped."""
    attainment: float
    """0..1"""
    bill_ratio: float
    """Bill over that of the reference as shipped."""


def rows_of_summary(document: Mapping[str, Any]) -> list[AttainmentRow]:
    """The rows of an evaluation's summary. The bound is that of what the reference met at each of its settings."""
    rows: list[AttainmentRow] = []
    for name, suite in document["suites"].items():
        for own in suite["frontier_means"]:
            at: dict[str, Any] = {"panel": name, "headroom": own["headroom"], "attainment": own["attainment"]}
            rows.append({**at, "series": own["policy"], "bill_ratio": own["bill_ratio"]})  # type: ignore[typeddict-item]
            if own["policy"] == document["reference"] and own["bound_ratio"] is not None:
                rows.append({**at, "series": BOUND, "bill_ratio": own["bound_ratio"]})  # type: ignore[typeddict-item]
    return rows


def attainment_figure(rows: Sequence[AttainmentRow], title: str = "Cost against attainment") -> go.Figure:
    """Bill over misses, a panel for each suite. The axis of attainment counts nines; what is shipped is drawn larger."""
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    names = list(dict.fromkeys(row["series"] for row in rows))
    figure = make_subplots(rows=1, cols=max(len(panels), 1), subplot_titles=[plain(panel) for panel in panels])
    for column, panel in enumerate(panels, start=1):
        for i, series in enumerate(names):
            own = [row for row in rows if (row["panel"], row["series"]) == (panel, series)]
            own.sort(key=lambda row: (row["headroom"], row["attainment"]))
            if own:
                first = not any(trace.name == plain(series) for trace in figure.data)
                figure.add_trace(_line(own, plain(series), i, first), row=1, col=column)
    figure.update_layout(
        title={"text": plain(title)}, template="plotly_white", font={"size": 14}, legend={"title": {"text": "Policy"}}
    )
    figure.update_xaxes(
        title={"text": "Worst class within its targets (%)"},
        type="log",
        autorange="reversed",
        tickvals=[missed(at) for at in TICKS],
        ticktext=[f"{at * 100:g}" for at in TICKS],
    )
    figure.update_yaxes(title={"text": "Bill / bill of the reference as shipped"}, rangemode="tozero")
    return figure


def _line(rows: Sequence[AttainmentRow], name: str, place: int, first: bool) -> go.Scatter:
    colour = COLOURS[place % len(COLOURS)]
    return go.Scatter(
        x=[missed(row["attainment"]) for row in rows],
        y=[row["bill_ratio"] for row in rows],
        customdata=[[f"{row['attainment'] * 100:.2f}", f"{row['headroom']:g}"] for row in rows],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=first,
        line={"color": colour, "dash": DASHES[place % len(DASHES)], "width": 2},
        marker={
            "symbol": MARKERS[place % len(MARKERS)],
            "size": [13 if row["headroom"] == 1.0 else 8 for row in rows],
            "color": colour,
        },
        hovertemplate=(
            "%{customdata[0]} % within target, head-room x %{customdata[1]}<br>%{y:.3f} of the reference's bill"
            "<extra>%{fullData.name}</extra>"
        ),
    )
