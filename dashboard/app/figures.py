"""The figures of the page by their keys: from ticks and runs to Plotly's JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import plotly.graph_objects as go

from ..figures.bill import bill_figure
from ..figures.savings import savings_figure
from ..figures.timeline import timeline_figure
from ..reading.history import Filter
from ..reading.savings import bars, saving_points, savings_of
from ..reading.ticks import SeenTick
from ..reading.timelines import FIGURES, timeline

TickFigure = Callable[[Sequence[SeenTick], Filter], go.Figure | None]
_TIMELINE_PX: Final = 260
_WEIGHTS_PX, _CLASS_PX = 80, 120
SAID: Final[Mapping[str, str]] = {
    "load": "Arrivals of each class (line), and what was forecast for that moment five minutes before (dots)",
    "attainment": "Share of each class's requests within their targets",
    "cost": "Dollars per hour of each pool, of the whole, and of the whole under the fallback rule",
    "replicas": "Replicas of each pool, ready (line) and wanted (dots)",
    "queue": "Requests that wait in the engines of each pool",
    "kv": "KV cache in use in each pool",
    "weights": "Where each class's requests go",
    "caps": "Largest batch of each pool's engines",
    "temperature": "Hottest GPU of each pool",
}
"""What each timeline shows, in words."""


def _timeline(key: str) -> TickFigure:
    def figure(ticks: Sequence[SeenTick], wanted: Filter) -> go.Figure | None:
        rows = timeline(ticks, key, wanted)
        if not any(row["value"] is not None for row in rows):
            return None
        return _in_a_card(timeline_figure(rows, started_at_s=0.0), key)

    return figure


def _in_a_card(figure: go.Figure, key: str) -> go.Figure:
    """One panel, or one a class, below a heading of the page: no title of its own, the clock once."""
    panels = len(list(figure.select_xaxes()))
    figure.update_xaxes(tickformat="%H:%M:%S", nticks=7, title={"font": {"size": 12}})
    figure.update_yaxes(title={"font": {"size": 12}}, nticks=5)
    figure.update_layout(uirevision=key, margin={"t": 8, "b": 4})
    if panels == 1:
        figure.layout.annotations = ()
        return figure.update_layout(height=_TIMELINE_PX, legend={"y": 1.04})
    figure.update_xaxes(showticklabels=False)
    figure.update_xaxes(showticklabels=True, row=panels, col=1)
    return figure.update_layout(height=_WEIGHTS_PX + _CLASS_PX * panels)


def _saved(ticks: Sequence[SeenTick], wanted: Filter) -> go.Figure | None:
    savings = savings_of(ticks, wanted)
    if savings is None:
        return None
    figure = savings_figure(saving_points(savings), savings.rule)
    figure.update_xaxes(tickformat="%H:%M:%S", nticks=10)
    return figure.update_layout(uirevision="saved", margin={"t": 8})


def _layers(ticks: Sequence[SeenTick], wanted: Filter) -> go.Figure | None:
    savings = savings_of(ticks, wanted)
    return None if savings is None else bill_figure(bars(savings))


OF_TICKS: Final[Mapping[str, TickFigure]] = {
    **{key: _timeline(key) for key in FIGURES},
    "saved": _saved,
    "layers": _layers,
}
"""All that are made of ticks."""
