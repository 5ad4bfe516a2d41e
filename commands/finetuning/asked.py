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
_BOUNDS: Final = (
    click.option(
        "--steps",
        type=click.IntRange(min=1),
        default=60_000,
        show_default=True,
        help="To learn for, over all clusters.",
    ),
    click.option(
        "--cpu-seconds",
        type=click.FloatRange(min=1.0),
        default=3600.0,
        show_default=True,
        help="Of the learner's processor time: then it stops, its state kept.",
    ),
    click.option(
        "--memory-mb",
        type=click.FloatRange(min=1.0),
        default=4096.0,
        show_default=True,
        help="Of the learner's private memory: with more it stops.",
    ),
)


def bounds_of_learning(command: C) -> C:
    """`--steps`, `--cpu-seconds` and `--memory-mb`."""
    for option in reversed(_BOUNDS):
        command = option(command)
    return command
