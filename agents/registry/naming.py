"""Checkpoints by name, those of registries too: `registry:FOLDER` is whoever decides, `registry:FOLDER@VERSION` one version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..checkpoint import Checkpoint, load_checkpoint
from .registry import Registry

PREFIX: Final = "registry:"


def named_registry(name: str) -> tuple[Path, str] | None:
    """Folder and version (empty: the incumbent) that a policy's name means; None if it means no registry."""
    if not name.startswith(PREFIX):
        return None
    folder, at, version = name.removeprefix(PREFIX).rpartition("@")
    return (Path(folder), version) if at else (Path(version), "")


def name_of_version(registry: Registry, version: str) -> str:
    """What a version is asked for by."""
    return f"{PREFIX}{registry.folder}@{version}"


def open_checkpoint(name: str | Path) -> Checkpoint:
    """A shipped checkpoint by name, any by its folder, or a registry's.

    Raises:
        CheckpointError: there is none, or it cannot be used.
    """
    asked = named_registry(str(name))
    if asked is None:
        return load_checkpoint(name)
    registry = Registry(asked[0])
    return registry.checkpoint(registry.full_name(asked[1]) if asked[1] else registry.incumbent())
