"""Dollars saved so far, with the interval that they have by then.

Pure: plain rows in, a Plotly figure out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypedDict

import plotly.graph_objects as go

from .palette import THEMES, ThemeName, dressed, plain


class SavingRow(TypedDict):
    """What was saved up to a moment."""

    time_s: float
    """Since 1970."""
    usd: float
    low: float | None
    """End of the 95 % interval; None: not known."""
    high: float | None


def savings_figure(rows: Sequence[SavingRow], against: str, theme: ThemeName = "light") -> go.Figure:
    """A line over time, zero drawn; its interval as an area, where it is known."""
    own = THEMES[theme]
    figure = go.Figure()
    times = [datetime.fromtimestamp(row["time_s"], UTC).strftime("%Y-%m-%d %H:%M:%S") for row in rows]
    if any(row["low"] is not None for row in rows):
        figure.add_trace(
            go.Scatter(
                x=[*times, *times[::-1]],
                y=[*(row["high"] for row in rows), *(row["low"] for row in reversed(rows))],
                fill="toself",
                fillcolor=own.colours[5],
                opacity=0.35,
                line={"width": 0},
                name="95 % interval",
                hoverinfo="skip",
                mode="lines",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=times,
            y=[row["usd"] for row in rows],
            customdata=[_ends(row) for row in rows],
            mode="lines",
            name=f"saved against {plain(against)}",
            line={"color": own.colours[0], "width": 2},
            hovertemplate="%{y:.4~f} $%{customdata}<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"color": own.zero, "width": 1.5})
    dressed(figure, theme)
    figure.update_xaxes(title={"text": "Time (UTC)"})
    figure.update_yaxes(title={"text": "Saved so far ($)"}, zeroline=False)
    figure.update_layout(height=320, hovermode="x unified")
    return figure


def _ends(row: SavingRow) -> str:
    low, high = row["low"], row["high"]
    return "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
