"""Paired differences: the interval as it is, zero in sight, and what is not known is said."""

from __future__ import annotations

import pytest

from poolpilot.dashboard.figures.differences import differences_figure

from .rows import ESCAPED, EVIL, a_difference


def test_a_difference_stands_at_its_mean_between_the_ends_of_its_interval() -> None:
    figure = differences_figure([a_difference("agent"), a_difference("other", 1.0, -1.0, 4.0)])
    (trace,) = figure.data
    assert (list(trace.y), list(trace.x)) == (["agent", "other"], [-5.0, 1.0])
    assert list(trace.error_x.array) == pytest.approx([3.0, 3.0])
    assert list(trace.error_x.arrayminus) == pytest.approx([3.0, 2.0])
    assert list(trace.marker.symbol) == ["circle", "circle-open"], "hollow where it may be none"
    assert [list(own) for own in trace.customdata] == [
        ["-5.00 % [-8.00, -2.00]", "rule"],
        ["+1.00 % [-1.00, +4.00]", "rule"],
    ]
    (zero,) = figure.layout.shapes
    assert (zero.x0, zero.x1) == (0, 0)
    assert figure.layout.xaxis.title.text == "Difference (%)"


def test_measures_stand_side_by_side_over_one_list_of_names() -> None:
    figure = differences_figure([a_difference("a"), a_difference("b"), a_difference("a", measure="Shortfall")])
    assert [note.text for note in figure.layout.annotations] == ["Bill", "Shortfall"]
    assert [trace.xaxis for trace in figure.data] == ["x", "x2"]
    assert tuple(figure.layout.yaxis.categoryarray) == ("a", "b")


def test_an_interval_that_is_not_known_is_hollow_and_said() -> None:
    (trace,) = differences_figure([a_difference("a", low=None)]).data
    assert list(trace.error_x.arrayminus) == [0.0]
    assert trace.marker.symbol[0] == "circle-open"
    assert trace.customdata[0][0] == "-5.00 % interval not known"


def test_names_are_text_and_no_markup() -> None:
    figure = differences_figure([{**a_difference(EVIL, measure=EVIL), "against": EVIL}])
    assert figure.data[0].y[0] == figure.data[0].customdata[0][1] == ESCAPED
    assert figure.layout.annotations[0].text == ESCAPED


def test_no_rows_are_an_empty_figure() -> None:
    assert len(differences_figure([]).data) == 0
