"""How far the simulated twin of a cluster was off when it was last held against the record: told by a refit, read by the
sidecar. A small file in the sidecar's working folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = "twin.json"
MAX_BYTES: Final = 1 << 16
_KIND: Final = "poolpilot-twin"


class TwinReportError(ValueError):
    """The file is none of ours; the message names it."""


@dataclass(frozen=True)
class TwinReport:
    """What a refit found of the twin that was believed."""

    error: float
    """Mean size of the errors on what was held out, each over that from which its figure is bad."""
    refitted_error: float
    """The same of the twin as refitted; what is left when the new twin is learned in."""
    told_unix_s: float


def write_twin_report(folder: Path, report: TwinReport) -> None:
    """Tell the sidecar that works in `folder`; OSError if it cannot be written."""
    document = {
        "kind": _KIND,
        "error": report.error,
        "refitted_error": report.refitted_error,
        "told_unix_s": report.told_unix_s,
    }
    part = folder / f"{FILE}.part"
    part.write_text(json.dumps(document) + "\n", encoding="utf-8")
    part.replace(folder / FILE)


def read_twin_report(folder: Path) -> TwinReport | None:
    """What was last told; None if nothing was.

    Raises:
        TwinReportError: the file is something else.
        OSError: it cannot be read.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        document: Any = json.loads(text) if len(text) <= MAX_BYTES else None
        if not isinstance(document, dict) or document.get("kind") != _KIND:
            raise ValueError(f"wanted an object of kind {_KIND!r}")
        figures: list[Any] = [document.get(name) for name in ("error", "refitted_error", "told_unix_s")]
        if not all(type(figure) in (int, float) and 0 <= figure < math.inf for figure in figures):
            raise ValueError("error, refitted_error, told_unix_s: wanted numbers of 0 or more")
    except (ValueError, RecursionError) as error:
        raise TwinReportError(f"{path}: {error}; delete it to go on without") from None
    return TwinReport(*(float(figure) for figure in figures))
