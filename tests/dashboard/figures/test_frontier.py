"""The frontier's figure says what its rows say, and its page needs nothing from outside."""

from __future__ import annotations

import pytest

pytest.importorskip("plotly", reason="figures need the extra poolpilot[figures]")

from poolpilot.dashboard.figures.frontier import FrontierRow, frontier_figure
from poolpilot.dashboard.figures.palette import COLOURS, DASHES, MARKERS


def a_row(series: str, attainment: float, usd: float | None, fleet: str = "2 x l40s", note: str = "") -> FrontierRow:
    return {"series": series, "attainment": attainment, "usd_per_hr": usd, "fleet": fleet, "note": note}


ROWS = [
    a_row("plan", 0.99, 6.0),
    a_row("plan", 0.9, 4.0, fleet="1 x l40s"),
    a_row("plan", 0.999, None, fleet="", note="chat: nothing serves it"),
    a_row("A100 alone", 0.9, 7.0),
    a_row("A100 alone", 0.99, 7.0),
]


def test_each_fleet_is_a_line_of_its_rows_in_the_order_of_attainment() -> None:
    plan, missing, alone = frontier_figure(ROWS, "title").data
    assert (plan.name, alone.name) == ("plan", "A100 alone")
    assert list(plan.x) == pytest.approx([0.1, 0.01])  # what may be missed
    assert list(plan.y) == [4.0, 6.0]
    assert [list(row) for row in plan.customdata] == [["90", "1 x l40s"], ["99", "2 x l40s"]]
    assert list(alone.y) == [7.0, 7.0]
    assert list(missing.x) == pytest.approx([0.001])
    assert missing.mode == "markers"
    assert missing.customdata[0][1] == "chat: nothing serves it"


def test_axes_name_their_units_and_attainments() -> None:
    layout = frontier_figure(ROWS, "title").layout
    assert layout.yaxis.title.text == "Rent of the plan ($/h)"
    assert layout.xaxis.title.text.endswith("within their targets (%)")
    assert (layout.xaxis.type, layout.xaxis.autorange) == ("log", "reversed")
    assert dict(zip(layout.xaxis.ticktext, layout.xaxis.tickvals, strict=True)) == pytest.approx(
        {"90": 0.1, "99": 0.01, "99.9": 0.001}
    )


def test_lines_differ_in_more_than_colour() -> None:
    lines = [
        row
        for i in range(len(COLOURS))
        for row in (a_row(f"fleet {i}", 0.9, 1.0 + i), a_row(f"fleet {i}", 0.99, 2.0 + i))
    ]
    data = frontier_figure(lines, "title").data
    assert [trace.line.color for trace in data] == list(COLOURS)
    assert [trace.line.dash for trace in data] == list(DASHES)
    assert [trace.marker.symbol for trace in data] == list(MARKERS)
    assert len(set(COLOURS)) == len(set(MARKERS)) == len(COLOURS)


def test_a_lone_attainment_of_one_can_be_drawn() -> None:
    (trace,) = frontier_figure([a_row("plan", 1.0, 3.0)], "title").data
    assert trace.x[0] > 0


def test_names_are_text_and_no_markup() -> None:
    figure = frontier_figure(
        [a_row("<b>x</b>", 0.9, 1.0, fleet="<a href='http://x'>y</a>")], "<script>alert(1)</script>"
    )
    assert figure.data[0].name == "&lt;b&gt;x&lt;/b&gt;"
    assert figure.data[0].customdata[0][1].startswith("&lt;a href")
    assert figure.layout.title.text == "&lt;script&gt;alert(1)&lt;/script&gt;"
