"""Themes differ in colours alone, one for one, and by night every series is still seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import pytest

from poolpilot.dashboard.figures.attainment import attainment_figure
from poolpilot.dashboard.figures.bill import bill_figure, layers_of
from poolpilot.dashboard.figures.differences import differences_figure
from poolpilot.dashboard.figures.frontier import frontier_figure
from poolpilot.dashboard.figures.palette import CONFIG, DARK, DARK_OF, LIGHT, THEMES, ThemeName
from poolpilot.dashboard.figures.timeline import timeline_figure

from .rows import a_difference, a_timeline, an_attainment

FIGURES: dict[str, Callable[[ThemeName], go.Figure]] = {
    "attainment": lambda theme: attainment_figure(
        [an_attainment("p", str(i), 1.0, 0.9, 1.0) for i in range(9)], "t", theme
    ),
    "bill": lambda theme: bill_figure(
        layers_of("x", {"compute": 1.0, "software": 2.0, "idle": 3.0, "energy": 1.0}), theme
    ),
    "differences": lambda theme: differences_figure([a_difference("a"), a_difference("b", measure="Shortfall")], theme),
    "frontier": lambda theme: frontier_figure(
        [{"series": "plan", "attainment": 0.9, "usd_per_hr": 1.0, "fleet": "", "note": ""}], "t", theme
    ),
    "timeline": lambda theme: timeline_figure(a_timeline(), theme, "t"),
}


def swapped(value: Any) -> Any:
    """As a page does it."""
    if isinstance(value, dict):
        return {key: swapped(own) for key, own in value.items()}
    if isinstance(value, list):
        return [swapped(own) for own in value]
    return DARK_OF.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", FIGURES)
def test_a_light_figure_with_its_colours_swapped_is_the_dark_one(name: str) -> None:
    light, dark = (json.loads(FIGURES[name](theme).to_json()) for theme in THEMES)
    assert light != dark
    assert swapped(light) == dark


def test_no_colour_has_two_counterparts() -> None:
    assert len(DARK_OF) == 5 + len(LIGHT.colours)
    assert len(set(DARK_OF.values())) == len(DARK_OF)


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_and_lines_stand_out_from_the_paper() -> None:
    for theme in (LIGHT, DARK):
        assert contrast(theme.ink, theme.paper) > 7.0
        assert contrast(theme.muted, theme.paper) > 4.5
    assert min(contrast(colour, DARK.paper) for colour in DARK.colours) > 4.5
    assert min(contrast(colour, LIGHT.paper) for colour in LIGHT.colours) > 2.0


def test_no_button_sends_a_figure_anywhere() -> None:
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["plotlyServerURL"] == ""
    assert CONFIG["displaylogo"] is False
