"""The folder of a run: what was run, its rows, and those of a run that is not done yet.

While a run goes on, finished jobs lie in a journal of JSON lines (JSON keeps a float's every bit); at its end all
rows become one Parquet file. A run that was cut off goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .jobs import Job
from .manifest import difference
from .rows import Row, read_rows, write_rows

MANIFEST, ROWS, JOURNAL = "manifest.json", "rows.parquet", "rows.jsonl"


class RunFolderError(ValueError):
    """The folder holds something else; the message is one line."""


class RunFolder:
    """A folder that is of this run."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Make the folder, or go on with it.

        Raises:
            RunFolderError: it holds another run's rows, or rows that nobody says the origin of.
            RowsError: its rows are of another version.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        known = _manifest(folder)
        if known is None:
            self._write(MANIFEST, json.dumps(manifest, indent=2) + "\n")
        elif other := difference(known, manifest):
            raise RunFolderError(
                f"{folder}: holds rows of another run ({other}); give that run's arguments and code to go on with it,"
                " or another --out"
            )
        self.done: dict[Job, list[Row]] = {}
        if (folder / ROWS).is_file():
            self._take(read_rows(folder / ROWS))
        for rows in _journal(folder / JOURNAL):
            self._take(rows)

    def add(self, job: Job, rows: list[Row]) -> None:
        """Keep a job that is done, at once."""
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(rows, allow_nan=False) + "\n")
        self.done[job] = rows

    def finish(self, jobs: Sequence[Job]) -> None:
        """All `jobs` are done: their rows, in that order, become one file."""
        write_rows(self.folder / ROWS, [row for job in jobs for row in self.done[job]])
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Keep another file beside the rows."""
        self._write(name, text)

    def _take(self, rows: Iterable[Row]) -> None:
        fresh: dict[Job, list[Row]] = {}
        for row in rows:
            job = Job(row["suite"], row["scenario"], row["policy"], float(row["headroom"]))
            fresh.setdefault(job, []).append(row)
        self.done.update(fresh)

    def _write(self, name: str, text: str) -> None:
        temporary = self.folder / f"{name}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.folder / name)


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / ROWS).exists() or (folder / JOURNAL).exists():
            raise RunFolderError(f"{folder}: has rows but no {MANIFEST} that says of what; wanted another --out")
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise RunFolderError(f"{path}: wanted a JSON object")
    return document


def _journal(path: Path) -> Iterable[list[Row]]:
    """The jobs in a journal. What follows its last whole line was cut off while it was written, and is run again."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows = json.loads(line)
            yield [dict(row) for row in rows]
        except (ValueError, TypeError):
            raise RunFolderError(f"{path}: line {number} is no job's rows; delete the file to run them again") from None
