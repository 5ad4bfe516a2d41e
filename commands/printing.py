"""How commands print: tables for people or one JSON document on stdout, progress and logs on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

REPORT_WIDTH = 120
"""Columns of a table that is not printed to a terminal (a file, a log): no guessing, no cutting."""


def console() -> Console:
    """Where tables go."""
    return Console(width=None if sys.stdout.isatty() else REPORT_WIDTH)


def log_console() -> Console:
    """Where progress and notes go."""
    return Console(stderr=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str | None = None) -> Table:
    """A table: numbers to the right, everything else to the left."""
    built = Table(title=title, caption=caption, title_justify="left", caption_justify="left", header_style="bold")
    cells = [[str(cell) for cell in row] for row in rows]
    for i, column in enumerate(columns):
        numeric = all(row[i][:1].isdigit() or row[i][:1] in "-+" for row in cells)
        built.add_column(column, justify="right" if numeric and i else "left", overflow="fold")
    for row in cells:
        built.add_row(*row)
    return built


def print_json(document: Any) -> None:
    """One JSON document on stdout, without NaN."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def progress(quiet: bool = False) -> Progress:
    """A progress bar on stderr; use as a context manager."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=log_console(),
        disable=quiet,
        transient=True,
    )


def seconds(value: float | None) -> str:
    """A latency for people."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def percent(value: float | None, digits: int = 1) -> str:
    """A share for people."""
    return "-" if value is None or math.isnan(value) else f"{value * 100:.{digits}f} %"
