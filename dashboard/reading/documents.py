"""How tables and figures in words are handed to a page: JSON-ready, in words and numbers as they are to be read.

Nothing here is HTML: a page puts every text in as text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NotRequired, TypedDict

Tone = Literal["", "good", "warn", "bad", "muted"]
UNKNOWN: Final = "–"


class Card(TypedDict):
    """One figure in large type."""

    name: str
    value: str
    unit: str
    more: str
    """A line below."""
    tone: Tone


class Cell(TypedDict):
    """One cell of a table."""

    text: str
    more: str
    """After it, smaller."""
    tone: Tone
    link: str
    """What choosing it opens, as the page's address names it; nothing for most."""
    parts: NotRequired[list[str]]
    """The text as things that stay whole: lines break between them."""


class Column(TypedDict):
    """One column."""

    name: str
    unit: str
    number: bool
    """Aligned to the right."""


class Table(TypedDict):
    """A table; the first cell of each row names it."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    empty: str
    """What stands there where there are no rows."""


def card(name: str, value: str, unit: str = "", more: str = "", tone: Tone = "") -> Card:
    """A card."""
    return {"name": name, "value": value, "unit": unit, "more": more, "tone": tone}


def cell(text: str, more: str = "", tone: Tone = "", link: str = "") -> Cell:
    """A cell."""
    return {"text": text, "more": more, "tone": tone, "link": link}


def listing(things: Sequence[str], separator: str, none: str, tone: Tone = "") -> Cell:
    """A cell of several things, or of `none` where there are none of them."""
    if not things:
        return cell(none, tone=tone)
    parts = [f"{thing}{separator}" for thing in things[:-1]] + [things[-1]]
    return {**cell(" ".join(parts), tone=tone), "parts": parts}


def column(name: str, unit: str = "", *, number: bool = True) -> Column:
    """A column, of numbers unless told otherwise."""
    return {"name": name, "unit": unit, "number": number}


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], empty: str = "") -> Table:
    """A table."""
    return {"caption": caption, "columns": list(columns), "rows": [list(row) for row in rows], "empty": empty}


def number(value: float | None, digits: int = 3) -> str:
    """A number in a few significant digits, thousands apart; what is not known is a dash."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0.0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def fixed(value: float | None, places: int = 2, *, signed: bool = False) -> str:
    """A number with so many places, for columns that are to line up."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = f"{value:+,.{places}f}" if signed else f"{value:,.{places}f}"
    zero = f"{0:.{places}f}"
    return zero if text in (f"+{zero}", f"-{zero}") else text.replace("-", "−")


def percent(share: float | None, places: int = 1, *, signed: bool = False) -> str:
    """A share in percent, without the sign %."""
    return fixed(None if share is None else share * 100.0, places, signed=signed)


def count(value: float | None) -> str:
    """A whole number."""
    return fixed(value, 0)


def lasting(seconds: float) -> str:
    """A span of time in words."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 1.0:
        return f"{seconds * 1000.0:.0f} ms"
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    if seconds < 7200.0:
        return f"{seconds / 60.0:.0f} min"
    return f"{seconds / 3600.0:.1f} h"


def duration_s(value: float | None) -> str:
    """Latency: seconds, in two or three digits."""
    return number(value, 3 if value is not None and value >= 1.0 else 2)
