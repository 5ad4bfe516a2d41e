"""Paired differences with their intervals: a line for each policy, from what it is compared with.

Pure: plain rows in, a Plotly figure out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .palette import COLOURS, MARKERS, THEMES, ThemeName, dressed, plain

_LINE_PX: Final = 34
_HEAD_PX: Final = 120


class DifferenceRow(TypedDict):
    """One comparison: how much more a policy has of something than what it is compared with."""

    measure: str
    """For people, of the panel: "Bill", "Shortfall"; panels stand beside one another."""
    unit: str
    """"%" or "points"."""
    series: str
    """Who is compared."""
    against: str
    """With whom."""
    mean: float
    low: float | None
    """End of the 95 % interval; None: not known."""
    high: float | None


def differences_figure(
    rows: Sequence[DifferenceRow], theme: ThemeName = "light", title: str = "", narrow: bool = False
) -> go.Figure:
    """A panel for each measure, side by side (`narrow`: one above the other), with a common list of who is compared.

    Zero is no difference. Intervals that leave zero out are drawn full, others hollow.
    """
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    names = list(dict.fromkeys(row["series"] for row in rows))
    panels, count = max(len(measures), 1), max(len(names), 1)
    height = _HEAD_PX + _LINE_PX * count
    figure = make_subplots(
        rows=panels if narrow else 1,
        cols=1 if narrow else panels,
        shared_yaxes=not narrow,
        horizontal_spacing=0.04,
        vertical_spacing=_HEAD_PX / (panels * height) if narrow else None,
        subplot_titles=[plain(measure) for measure in measures],
    )
    own = THEMES[theme]
    for place, measure in enumerate(measures):
        panel = [row for row in rows if row["measure"] == measure]
        where = {"row": place + 1, "col": 1} if narrow else {"row": 1, "col": place + 1}
        figure.add_trace(_points(panel, place, theme), **where)
        figure.add_vline(x=0, line={"color": own.zero, "width": 1.5}, **where)
        figure.update_xaxes(title={"text": f"Difference ({plain(panel[0]['unit'])})"}, **where)
    dressed(figure, theme, title)
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(
        type="category", categoryarray=[plain(n) for n in names], categoryorder="array", autorange="reversed"
    )
    figure.update_annotations(font={"size": 13, "color": own.muted})
    figure.update_layout(showlegend=False, height=height * (panels if narrow else 1))
    return figure


def _points(rows: Sequence[DifferenceRow], place: int, theme: ThemeName) -> go.Scatter:
    colour = THEMES[theme].colours[place % len(COLOURS)]
    shape = MARKERS[place % len(MARKERS)]
    return go.Scatter(
        x=[row["mean"] for row in rows],
        y=[plain(row["series"]) for row in rows],
        customdata=[[_interval(row), plain(row["against"])] for row in rows],
        mode="markers",
        marker={"symbol": [shape if _clear(row) else f"{shape}-open" for row in rows], "size": 10, "color": colour},
        error_x={
            "type": "data",
            "array": [0.0 if row["high"] is None else row["high"] - row["mean"] for row in rows],
            "arrayminus": [0.0 if row["low"] is None else row["mean"] - row["low"] for row in rows],
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        },
        hovertemplate="%{y} against %{customdata[1]}<br>%{customdata[0]}<extra></extra>",
        showlegend=False,
    )


def _interval(row: DifferenceRow) -> str:
    ends = (
        "interval not known"
        if row["low"] is None or row["high"] is None
        else f"[{row['low']:+.2f}, {row['high']:+.2f}]"
    )
    return f"{row['mean']:+.2f} {plain(row['unit'])} {ends}"


def _clear(row: DifferenceRow) -> bool:
    """Whether the interval leaves zero out."""
    return row["low"] is not None and row["high"] is not None and (row["low"] > 0.0 or row["high"] < 0.0)
