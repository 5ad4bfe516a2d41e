"""Savings over time: what is drawn is what was saved, with its interval where it is known."""

import pytest

from poolpilot.dashboard.figures.palette import DARK, LIGHT
from poolpilot.dashboard.figures.savings import ALL, SavingRow, savings_figure


def rows(known: bool = True) -> list[SavingRow]:
    whole: list[SavingRow] = [
        {
            "series": ALL, "time_s": 3600.0 + 5.0 * i, "usd": 0.1 * i, "low": 0.1 * i - 0.05 if known else None,
            "high": 0.1 * i + 0.05 if known else None,
        }
        for i in range(4)
    ]  # fmt: skip
    idle: list[SavingRow] = [
        {**row, "series": "idle", "usd": row["usd"] / 2, "low": None, "high": None} for row in whole
    ]
    return [*whole, *idle]


def test_lines_hold_what_was_saved_at_its_time() -> None:
    figure = savings_figure(rows(), "plan-tracking")
    whole = next(trace for trace in figure.data if trace.name == "all layers, against plan-tracking")
    idle = next(trace for trace in figure.data if trace.name == "idle")
    assert list(whole.y) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert list(idle.y) == pytest.approx([0.0, 0.05, 0.1, 0.15])
    assert whole.x[1] == "1970-01-01 01:00:05"
    assert whole.line.width > idle.line.width
    assert figure.layout.yaxis.title.text == "Saved so far ($)"
    assert figure.layout.xaxis.title.text == "Time (UTC)"


def test_the_interval_is_an_area_around_the_line() -> None:
    band = savings_figure(rows(), "plan-tracking").data[0]
    assert band.name == "95 % interval"
    assert list(band.y[:4]) == pytest.approx([0.05, 0.15, 0.25, 0.35])
    assert list(band.y[4:]) == pytest.approx([0.25, 0.15, 0.05, -0.05])


def test_an_interval_that_is_not_known_is_not_drawn() -> None:
    names = [trace.name for trace in savings_figure(rows(known=False), "plan-tracking").data]
    assert names == ["all layers, against plan-tracking", "idle"]


def test_no_rows_are_an_empty_figure() -> None:
    assert all(not trace.x for trace in savings_figure([], "plan-tracking").data)


def test_names_are_no_markup_and_themes_differ_in_colour() -> None:
    figure = savings_figure(rows(), "<b>x</b>")
    assert figure.data[1].name.endswith("&lt;b&gt;x&lt;/b&gt;")
    assert figure.layout.paper_bgcolor == LIGHT.paper
    assert savings_figure(rows(), "x", "dark").layout.paper_bgcolor == DARK.paper
