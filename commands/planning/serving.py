"""The command that starts a replica of each pool of a plan."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...agents.planner.fleet import chosen
from ...agents.planner.layouts.layout import LayoutError
from ...agents.planner.layouts.serve_command import ServeCommand, serve_command
from .found import Found, engine_of


@dataclass(frozen=True)
class Serving:
    """How a replica of a pool is started, or why no engine starts it so."""

    command: ServeCommand | None
    problem: str = ""

    @property
    def shell(self) -> str:
        """For a shell."""
        return f"# no command: {self.problem}" if self.command is None else self.command.shell

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must bring or know, a line each."""
        return (f"no vllm command: {self.problem}",) if self.command is None else self.command.notes

    @property
    def lines(self) -> tuple[str, ...]:
        """Each node's command on a line of its own, notes left out."""
        nodes = () if self.command is None else self.command.nodes
        return tuple(
            " ".join([*(f"{name}={shlex.quote(value)}" for name, value in node.env.items()), shlex.join(node.args)])
            for node in nodes
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        nodes = () if self.command is None else self.command.nodes
        return {
            "shell": self.shell,
            "notes": list(self.notes),
            "nodes": [
                {"machine": n.machine, "gpus": list(n.gpus), "env": dict(n.env), "args": list(n.args)} for n in nodes
            ],
        }


def serve_commands(found: Found) -> dict[str, Serving]:
    """By pool, in the order of the plan."""
    by_name = {found.names[o]: found.problem.options[o] for o in chosen(found.composition)}
    commands = {}
    for pool in found.pools:
        option = by_name[pool.name]
        flags = engine_of(found.scenario, option)
        try:
            command = serve_command(
                option.layout,
                max_model_len=flags.max_model_len,
                max_num_seqs=flags.max_num_seqs,
                max_num_batched_tokens=flags.max_num_batched_tokens,
                gpu_memory_utilization=flags.gpu_memory_utilization,
                scheduling=flags.scheduling,
                prefix_caching=flags.prefix_caching,
            )
        except LayoutError as error:
            commands[pool.name] = Serving(None, str(error))
        else:
            commands[pool.name] = Serving(command)
    return commands


def commands_text(commands: Mapping[str, Serving]) -> str:
    """All of them as one text for a shell. It is to be read: each line belongs on machines of its own."""
    lines = ["#!/bin/sh", "# One replica of each pool; to be run on the pool's machines, not all of it on one."]
    for name, serving in commands.items():
        lines += ["", f"# pool {name}", serving.shell]
    return "\n".join(lines)
