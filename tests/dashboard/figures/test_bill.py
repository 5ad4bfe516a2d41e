"""The bill by layer: bars add up to the bill, layers keep their order, parts of the idle layer are told where known."""

from __future__ import annotations

import pytest

from poolpilot.dashboard.figures.bill import BillRow, bill_figure, layers_of

from .rows import ESCAPED, EVIL

WHOLE = {"compute": 4.0, "software": 3.0, "idle": 2.0, "energy": 0.5, "network": 0.0}
PARTS = {"idle_cold_start": 1.0, "idle_waiting": 0.75, "idle_drain": 0.25, "idle_asleep": 0.0}


def test_bars_add_up_to_the_bill_and_layers_without_dollars_are_left_out() -> None:
    figure = bill_figure([*layers_of("rule", WHOLE), *layers_of("agent", {**WHOLE, "compute": 1.0})])
    assert [trace.name for trace in figure.data] == ["compute", "software", "idle", "energy"]
    sums = [sum(trace.x[i] for trace in figure.data) for i in (0, 1)]
    assert sums == pytest.approx([9.5, 6.5])
    assert list(figure.data[0].y) == ["rule", "agent"]
    assert figure.data[0].customdata[0] == pytest.approx(100 * 4.0 / 9.5)
    assert figure.layout.xaxis.title.text == "Bill ($/h)"
    assert figure.layout.barmode == "stack"


def test_the_idle_layer_is_shown_in_its_parts_where_they_are_known() -> None:
    rows = layers_of("rule", {**WHOLE, **PARTS})
    assert sum(row["usd_per_hr"] for row in rows) == pytest.approx(9.5), "nothing is counted twice"
    names = [trace.name for trace in bill_figure(rows).data]
    assert names == ["compute", "software", "idle: cold start", "idle: waiting", "idle: drain", "energy"]
    some = layers_of("rule", {**WHOLE, "idle_cold_start": 1.0})
    assert [row["layer"] for row in some] == ["compute", "software", "idle", "energy", "network"]


def test_layers_are_told_apart_by_pattern_too() -> None:
    figure = bill_figure(layers_of("rule", {**WHOLE, **PARTS}))
    assert len({trace.marker.pattern.shape for trace in figure.data}) == len(figure.data)


def test_a_bill_of_nothing_has_no_share() -> None:
    rows: list[BillRow] = [
        {"series": "paid", "layer": "compute", "usd_per_hr": 1.0},
        {"series": "free", "layer": "compute", "usd_per_hr": 0.0},
    ]
    assert list(bill_figure(rows).data[0].customdata) == [100.0, 0.0]
    assert len(bill_figure([]).data) == 0


def test_names_are_text_and_no_markup() -> None:
    (trace,) = bill_figure([{"series": EVIL, "layer": EVIL, "usd_per_hr": 1.0}]).data
    assert trace.y[0] == trace.name == ESCAPED
