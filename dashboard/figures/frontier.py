"""The frontier of a plan's cost against the attainment that is wanted.

Pure: plain rows in, a Plotly figure out. Lines are told apart as in `palette`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import plotly.graph_objects as go

from .palette import DASHES, MARKERS, THEMES, ThemeName, dressed, missed, plain


class FrontierRow(TypedDict):
    """One point: what a fleet costs that is planned for an attainment."""

    series: str
    """`plan`, or whose fleet it is."""
    attainment: float
    """Wanted, 0..1."""
    usd_per_hr: float | None
    """None: nothing carries the load within its targets at this attainment."""
    fleet: str
    """For people: the replicas by pool."""
    note: str
    """Why there is none, or nothing."""


def frontier_figure(rows: Sequence[FrontierRow], title: str, theme: ThemeName = "light") -> go.Figure:
    """Dollars per hour over wanted attainment, a line for each series.

    The axis of attainment counts nines: it is linear in the logarithm of what may be missed, so that 99 % and 99.9 % are
    apart. Attainments without a fleet are crosses at the foot of the figure.
    """
    figure, colours = go.Figure(), THEMES[theme].colours
    for i, series in enumerate(dict.fromkeys(row["series"] for row in rows)):
        own = sorted((row for row in rows if row["series"] == series), key=lambda row: row["attainment"])
        colour = colours[i % len(colours)]
        known = [row for row in own if row["usd_per_hr"] is not None]
        figure.add_trace(
            go.Scatter(
                x=[missed(row["attainment"]) for row in known],
                y=[row["usd_per_hr"] for row in known],
                customdata=[[f"{row['attainment'] * 100:g}", plain(row["fleet"])] for row in known],
                mode="lines+markers",
                name=plain(series),
                line={"color": colour, "dash": DASHES[i % len(DASHES)], "shape": "linear", "width": 2},
                marker={"symbol": MARKERS[i % len(MARKERS)], "size": 9, "color": colour},
                hovertemplate="%{customdata[0]} % within target<br>%{y:.2f} $/h<br>%{customdata[1]}<extra>%{fullData.name}</extra>",
            )
        )
        missing = [row for row in own if row["usd_per_hr"] is None]
        if missing:
            figure.add_trace(
                go.Scatter(
                    x=[missed(row["attainment"]) for row in missing],
                    y=[0.0] * len(missing),
                    customdata=[[f"{row['attainment'] * 100:g}", plain(row["note"])] for row in missing],
                    mode="markers",
                    cliponaxis=False,
                    name=f"{plain(series)}: no fleet",
                    marker={"symbol": "x-open", "size": 10, "color": colour},
                    hovertemplate="%{customdata[0]} % within target: no fleet<br>%{customdata[1]}<extra></extra>",
                )
            )
    ticks = sorted({row["attainment"] for row in rows})
    dressed(figure, theme, title)
    figure.update_xaxes(
        title={"text": "Wanted: requests within their targets (%)"},
        type="log",
        autorange="reversed",
        tickvals=[missed(at) for at in ticks],
        ticktext=[f"{at * 100:g}" for at in ticks],
    )
    figure.update_yaxes(title={"text": "Rent of the plan ($/h)"}, rangemode="tozero")
    return figure
