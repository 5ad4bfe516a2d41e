"""The command that starts a replica of each pool of a plan."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from .found import Found


@dataclass(frozen=True)
class Serving:
    """A command line."""

    args: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """As a shell takes it."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.args)])


def serve_commands(found: Found) -> dict[str, Serving]:
    """By pool, in the order of the plan."""
    return {}


def commands_text(commands: Mapping[str, Serving]) -> str:
    """A shell script that says what each line is for; it is to be read, one line a replica."""
    lines = ["#!/bin/sh", "# One replica of each pool; run a line on each machine of the pool."]
    for name, command in commands.items():
        lines += ["", f"# {name}", command.line]
    return "\n".join(lines)
