"""Tables for people, JSON without NaN for programs."""

from __future__ import annotations

import json
import math

import pytest

from poolpilot.commands.printing import console, percent, print_json, progress, seconds, table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ms"), (0.0834, "83 ms"), (0.9994, "999 ms"), (1.0, "1.00 s"), (12.345, "12.35 s"), (math.nan, "-"),
     (None, "-")],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.5, 1, "50.0 %"), (0.98765, 2, "98.77 %"), (1.0, 0, "100 %"), (math.nan, 1, "-"), (None, 1, "-")],
)
def test_percent(value: float | None, digits: int, text: str) -> None:
    assert percent(value, digits) == text


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None, 2.5], "b": "ü"})
    out = capsys.readouterr()
    assert json.loads(out.out) == {"a": [1, None, 2.5], "b": "ü"}
    assert out.out.endswith("}\n")
    assert out.err == ""


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": math.nan})


def test_a_table_shows_every_cell_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("first", 1.5, "words " * 40), ("second", -2, "")]
    console().print(table("Title", ("name", "count", "what"), rows, caption="in all"))
    out = capsys.readouterr().out
    for text in ("Title", "name", "count", "first", "1.5", "-2", "in all"):
        assert text in out
    assert out.count("words") == 40


def test_numbers_stand_to_the_right_and_names_to_the_left() -> None:
    built = table("t", ("name", "count", "mixed"), [("1st", 1, "1"), ("2nd", "-3 %", "none")])
    assert [column.justify for column in built.columns] == ["left", "right", "left"]


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        bar.advance(bar.add_task("working", total=1))
    with progress(quiet=True) as bar:
        bar.advance(bar.add_task("hush", total=1))
    out = capsys.readouterr()
    assert out.out == ""
    assert "hush" not in out.err
