"""Tables of reports: cells that know how they are shown and how they are sorted. Templates escape them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

UNKNOWN: Final = "–"


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    sort: float | str = ""
    """What it is sorted by; text without it by itself."""
    ends: str = ""
    """An interval, shown smaller."""
    href: str = ""
    warn: bool = False
    """It stands out."""
    words: bool = False
    """It may break into lines."""


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str
    number: bool = True
    """Right-aligned, and sorted as numbers."""
    says: str = ""
    """What it means, where the title is too short for that."""


@dataclass(frozen=True)
class Row:
    """One row, and what pages may filter it by."""

    cells: Sequence[Cell]
    filters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table."""

    key: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""


def words(text: str, href: str = "") -> Cell:
    """Text that is sorted by itself."""
    return Cell(text, text, href=href)


def number(value: float | None, digits: int = 2, warn: bool = False) -> Cell:
    """A number, or that it is not known."""
    if value is None or math.isnan(value):
        return Cell(UNKNOWN)
    return Cell(f"{value:,.{digits}f}", value, warn=warn)


def counted(n: int, what: str) -> str:
    """So many of something, in words: one has no s."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def interval(own: Mapping[str, Any] | None, digits: int = 2, factor: float = 1.0, sign: bool = False) -> Cell:
    """A mean `[low, high]` of an evaluation, times `factor`."""
    if own is None:
        return Cell(UNKNOWN)
    shape = f"{'+' if sign else ''},.{digits}f"
    low, high = own["low"], own["high"]
    ends = "[?]" if low is None or high is None else f"[{low * factor:{shape}}, {high * factor:{shape}}]"
    return Cell(f"{own['mean'] * factor:{shape}}", own["mean"] * factor, ends)


def ratio(own: Mapping[str, Any] | None) -> Cell:
    """A ratio as a difference in percent, with its interval."""
    if own is None:
        return Cell(UNKNOWN)
    less_one = {end: None if own[end] is None else own[end] - 1.0 for end in ("mean", "low", "high")}
    return interval(less_one, 1, 100.0, sign=True)


def percent(value: float | None, digits: int = 2, warn: bool = False) -> Cell:
    """A share in percent."""
    return number(None if value is None else value * 100.0, digits, warn)
