"""Dollars saved so far, in all with their interval, and by layer of the bill.

Pure: plain rows in, a Plotly figure out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypedDict

import plotly.graph_objects as go

from .palette import DASHES, THEMES, ThemeName, dressed, plain, style_of

ALL: Final = "all layers"
"""The series of all layers together."""
_PX: Final = 340


class SavingRow(TypedDict):
    """What was saved up to a moment."""

    series: str
    """`ALL`, or a layer."""
    time_s: float
    """Since 1970."""
    usd: float
    low: float | None
    """End of the 95 % interval; None: not known."""
    high: float | None


def savings_figure(rows: Sequence[SavingRow], against: str, theme: ThemeName = "light") -> go.Figure:
    """A line over time for each series, zero drawn; the interval of all together as an area, where it is known."""
    own = THEMES[theme]
    figure = go.Figure()
    whole = [row for row in rows if row["series"] == ALL]
    banded = [row for row in whole if row["low"] is not None and row["high"] is not None]
    if banded:
        times = [_clock(row) for row in banded]
        figure.add_trace(
            go.Scatter(
                x=[*times, *times[::-1]],
                y=[*(row["high"] for row in banded), *(row["low"] for row in reversed(banded))],
                fill="toself",
                fillcolor=own.colours[5],
                opacity=0.35,
                line={"width": 0},
                name="95 % interval",
                hoverinfo="skip",
                mode="lines",
            )
        )
    for place, series in enumerate([ALL, *dict.fromkeys(row["series"] for row in rows if row["series"] != ALL)]):
        points = [row for row in rows if row["series"] == series]
        colour, _, dash = style_of(place)
        figure.add_trace(
            go.Scatter(
                x=[_clock(row) for row in points],
                y=[row["usd"] for row in points],
                customdata=[_ends(row) for row in points],
                mode="lines",
                name=plain(f"{series}, against {against}" if series == ALL else series),
                line={
                    "color": own.colours[colour],
                    "width": 2.5 if series == ALL else 1.2,
                    "dash": DASHES[dash],
                },
                hovertemplate="%{y:.4~f} $%{customdata}",
            )
        )
    figure.add_hline(y=0, line={"color": own.zero, "width": 1.5})
    dressed(figure, theme)
    figure.update_xaxes(title={"text": "Time (UTC)"})
    figure.update_yaxes(title={"text": "Saved so far ($)"}, zeroline=False)
    return figure.update_layout(height=_PX, hovermode="x unified")


def _clock(row: SavingRow) -> str:
    return datetime.fromtimestamp(row["time_s"], UTC).strftime("%Y-%m-%d %H:%M:%S")


def _ends(row: SavingRow) -> str:
    low, high = row["low"], row["high"]
    return "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
