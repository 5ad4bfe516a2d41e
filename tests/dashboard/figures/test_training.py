"""Training curves: a panel for each measure, a line for each run, units on every axis."""

import pytest

from poolpilot.dashboard.figures.training import CurveRow, training_figure, unit_of


def rows() -> list[CurveRow]:
    return [
        {"run": run, "tag": tag, "step": 1000 * i, "value": i + bias}
        for run, bias in (("runs/a", 0.0), ("runs/<b>", 0.5))
        for tag in ("cluster/attainment", "evaluation/loss")
        for i in range(3)
    ]


def test_every_run_is_a_line_in_every_panel() -> None:
    figure = training_figure(rows())
    assert [trace.name for trace in figure.data] == ["runs/a", "runs/&lt;b&gt;"] * 2
    assert [list(trace.y) for trace in figure.data[:2]] == [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
    assert [annotation.text for annotation in figure.layout.annotations] == ["cluster/attainment", "evaluation/loss"]


def test_axes_have_units() -> None:
    figure = training_figure(rows())
    assert figure.layout.yaxis.title.text == "share"
    assert figure.layout.yaxis2.title.text == "criterion"
    assert figure.layout.xaxis2.title.text == "Environment steps"


@pytest.mark.parametrize(
    ("tag", "unit"),
    [
        ("cluster/bill_of_reference", "of the usual bill"), ("vetoes/scale_step", "per tick"), ("rollout/ep_rew_mean", "reward"),
        ("time/fps", "steps/s"), ("train/loss", "value"),
    ],
)  # fmt: skip
def test_measures_have_the_units_that_their_names_say(tag: str, unit: str) -> None:
    assert unit_of(tag) == unit


def test_no_rows_are_an_empty_figure() -> None:
    assert not training_figure([]).data
