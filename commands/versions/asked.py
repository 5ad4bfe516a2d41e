"""Which registry a command is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ...agents.registry import Registry

VARIABLE: Final = "POOLPILOT_REGISTRY"

SUITES: Final = ("steady", "stress")
"""For the gate of that name, where nobody names others."""


def registry_option(required: bool = True) -> Callable[[Any], Any]:
    """`--registry`; where one is wanted, also what `VARIABLE` says."""
    told = f" Or in ${VARIABLE}." if required else ""
    return click.option(
        "--registry",
        type=click.Path(file_okay=False, path_type=Path),
        envvar=VARIABLE if required else None,
        required=required,
        help=f"Folder of the versions (`policies init` begins one).{told}",
    )


def opened(folder: Path, version: str) -> tuple[Registry, str]:
    """The registry, and the version whose name begins so. RegistryError if there is none."""
    registry = Registry(folder)
    return registry, registry.full_name(version)
