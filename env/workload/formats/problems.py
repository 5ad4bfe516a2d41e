"""How a trace is refused: one line with file, row, column, value, and what would be right."""

from __future__ import annotations

from pathlib import Path

SHOWN_PATH = 400
SHOWN = 60  # characters of a value or a list of names that fit into a one-line message


class TraceError(ValueError):
    """A trace cannot be used; the message is one line: file, row, column, value, and what would be right."""


def bad_value(path: Path, row: int, name: str, seen: str, wanted: str) -> TraceError:
    """Of the value in a row (from 0 here, from 1 in the message)."""
    return TraceError(f"{shown(path)}: row {row + 1}: {name}: {short(printable(seen))}: wanted {wanted}")


def bad_file(path: Path, what: str) -> TraceError:
    """Of the file as a whole."""
    return TraceError(f"{shown(path)}: {printable(what)}")


def unreadable(path: Path, error: BaseException) -> TraceError:
    """Of a file that a library cannot read."""
    reason = short(" ".join(str(error).split()), 2 * SHOWN) or type(error).__name__
    return bad_file(path, f"not readable as CSV, Parquet or JSON lines: {reason}")


def shown(path: Path) -> str:
    """A file's name, fit for a message, however long it is."""
    return short(printable(str(path)), SHOWN_PATH)


def printable(text: str) -> str:
    """Fit for a terminal, whatever the file holds."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short(text: str, most: int = SHOWN) -> str:
    """Cut to what fits into a message."""
    return text if len(text) <= most else f"{text[:most]}..."
