"""Reading a record to learn from it: all that can be read, and what is missing or broken."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..store import TickEntry
from .defects import Defect, DefectKind
from .episodes import Item, Record, episodes_of
from .segments import files_of, lines_of


def read(paths: Iterable[Path], *, memories: bool = True, newer_than_unix_s: float | None = None) -> Record:
    """Episodes and defects of logs: of files, packed or not, with their closed segments, or of folders that hold them.

    Args:
        paths: in the order in which they were written.
        memories: whether to keep what the policies remembered.
        newer_than_unix_s: files last written to before this are not read.

    Raises:
        FileNotFoundError: no log there.
    """
    files = [file for path in paths for file in files_of(path)]
    if newer_than_unix_s is not None:
        files = [file for file in files if file.stat().st_mtime >= newer_than_unix_s]
    return episodes_of(_lines(files), memories=memories)


def read_stream(entries: Iterable[tuple[str, TickEntry]], *, memories: bool = True) -> Record:
    """Episodes and defects of a store's stream: ids and entries, oldest first."""
    return episodes_of(entries, memories=memories)


def _lines(files: Iterable[Path]) -> Iterator[Item]:
    for path in files:
        number = 0
        try:
            for number, line in enumerate(lines_of(path), start=1):
                yield f"{path}:{number}", line
        except (OSError, EOFError, zlib.error) as error:
            where = f"{path}:{number + 1}"
            yield where, Defect(DefectKind.UNREADABLE_FILE, where, "", 0, f"cannot be read from here on: {error}")
