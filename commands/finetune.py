"""`poolpilot finetune`: a policy that learns on the job. Wires its commands, lazily."""

from __future__ import annotations

import importlib
from typing import Final

import click

COMMANDS: Final = {
    "run": ("running", "Refit, learn, and the gates before the trial, one after another."),
    "refit": ("refit", "Fit the simulated twin of a cluster to its record, and judge it on what was held out."),
    "ranges": ("ranges", "Write on a checkpoint's card between what its observations lay in training."),
    "learn": ("learning", "Learn from the incumbent's weights, in the refitted twin and from the record."),
}
"""Module in `commands.finetuning`, and what the command does in one line."""


class _Lazy(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".finetuning.{COMMANDS[cmd_name][0]}", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])


@click.group(cls=_Lazy)
def finetune() -> None:
    """Learn from the live system, beside it.

    Nothing that is learned reaches traffic unproven: a candidate that its gates let through is registered with their
    evidence, and tried on a share of the traffic before it decides (docs/finetuning.md).
    """
