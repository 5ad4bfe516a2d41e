"""Options that more than one command of fine-tuning has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

registry_option: Final = click.option(
    "--registry",
    "registry_folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Whose incumbent to start from, and where to register a candidate.",
)


def _bound(name: str, kind: click.IntRange | click.FloatRange, default: float, what: str) -> Callable[[C], C]:
    return click.option(name, type=kind, default=default, show_default=True, help=what)


_BOUNDS: Final = (
    _bound("--steps", click.IntRange(min=1), 60_000, "To learn for, over all clusters."),
    _bound(
        "--cpu-seconds",
        click.FloatRange(min=1.0),
        3600.0,
        "Of the learner's processor time: then it stops, its state kept.",
    ),
    _bound("--memory-mb", click.FloatRange(min=1.0), 4096.0, "Of the learner's private memory: with more it stops."),
)


def bounds_of_learning(command: C) -> C:
    """`--steps`, `--cpu-seconds` and `--memory-mb`."""
    for option in reversed(_BOUNDS):
        command = option(command)
    return command
