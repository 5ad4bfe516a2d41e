"""How far a learner beside the sidecar has come: a small file that it replaces as a whole, and the sidecar shows.

The learner is a process of its own. The sidecar only ever reads this file; whatever stands in it, nothing else follows
from it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 1
PROGRESS_FILE: Final = "learner.json"
"""In a learner's folder, and in the registry that it learns for."""
MAX_BYTES: Final = 1 << 16
MAX_TEXT: Final = 200


class ProgressError(ValueError):
    """The file is no learner's progress; the message names file and field."""


class LearnerState(StrEnum):
    """What a learner is doing."""

    LEARNING = "learning"
    STOPPED = "stopped"
    """Before its end: its processor time is spent, or somebody asked. It can go on."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class LearnerProgress:
    """One look at a learner."""

    state: LearnerState
    incumbent: str
    """Hash or version that it started from."""
    steps: int
    """Done, over all clusters of the twin."""
    steps_wanted: int
    updated_unix_s: float
    kl: float = math.nan
    """Nats, of the learned policy from the incumbent, in the mean over observations."""
    kl_limit: float = math.nan
    reward: float = math.nan
    """Of a tick in the twin, in usual bills."""
    attainment: float = math.nan
    """Share of requests in the twin that met their targets."""
    loss: float = math.nan
    """Of the best so far on the twin's days that are not learned from; less is better."""
    incumbent_loss: float = math.nan
    live_transitions: int = 0
    """Recorded steps with exploration that it learns from."""
    cpu_s: float = 0.0
    memory_bytes: int = 0
    candidate: str = ""
    """Version, once there is one."""
    detail: str = ""
    """Why it stopped, or what came of it."""


def write_progress(path: Path, progress: LearnerProgress) -> None:
    """Replace the file as a whole. OSError if there is no room."""
    document = {"format": FORMAT, **asdict(progress)}
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in document.items()}
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written.write_text(json.dumps(finite) + "\n", encoding="utf-8")
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def read_progress(path: Path) -> LearnerProgress | None:
    """What stands in the file; None if there is none.

    Raises:
        ProgressError: it is something else.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        document: Any = json.loads(text) if len(text) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise ProgressError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProgressError(f"{path}: wanted a learner's progress of format {FORMAT}")
    return LearnerProgress(
        **{own.name: _value(document, own.name, str(own.type), path) for own in fields(LearnerProgress)}
    )


def _value(document: dict[str, Any], name: str, kind: str, path: Path) -> Any:
    value: Any = document.get(name)
    if kind == "LearnerState" and value in list(LearnerState):
        return LearnerState(value)
    if kind == "str" and isinstance(value, str):
        return value[:MAX_TEXT]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "int" and number and value >= 0:
        return int(value)
    if kind == "float" and (value is None or (number and math.isfinite(value))):
        return math.nan if value is None else float(value)
    raise ProgressError(f"{path}: {name}: {str(value)[:60]!r}, wanted {_WANTED[kind]}")


_WANTED: Final = {
    "LearnerState": f"one of {', '.join(LearnerState)}",
    "str": "a text",
    "int": "a whole number of 0 or more",
    "float": "a number or null",
}
