"""Pictures of an evaluation: every suite a panel, the same bytes each time, nothing drawn from something else."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from poolpilot.benchmarks.evaluation_figures import FiguresError, draw, main

pytest.importorskip("matplotlib")


def a_summary(folder: Path) -> Path:
    means = [
        {"policy": policy, "kind": "rule", "headroom": h, "attainment": at, "bill_ratio": h * size, "bound_ratio": 0.4}
        for policy, size in (("threshold", 1.0), ("steady-hand", 0.9))
        for h, at in ((0.7, 0.3), (1.0, 0.99), (1.5, 1.0))
    ]
    document = {"reference": "threshold", "suites": {name: {"frontier_means": means} for name in ("traces", "unseen")}}
    path = folder / "summary.json"
    path.write_text(json.dumps(document))
    return path


def test_a_picture_shows_every_suite_and_policy_in_words(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(a_summary(tmp_path)), "--out", str(tmp_path / "one")])
    assert result.exit_code == 0, result.output
    assert [Path(line).name for line in result.stdout.splitlines()] == ["frontiers.svg", "frontiers.png"]
    svg = (tmp_path / "one" / "frontiers.svg").read_text()
    for word in (
        "traces",
        "unseen",
        "threshold",
        "steady-hand",
        "clairvoyant bound",
        "worst class within its targets, %",
    ):
        assert f"<!-- {word} -->" in svg, word
    assert "clairvoyant" in svg
    again = CliRunner().invoke(main, [str(a_summary(tmp_path)), "--out", str(tmp_path / "other")])
    assert again.exit_code == 0
    for name in ("frontiers.svg", "frontiers.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_only_the_policies_asked_for_are_drawn(tmp_path: Path) -> None:
    chosen = ["--policies", "threshold", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, [str(a_summary(tmp_path)), *chosen]).exit_code == 0
    svg = (tmp_path / "frontiers.svg").read_text()
    assert "<!-- threshold -->" in svg
    assert "steady-hand" not in svg


def test_what_is_no_summary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"suites": {"traces": {}}}')
    result = CliRunner().invoke(main, [str(path), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "other.json: wanted summary.json" in result.stderr
    with pytest.raises(FiguresError, match="no rows to draw"):
        draw([], tmp_path)
