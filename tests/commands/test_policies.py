"""`poolpilot policies`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolpilot.agents import checkpoint
from poolpilot.agents.blend import portfolio_as_json
from poolpilot.agents.checkpoint import CARD, ONNX, shipped_checkpoints, write_card
from poolpilot.agents.portfolio import HELD_PLAN, RULES, portfolio_of
from poolpilot.cli import main

PORTFOLIO = portfolio_as_json(portfolio_of())


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["policies", *arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose card a stranger wrote."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ONNX).write_bytes(b"network")
    write_card(
        mine, {"name": "mine", "miss_price": 0.5, "summary": "[/red] cheaper [bold]by half", "portfolio": PORTFOLIO}
    )
    return mine


def test_rules_and_shipped_checkpoints_are_listed() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    for name in (*RULES, HELD_PLAN, *shipped_checkpoints()):
        assert name in result.stdout


def test_the_list_as_json_is_one_document() -> None:
    listed = json.loads(run("--json").stdout)
    assert listed["rules"] == [*RULES, HELD_PLAN]
    assert set(listed["checkpoints"]) == set(shipped_checkpoints())


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["for people", "json"])
def test_a_card_is_shown_by_folder(folder: Path, options: list[str]) -> None:
    card = json.loads(run(str(folder), *options).stdout)
    assert (card["name"], card["miss_price"]) == ("mine", 0.5)


def test_what_a_card_says_is_no_markup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", folder.parent)
    result = run()
    assert result.exit_code == 0, result.exception
    assert "[/red] cheaper [bold]by half" in result.stdout


@pytest.mark.parametrize("change", ["card", "network", "everything"])
def test_a_broken_checkpoint_is_one_line_and_exit_code_2(folder: Path, change: str) -> None:
    if change == "card":
        (folder / CARD).write_text("{")
    elif change == "network":
        (folder / ONNX).write_bytes(b"other")
    else:
        folder = folder / "gone"
    result = run(str(folder))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {folder}")
    assert result.stderr.count("\n") == 1
