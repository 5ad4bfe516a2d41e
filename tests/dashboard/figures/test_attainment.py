"""Cost against attainment: a panel for each suite, nothing left out, nothing cut off."""

import pytest

from poolpilot.dashboard.figures.attainment import attainment_figure
from poolpilot.dashboard.figures.attainment_rows import BOUND, rows_of_summary
from poolpilot.dashboard.figures.palette import COLOURS, style_of

from .rows import an_attainment as a_row

ROWS = [
    a_row("traces", "rule", 1.0, 0.99, 1.0),
    a_row("traces", "rule", 0.8, 0.9, 0.8),
    a_row("traces", "agent", 1.0, 0.999, 0.9),
    a_row("unseen", "rule", 1.0, 1.0, 1.0),
    a_row("unseen", "agent", 1.0, 0.98, 0.95),
]


def test_every_policy_is_a_line_in_every_panel_and_once_in_the_legend() -> None:
    figure = attainment_figure(ROWS, "Cost <b>")
    assert [(trace.name, trace.xaxis) for trace in figure.data] == [
        ("rule", "x"),
        ("agent", "x"),
        ("rule", "x2"),
        ("agent", "x2"),
    ]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    rule = figure.data[0]
    assert list(rule.x) == pytest.approx([0.1, 0.01])
    assert list(rule.y) == [0.8, 1.0]
    assert list(rule.marker.size) == [8, 13], "what is shipped stands out"
    assert list(figure.data[2].x) == pytest.approx([1e-4]), "nothing missed is drawn, not lost"
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[1].line.color
    assert figure.layout.title.text == "Cost &lt;b&gt;"
    assert "%" in figure.layout.xaxis.title.text
    assert [note.text for note in figure.layout.annotations] == ["traces", "unseen"]


def test_the_rows_of_a_summary_are_its_settings_and_the_bound_of_the_reference() -> None:
    means = [
        {"policy": policy, "kind": "rule", "headroom": h, "attainment": 0.9, "bill_ratio": h, "bound_ratio": 0.5}
        for policy in ("rule", "agent")
        for h in (0.8, 1.0)
    ]
    rows = rows_of_summary({"reference": "rule", "suites": {"traces": {"frontier_means": means}}})
    assert [(row["series"], row["bill"]) for row in rows] == [
        ("rule", 0.8),
        (BOUND, 0.5),
        ("rule", 1.0),
        (BOUND, 0.5),
        ("agent", 0.8),
        ("agent", 1.0),
    ]
    unknown = [{**own, "bound_ratio": None} for own in means]
    assert len(rows_of_summary({"reference": "rule", "suites": {"traces": {"frontier_means": unknown}}})) == 4


def test_no_rows_are_an_empty_figure() -> None:
    assert len(attainment_figure([]).data) == 0


def test_no_two_series_look_the_same() -> None:
    styles = [style_of(place) for place in range(49)]
    assert len(set(styles)) == 49
    assert [colour for colour, _, _ in styles[:7]] == list(range(len(COLOURS)))


def test_settings_that_another_beats_lie_beside_the_line_and_points_know_where_they_lead() -> None:
    rows = [
        a_row("s", "rule", 0.8, 0.9, 8.0),
        {**a_row("s", "rule", 0.9, 0.89, 9.0), "dominated": True},
        {**a_row("s", "rule", 1.0, 0.99, 10.0), "link": "run/rule"},
    ]
    line, beside = attainment_figure(rows, "", unit="usd_per_hr").data
    assert (list(line.y), line.mode, line.marker.symbol) == ([8.0, 10.0], "lines+markers", "circle")
    assert (list(beside.y), beside.mode, beside.marker.symbol) == ([9.0], "markers", "circle-open")
    assert (line.showlegend, beside.showlegend) == (True, False)
    assert [own[-1] for own in line.customdata] == ["", "run/rule"]
    figure = attainment_figure(rows, "", unit="usd_per_hr")
    assert figure.layout.yaxis.title.text == "Bill ($/h)"
    assert "$/h" in line.hovertemplate
