"""How series are told apart, and how figures look by day and by night.

Series are told apart by colour, marker and dash, areas by colour and pattern, each enough by itself. Colours are Okabe
and Ito's, told apart by every common kind of colour blindness; by night the same hues, lighter.

A figure takes a theme. Light and dark differ in colours alone, one for one (`DARK_OF`): a page that follows its reader's
setting needs no second figure, it swaps them (`report.shell`).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from html import escape
from typing import Final, Literal

import plotly.graph_objects as go

ThemeName = Literal["light", "dark"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), "Color Universal Design"."""
_COLOURS_BY_NIGHT = ("#3F97E0", "#FF7F33", "#1FC296", "#E69AC4", "#FFC24D", "#A8DDFF", "#F4F4F4")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "dash")
PATTERNS = ("", "/", "x", ".", "\\", "-", "+", "|")
"""Of areas and bars."""
CONFIG: Final = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,  # by default a button uploads the figure to Plotly's own server
    "plotlyServerURL": "",
    "modeBarButtons": [["toImage", "resetScale2d"]],
}
"""How figures behave in a page, for `Plotly.react` and for Dash's `config` alike."""
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Theme:
    """The colours of a figure. No two of one theme are the same, so that each has one counterpart."""

    paper: str
    ink: str
    muted: str
    """Of words beside the matter."""
    grid: str
    zero: str
    """Of lines that values are compared with."""
    colours: tuple[str, ...] = COLOURS


LIGHT: Final = Theme(paper="#ffffff", ink="#1f2328", muted="#59636e", grid="#e6e9ed", zero="#aab2bb")
DARK: Final = Theme("#151a20", "#e6eaef", "#9aa5b1", "#2b333d", "#5c6773", _COLOURS_BY_NIGHT)
THEMES: Final = {"light": LIGHT, "dark": DARK}
DARK_OF: Final = dict(
    zip(
        (*astuple(LIGHT)[:-1], *LIGHT.colours),
        (*astuple(DARK)[:-1], *DARK.colours),
        strict=True,
    )
)
"""Every colour of a light figure, and the one that a dark figure has in its place."""


def style_of(place: int) -> tuple[int, int, int]:
    """Places in `COLOURS`, `MARKERS` and `DASHES` for the series at a place; no two of the first 49 have the same."""
    shifted = place + place // len(COLOURS)
    return place % len(COLOURS), shifted % len(MARKERS), shifted % len(DASHES)


def missed(attainment: float) -> float:
    """What may be missed; an attainment of 1 is drawn as a tenth of a thousandth."""
    return max(1.0 - attainment, 1e-4)


def plain(text: str) -> str:
    """Text that Plotly shows as it stands: it takes a few HTML tags as such."""
    return escape(text, quote=False)


def dressed(figure: go.Figure, theme: ThemeName, title: str = "") -> go.Figure:
    """The figure in a theme's colours, with its legend above it; changed in place and handed back."""
    own = THEMES[theme]
    axis = {
        "gridcolor": own.grid,
        "linecolor": own.zero,
        "zerolinecolor": own.zero,
        "tickcolor": own.zero,
        "tickfont": {"color": own.muted},
        "title": {"font": {"size": 13}, "standoff": 8},  # without a distance of its own a title lies on wide labels
        "automargin": True,
    }
    figure.update_layout(
        template=go.layout.Template(),
        font={"family": FONT, "size": 13, "color": own.ink},
        paper_bgcolor=own.paper,
        plot_bgcolor=own.paper,
        margin={"l": 8, "r": 36, "t": 48 if title else 24, "b": 8},
        modebar={"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": own.zero, "activecolor": own.muted},
        hoverlabel={"bgcolor": own.paper, "bordercolor": own.zero, "font": {"color": own.ink}},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    )
    if title:
        figure.update_layout(title={"text": plain(title), "x": 0, "xref": "paper", "font": {"size": 16}})
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure
