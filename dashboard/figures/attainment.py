"""What policies cost against what they hold: a panel for each suite, a line for each policy's frontier.

Pure: plain rows in, a Plotly figure out; lines are told apart as in `palette`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .attainment_rows import BOUND, TICKS, AttainmentRow
from .palette import DASHES, MARKERS, THEMES, ThemeName, dressed, missed, plain, style_of

BillUnit = Literal["ratio", "usd_per_hr"]
_TITLES: Final = {"ratio": "Bill / bill of the reference as shipped", "usd_per_hr": "Bill ($/h)"}
_HOVER: Final = {"ratio": "%{y:.3f} of the reference's bill", "usd_per_hr": "%{y:.2f} $/h"}
_SHIPPED_PX, _SWEPT_PX = 13, 8


def attainment_figure(
    rows: Sequence[AttainmentRow],
    title: str = "Cost against attainment",
    theme: ThemeName = "light",
    unit: BillUnit = "ratio",
) -> go.Figure:
    """Bill over misses, a panel for each suite. The axis of attainment counts nines; what is shipped is drawn larger.

    Settings that another one beats in both are hollow, and no part of the line. A point's link is the last of its
    `customdata`.
    """
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    names = list(dict.fromkeys(row["series"] for row in rows))
    figure = make_subplots(rows=1, cols=max(len(panels), 1), subplot_titles=[plain(panel) for panel in panels])
    for column, panel in enumerate(panels, start=1):
        for i, series in enumerate(names):
            own = [row for row in rows if (row["panel"], row["series"]) == (panel, series)]
            own.sort(key=lambda row: (row["headroom"], row["attainment"]))
            first = not any(trace.name == plain(series) for trace in figure.data)
            for trace in _traces(own, plain(series), i, first, theme, unit):
                figure.add_trace(trace, row=1, col=column)
    dressed(figure, theme, title)
    figure.update_xaxes(
        title={"text": "Worst class within its targets (%)"},
        type="log",
        autorange="reversed",
        tickvals=[missed(at) for at in TICKS],
        ticktext=[f"{at * 100:g}" for at in TICKS],
    )
    figure.update_yaxes(title={"text": _TITLES[unit]}, rangemode="tozero")
    return figure


def _traces(
    rows: Sequence[AttainmentRow], name: str, place: int, first: bool, theme: ThemeName, unit: BillUnit
) -> Iterator[go.Scatter]:
    """The frontier of a series, and what lies beside it."""
    on = [row for row in rows if not row.get("dominated")]
    beside = [row for row in rows if row.get("dominated")]
    if name == BOUND:
        on.sort(key=lambda row: row["attainment"])
    if on:
        yield _points(on, name, place, theme, unit, line=True, legend=first)
    if beside:
        yield _points(beside, name, place, theme, unit, line=False, legend=first and not on)


def _points(
    rows: Sequence[AttainmentRow], name: str, place: int, theme: ThemeName, unit: BillUnit, line: bool, legend: bool
) -> go.Scatter:
    colour, marker, dash = style_of(place)
    own = THEMES[theme].colours[colour]
    return go.Scatter(
        x=[missed(row["attainment"]) for row in rows],
        y=[row["bill"] for row in rows],
        customdata=[[f"{row['attainment'] * 100:.2f}", f"{row['headroom']:g}", row.get("link", "")] for row in rows],
        mode="lines+markers" if line else "markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        line={"color": own, "dash": DASHES[dash], "width": 2},
        marker={
            "symbol": MARKERS[marker] if line else f"{MARKERS[marker]}-open",
            "size": [_SHIPPED_PX if row["headroom"] == 1.0 else _SWEPT_PX for row in rows],
            "color": own,
            "opacity": 1,
            "line": {"color": own if not line else THEMES[theme].paper, "width": 1.5 if not line else 1},
        },
        hovertemplate=(
            "%{customdata[0]} % within target, head-room x %{customdata[1]}<br>"
            f"{_HOVER[unit]}<extra>%{{fullData.name}}</extra>"
        ),
    )
