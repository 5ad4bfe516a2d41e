"""A run over time: every measure has its panel, every class and pool its colour, and nothing is drawn that was not known."""

from __future__ import annotations

from typing import Any

from poolpilot.dashboard.figures.timeline import PANELS, timeline_figure

from .rows import ESCAPED, EVIL, a_timeline, a_value


def titles(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def axis_of(figure: Any, title: str) -> str:
    at = titles(figure).index(title) + 1
    return "y" if at == 1 else f"y{at}"


def drawn(figure: Any, title: str) -> list[Any]:
    return [trace for trace in figure.data if trace.yaxis == axis_of(figure, title)]


def test_every_measure_has_a_panel_with_its_unit() -> None:
    figure = timeline_figure(a_timeline())
    assert titles(figure) == [
        *(p.title + p.beside for p in PANELS[:2]),
        "Weights of chat, by pool",
        *(p.title for p in PANELS[2:]),
    ]
    units = [figure.layout[f"yaxis{i or ''}"].title.text for i in (0, *range(2, 10))]
    assert units == ["requests/s", "replicas", "%", "sequences", "requests", "%", "°C", "$/h", "%"]
    assert figure.layout.xaxis9.title.text == "Time since the start (min)"


def test_load_and_forecast_and_counts_ready_and_wanted_stand_together() -> None:
    figure = timeline_figure(a_timeline())
    load, foretold = drawn(figure, PANELS[0].title + PANELS[0].beside)
    assert (load.name, foretold.name) == ("chat", "chat, forecast")
    assert list(load.x) == [0.0, round(10 / 60, 4), round(20 / 60, 4)]
    assert list(load.y) == [0.0, 0.1, 0.2]
    assert load.line.color == foretold.line.color
    assert (load.line.dash, foretold.line.dash) == ("solid", "dot")
    assert (load.mode, foretold.mode) == ("lines+markers", "lines")
    counts = drawn(figure, PANELS[1].title + PANELS[1].beside)
    assert [(trace.name, list(trace.y)) for trace in counts] == [
        ("h100", [0.0, 1.0, 2.0]),
        ("l40s", [1.0, 2.0, 3.0]),
        ("h100, wanted", [0.0, 1.0, 2.0]),
        ("l40s, wanted", [1.0, 2.0, 3.0]),
    ]


def test_shares_are_drawn_in_percent_and_weights_are_stacked_to_a_hundred() -> None:
    figure = timeline_figure(a_timeline())
    weights = drawn(figure, "Weights of chat, by pool")
    assert [(trace.name, list(trace.y), trace.stackgroup) for trace in weights] == [
        ("h100", [50.0] * 3, "weights"),
        ("l40s", [50.0] * 3, "weights"),
    ]
    (kv, _) = drawn(figure, "KV cache in use")
    assert list(kv.y) == [25.0] * 3
    assert tuple(figure.layout.yaxis6.range) == (0, 104)


def test_a_class_or_pool_has_one_colour_everywhere_and_one_entry_in_the_legend() -> None:
    figure = timeline_figure(a_timeline())
    looks = {(trace.legendgroup, trace.line.color) for trace in figure.data}
    assert len(looks) == len({group for group, _ in looks}) == 4, "chat, two pools and the whole"
    symbols = {(trace.legendgroup, trace.marker.symbol) for trace in figure.data if "markers" in trace.mode}
    assert len({symbol for _, symbol in symbols}) == len(symbols) == 4, "told apart without colour"
    assert [trace.name for trace in figure.data if trace.showlegend] == ["chat", "h100", "l40s", "all pools"]


def test_a_gap_stays_a_gap_and_a_measure_nobody_has_is_left_out() -> None:
    rows = [a_value("queue", 1.0, 0.0), a_value("queue", None, 10.0), a_value("queue", 3.0, 20.0)]
    figure = timeline_figure([*rows, a_value("temperature_c", None)])
    assert titles(figure) == ["Queue in the engines"]
    (trace,) = figure.data
    assert (list(trace.y), trace.connectgaps) == ([1.0, None, 3.0], False)


def test_the_order_of_rows_makes_no_difference_to_lines() -> None:
    forth, back = timeline_figure(a_timeline()), timeline_figure(a_timeline()[::-1])
    lines = [{(t.name, t.yaxis): (list(t.x), list(t.y)) for t in figure.data} for figure in (forth, back)]
    assert sorted(map(repr, lines[0].values())) == sorted(map(repr, lines[1].values()))


def test_clocks_count_in_minutes_hours_or_dates() -> None:
    long = [a_value("queue", 1.0, 0.0), a_value("queue", 1.0, 7 * 3600.0)]
    figure = timeline_figure(long)
    assert (figure.layout.xaxis.title.text, list(figure.data[0].x)) == ("Time since the start (h)", [0.0, 7.0])
    assert tuple(figure.layout.xaxis.range) == (0.0, 7.0)
    dated = timeline_figure(long, started_at_s=1_700_000_000.0)
    assert dated.layout.xaxis.title.text == "Time (UTC)"
    assert dated.data[0].x[0] == "2023-11-14 22:13:20"


def test_dates_take_one_line_below_the_axis() -> None:
    """By default Plotly writes the day below the hour, where the next panel's title stands."""
    rows = [a_value("queue", 1.0, 0.0), a_value("queue", 1.0, 3600.0)]
    within, over = (timeline_figure(rows, started_at_s=at) for at in (1_699_960_000.0, 1_700_005_000.0))
    assert within.layout.xaxis.tickformat == "%H:%M"
    assert over.layout.xaxis.tickformat == "%d %b %H:%M"


def test_a_title_names_only_what_is_drawn() -> None:
    assert titles(timeline_figure([a_value("replicas", 2.0)])) == ["Replicas ready"]
    both = [a_value("replicas", 2.0), a_value("replicas_target", 3.0)]
    assert titles(timeline_figure(both)) == ["Replicas ready, and wanted (dots)"]


def test_names_are_text_and_no_markup() -> None:
    text = timeline_figure(a_timeline(chat=EVIL, pools=(EVIL, "b"))).to_json()
    assert "<script" not in text.replace("\\u003c", "<")
    figure = timeline_figure(a_timeline(chat=EVIL))
    assert f"Weights of {ESCAPED}, by pool" in titles(figure)
    assert figure.data[0].name == ESCAPED


def test_no_rows_are_an_empty_figure() -> None:
    assert len(timeline_figure([]).data) == 0
