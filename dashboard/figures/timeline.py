"""A run over time: a panel for each measure under one clock, a colour for each class and pool in all of them.

Pure: the rows of `env.timeline` in, a Plotly figure out. It is the same figure for a simulated run and a live cluster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ...env.timeline import WHOLE, TimelineRow
from .palette import MARKERS, THEMES, ThemeName, dressed, plain, style_of

PANEL_PX: Final = 168
"""Height of one panel."""
_HEAD_PX: Final = 96
_PERCENT: Final = 100.0
_MARKERS_SHOWN: Final = 9
"""Of each line: enough to tell it apart, whatever one sees of its colour."""
ALL_POOLS: Final = "all pools"
"""What the whole is called."""


@dataclass(frozen=True)
class Drawn:
    """How a measure is drawn in a panel."""

    measure: str
    dash: str = "solid"
    said: str = ""
    """After the series' name where the mouse is."""
    steps: bool = False
    """It jumps, and holds in between."""


@dataclass(frozen=True)
class Panel:
    """One panel: what is drawn together because it has one unit."""

    title: str
    unit: str
    drawn: tuple[Drawn, ...]
    factor: float = 1.0
    """From a row's unit to the axis's."""
    beside: str = ""
    """After the title where more than the first of `drawn` is there."""
    share: bool = False
    """The axis goes from 0 to 100 %."""


PANELS: Final = (
    Panel(
        "Load",
        "requests/s",
        (Drawn("rate_per_s"), Drawn("forecast_per_s", "dot", "forecast")),
        beside=", and its forecast of five minutes before (dots)",
    ),
    Panel(
        "Replicas ready",
        "replicas",
        (Drawn("replicas", steps=True), Drawn("replicas_target", "dot", "wanted", steps=True)),
        beside=", and wanted (dots)",
    ),
    Panel("Batch caps", "sequences", (Drawn("batch_cap", steps=True),)),
    Panel("Queue in the engines", "requests", (Drawn("queue"),)),
    Panel("KV cache in use", "%", (Drawn("kv_use"),), _PERCENT, share=True),
    Panel("Hottest GPU", "°C", (Drawn("temperature_c"),)),
    Panel("Cost rate", "$/h", (Drawn("usd_per_hr"),)),
    Panel("Within targets, last minute", "%", (Drawn("attainment"),), _PERCENT, share=True),
)
"""In the order of the page; weights have a panel for each class, after the replicas."""
_WEIGHTS_AFTER: Final = "replicas"
Series = tuple[str, str]
"""Kind and name."""


def timeline_figure(
    rows: Sequence[TimelineRow], theme: ThemeName = "light", title: str = "", started_at_s: float | None = None
) -> go.Figure:
    """All panels that the rows have something for, one above the other.

    Args:
        rows: of one run, in any order.
        theme: whose colours.
        title: above all, if any.
        started_at_s: the clock's zero in seconds since 1970, for an axis of dates (UTC); else the axis counts from zero.
    """
    panels = _panels(rows)
    figure = make_subplots(
        rows=max(len(panels), 1), cols=1, shared_xaxes=True, vertical_spacing=_spacing(len(panels)),
        subplot_titles=[_title(panel, own) for panel, own in panels],
    )  # fmt: skip
    clock = _Clock.of(rows, started_at_s)
    places = _places(rows)
    shown: set[Series] = set()
    for at, (panel, own) in enumerate(panels, start=1):
        for trace in _traces(panel, own, clock, places, theme, shown):
            figure.add_trace(trace, row=at, col=1)
        figure.update_yaxes(title={"text": panel.unit}, rangemode="tozero", row=at, col=1)
        if panel.share:
            figure.update_yaxes(range=[0, 104], row=at, col=1)
    dressed(figure, theme, title)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13, "color": THEMES[theme].muted})
    figure.update_xaxes(title={"text": clock.title}, row=max(len(panels), 1), col=1)
    figure.update_xaxes(showticklabels=True, range=clock.span(rows), tickformat=clock.tick_format)
    figure.update_layout(
        height=_HEAD_PX + PANEL_PX * max(len(panels), 1),
        hovermode="x unified",
        legend={"groupclick": "togglegroup", "y": 1.0 + 40 / (PANEL_PX * max(len(panels), 1))},
    )
    return figure


def _panels(rows: Sequence[TimelineRow]) -> list[tuple[Panel, list[TimelineRow]]]:
    """Those with rows, and their rows."""
    by_measure: dict[str, list[TimelineRow]] = defaultdict(list)
    for row in rows:
        by_measure[row["measure"]].append(row)
    found = []
    for panel in PANELS:
        own = [row for drawn in panel.drawn for row in by_measure[drawn.measure]]
        if any(row["value"] is not None for row in own):
            found.append((panel, own))
        if panel.drawn[0].measure == _WEIGHTS_AFTER:
            found += _weights(by_measure["weight"])
    return found


def _title(panel: Panel, rows: Sequence[TimelineRow]) -> str:
    """With what is drawn beside the first measure, if that is known at all."""
    more = {drawn.measure for drawn in panel.drawn[1:]}
    return panel.title + (panel.beside if any(r["measure"] in more and r["value"] is not None for r in rows) else "")


def _weights(rows: Sequence[TimelineRow]) -> list[tuple[Panel, list[TimelineRow]]]:
    """A panel for each class, its pools stacked."""
    return [
        (
            Panel(f"Weights of {plain(name)}, by pool", "%", (Drawn("weight", steps=True),), _PERCENT, share=True),
            [row for row in rows if row["name"] == name],
        )
        for name in dict.fromkeys(row["name"] for row in rows)
    ]


def _traces(
    panel: Panel, rows: Sequence[TimelineRow], clock: _Clock, places: dict[Series, int], theme: ThemeName, shown: set[Series]
) -> Iterable[go.Scatter]:  # fmt: skip
    """One a series and measure; a series is in the legend once."""
    for drawn in panel.drawn:
        by_series: dict[Series, list[TimelineRow]] = defaultdict(list)
        for row in rows:
            if row["measure"] == drawn.measure:
                by_series[_series(row)].append(row)
        for series, own in by_series.items():
            own.sort(key=lambda row: row["time_s"])
            colour, marker, _ = style_of(places[series])
            name = ALL_POOLS if series[1] == WHOLE else plain(series[1])
            yield go.Scatter(
                x=[clock.at(row["time_s"]) for row in own],
                y=[None if row["value"] is None else row["value"] * panel.factor for row in own],
                name=f"{name}, {drawn.said}" if drawn.said else name,
                mode="lines" if drawn.said else "lines+markers",
                marker={"symbol": MARKERS[marker], "size": 7, "maxdisplayed": _MARKERS_SHOWN},
                line={
                    "color": THEMES[theme].colours[colour],
                    "dash": drawn.dash,
                    "width": 1.5,
                    "shape": "hv" if drawn.steps else "linear",
                },
                legendgroup=f"{series[0]} {name}",
                showlegend=series not in shown and not drawn.said,
                hovertemplate=f"%{{y:.4~g}} {panel.unit}",
                connectgaps=False,
                **({"stackgroup": "weights"} if drawn.measure == "weight" else {}),
            )
            if not drawn.said:
                shown.add(series)


def _series(row: TimelineRow) -> Series:
    """Weights have their pool's colour."""
    return ("pool", row["pool"]) if row["pool"] else (row["kind"], row["name"])


def _places(rows: Sequence[TimelineRow]) -> dict[Series, int]:
    """Classes first, then pools, then the whole; the same for any order of the rows of one kind."""
    every = dict.fromkeys(_series(row) for row in rows)
    return {series: i for i, series in enumerate(sorted(every, key=lambda s: ("class", "pool", "whole").index(s[0])))}


def _spacing(panels: int) -> float:
    """Room between panels, of the whole, for a title and the clock."""
    return 0.0 if panels < 2 else min(0.3 / panels, 1.0 / (panels - 1))


@dataclass(frozen=True)
class _Clock:
    """Seconds as the axis shows them."""

    title: str
    unit_s: float
    started_at_s: float | None
    tick_format: str | None = None
    """Of dates: one line each, or a panel's title lies on the second."""

    @classmethod
    def of(cls, rows: Sequence[TimelineRow], started_at_s: float | None) -> _Clock:
        if started_at_s is not None:
            times = [row["time_s"] for row in rows] or [0.0]
            first, last = (datetime.fromtimestamp(started_at_s + end(times), UTC) for end in (min, max))
            one_day = first.date() == last.date()
            return cls("Time (UTC)", 1.0, started_at_s, "%H:%M" if one_day else "%d %b %H:%M")
        long = max((row["time_s"] for row in rows), default=0.0) > 3 * 3600.0
        return cls("Time since the start (h)", 3600.0, None) if long else cls("Time since the start (min)", 60.0, None)

    def span(self, rows: Sequence[TimelineRow]) -> list[Any] | None:
        """The axis from the first row to the last."""
        times = [row["time_s"] for row in rows]
        return [self.at(min(times)), self.at(max(times))] if times else None

    def at(self, time_s: float) -> Any:
        if self.started_at_s is None:
            return round(time_s / self.unit_s, 4)
        return datetime.fromtimestamp(self.started_at_s + time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
