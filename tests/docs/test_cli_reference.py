"""The reference of the command line names everything, and is the one that the code would write."""

import click
import pytest
from click.testing import CliRunner

from poolpilot.cli import COMMANDS, main
from poolpilot.commands.reference import reference

from .pages import DOCS


def test_the_page_is_up_to_date() -> None:
    page = (DOCS / "cli-reference.md").read_text()
    assert page == reference(main), "run: poolpilot --reference > docs/cli-reference.md"


def test_the_command_line_prints_it() -> None:
    result = CliRunner().invoke(main, ["--reference"])
    assert (result.exit_code, result.output) == (0, reference(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_there(name: str) -> None:
    sections = {part.split("\n", 1)[0]: part for part in reference(main).split("\n## ")[1:]}
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert f"{option.opts[0]}" in sections[f"poolpilot {name}"], option.name


def test_groups_tell_their_commands_and_text_means_what_it_says() -> None:
    @click.group()
    def tool() -> None:
        """Not shown."""

    @tool.group()
    def policies() -> None:
        """Versions."""

    @policies.command(epilog="\b\nExamples:\n  poolpilot policies promote x")
    @click.option("--why", metavar="a|b", help="A <reason>, such as `a * b`.")
    @click.option("--secret", hidden=True)
    def promote(why: str, secret: str) -> None:
        """Let a version decide.

        Only one
        does.
        """

    page = reference(tool)
    assert "## tool policies\n" in page
    assert "Let a version decide.\n\nOnly one does.\n" in page
    assert "| `--why a\\|b` | A \\<reason>, such as `a * b`. |" in page
    assert "Examples:\n\n```\npoolpilot policies promote x\n```" in page
    assert "secret" not in page
