"""Curves of training runs: a panel for each measure, a line for each run.

Pure: plain rows in, a Plotly figure out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .palette import DASHES, THEMES, ThemeName, dressed, plain, style_of

_PANEL_PX: Final = 190
_HEAD_PX: Final = 90


class CurveRow(TypedDict):
    """One point."""

    run: str
    tag: str
    """The measure, as TensorBoard names it."""
    step: int
    value: float


def training_figure(rows: Sequence[CurveRow], theme: ThemeName = "light") -> go.Figure:
    """Panels one above the other over the same steps of the environment."""
    tags = list(dict.fromkeys(row["tag"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = make_subplots(
        rows=max(len(tags), 1),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.0 if len(tags) < 2 else min(0.3 / len(tags), 1.0 / (len(tags) - 1)),
        subplot_titles=[plain(tag) for tag in tags],
    )
    own = THEMES[theme]
    shown: set[str] = set()
    for at, tag in enumerate(tags, start=1):
        for i, run in enumerate(runs):
            points = [row for row in rows if row["tag"] == tag and row["run"] == run]
            if not points:
                continue
            colour, _, dash = style_of(i)
            figure.add_trace(
                go.Scatter(
                    x=[row["step"] for row in points],
                    y=[row["value"] for row in points],
                    name=plain(run),
                    legendgroup=run,
                    showlegend=run not in shown,
                    mode="lines+markers" if len(points) < 30 else "lines",
                    marker={"size": 5},
                    line={"color": own.colours[colour], "dash": DASHES[dash], "width": 1.5},
                    hovertemplate="%{y:.4~g} at step %{x:,}<extra>%{fullData.name}</extra>",
                ),
                row=at,
                col=1,
            )
            shown.add(run)
    dressed(figure, theme)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13, "color": own.muted})
    figure.update_xaxes(showticklabels=True)
    figure.update_xaxes(title={"text": "Environment steps"}, row=max(len(tags), 1), col=1)
    for at, tag in enumerate(tags, start=1):
        figure.update_yaxes(title={"text": unit_of(tag)}, row=at, col=1)
    height = _HEAD_PX + _PANEL_PX * max(len(tags), 1)
    figure.update_layout(height=height, legend={"groupclick": "togglegroup", "y": 1.0 + 40 / height})
    return figure


def unit_of(tag: str) -> str:
    """The unit of a measure of ours, by its name."""
    for ending, unit in (
        ("bill_of_reference", "of the usual bill"),
        ("usd_per_hr", "$/h"),
        ("_frac", "share"),
        ("attainment", "share"),
        ("shortfall", "share"),
        ("ratio", "ratio"),
        ("_s", "s"),
        ("fps", "steps/s"),
        ("evaluation/loss", "criterion"),
    ):
        if tag.endswith(ending):
            return unit
    if tag.startswith("vetoes/"):
        return "per tick"
    return "reward" if tag.endswith(("rew_mean", "reward")) else "value"
