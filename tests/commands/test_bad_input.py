"""Bad input is exit code 2 and one line; a bug keeps its traceback."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from poolpilot.commands.bad_input import BadInput, one_line_errors, refuse
from poolpilot.env.scenario import ScenarioError


def run(error: BaseException) -> object:
    @click.command()
    @one_line_errors
    def command() -> None:
        raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ScenarioError("mine.yaml: name: wanted\n  a  word"), "mine.yaml: name: wanted a word"),
        (FileNotFoundError(2, "No such file or directory", "mine.yaml"), "mine.yaml: No such file or directory"),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (OSError("disk on fire"), "disk on fire"),
        (BadInput("two\nlines"), "two lines"),
    ],
    ids=["our own error", "a missing file", "a file of others", "an error without a file", "refused"],
)
def test_the_users_mistake_is_one_line_and_exit_code_2(error: Exception, line: str) -> None:
    result = run(error)
    assert result.exit_code == 2  # type: ignore[attr-defined]
    assert result.stderr == f"Error: {line}\n"  # type: ignore[attr-defined]
    assert result.stdout == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [ValueError("math domain error"), KeyError("x"), RuntimeError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert run(error).exception is error  # type: ignore[attr-defined]


def test_a_reader_that_leaves_early_is_no_bad_input() -> None:
    @one_line_errors
    def command() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        command()


def test_refuse_stops() -> None:
    with pytest.raises(BadInput, match="no"):
        refuse("no")


def test_the_command_keeps_its_name_result_and_arguments() -> None:
    @one_line_errors
    def double(value: int) -> int:
        """Twice."""
        return 2 * value

    assert double(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Twice.")


def test_a_folder_for_a_file_is_one_line(tmp_path: Path) -> None:
    @click.command()
    @one_line_errors
    def command() -> None:
        tmp_path.read_text()

    result = CliRunner().invoke(command)
    assert (result.exit_code, result.stderr) == (2, f"Error: {tmp_path}: Is a directory\n")
