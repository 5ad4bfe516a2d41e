"""What policies cost against what they hold: a panel for each suite, a line for each policy's frontier.

Pure: plain rows in, a Plotly figure out; lines are told apart as in `palette`.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .attainment_rows import TICKS, AttainmentRow
from .palette import COLOURS, DASHES, MARKERS, missed, plain, style_of


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
    colour, marker, dash = style_of(place)
    return go.Scatter(
        x=[missed(row["attainment"]) for row in rows],
        y=[row["bill_ratio"] for row in rows],
        customdata=[[f"{row['attainment'] * 100:.2f}", f"{row['headroom']:g}"] for row in rows],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=first,
        line={"color": COLOURS[colour], "dash": DASHES[dash], "width": 2},
        marker={
            "symbol": MARKERS[marker],
            "size": [13 if row["headroom"] == 1.0 else 8 for row in rows],
            "color": COLOURS[colour],
        },
        hovertemplate=(
            "%{customdata[0]} % within target, head-room x %{customdata[1]}<br>%{y:.3f} of the reference's bill"
            "<extra>%{fullData.name}</extra>"
        ),
    )
