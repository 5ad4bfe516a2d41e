"""Reading a record to decide it again: every tick of it, or an error that names what cannot be read."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from ..store import TickEntry
from .lines import KIND, DecisionLogError, document_of, document_of_entry, record_of, sitting_of
from .segments import files_of, lines_of
from .ticks import Sitting, TickRecord

_LOG: Final = logging.getLogger(__name__)


def read_entries(entries: Iterable[tuple[str, TickEntry]]) -> Iterator[TickRecord]:
    """Every tick of a store's stream, with its id in it.

    Raises:
        DecisionLogError: names entry and field of the first thing that cannot be.
    """
    sittings: dict[str, Sitting] = {}
    for where, entry in entries:
        if entry.sitting not in sittings:
            sittings[entry.sitting] = sitting_of(document_of(entry.sitting_json.encode(), f"{where}: sitting"), where)
        yield record_of(document_of_entry(entry, where), sittings[entry.sitting], where)


def read_log(path: Path, report: Callable[[str], None] = _LOG.warning) -> Iterator[TickRecord]:
    """Every tick of a log and of its closed segments, oldest first (of a segment: that one's, of a folder: its log's).

    `report` is told of a last line that was cut in half, which is left out.

    Raises:
        DecisionLogError: names file, line and field of the first thing that cannot be.
        OSError: a file cannot be read.
    """
    for file in files_of(path):
        yield from _read_file(file, report)


def _read_file(path: Path, report: Callable[[str], None]) -> Iterator[TickRecord]:
    sitting: Sitting | None = None
    number = 0
    try:
        for number, line in enumerate(lines_of(path), start=1):
            where = f"{path}:{number}"
            if not line.endswith(b"\n"):
                report(f"{where}: cut in half after {len(line)} bytes; the tick is lost, the log is whole up to here")
                return
            document = document_of(line, where)
            if "kind" in document:
                sitting = sitting_of(document, where)
            elif sitting is None:
                raise DecisionLogError(f"{where}: wanted a line with kind {KIND!r} first")
            else:
                yield record_of(document, sitting, where)
    except (EOFError, zlib.error) as error:
        raise DecisionLogError(f"{path}:{number + 1}: cannot be unpacked from here on: {error}") from None
