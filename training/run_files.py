"""What the files of a run of training are called, for who looks at its folder without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ARGUMENTS: Final = "arguments.json"
STATE_WEIGHTS: Final = "state.safetensors"
STATE_COUNTERS: Final = "state.json"
"""Written last: where it is, there is something to resume."""


def resumable(folder: Path) -> bool:
    """Whether a run there can be gone on with."""
    return (folder / STATE_COUNTERS).is_file()
