"""How series are told apart: by colour, marker and dash, each enough by itself.

Colours are Okabe and Ito's, told apart by every common kind of colour blindness.
"""

from __future__ import annotations

from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), "Color Universal Design"."""
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "dash")


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
