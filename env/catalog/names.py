"""Finding a catalogue entry by name, and saying what was meant when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class CatalogError(ValueError):
    """A name that the catalogue does not hold; the message names the closest ones it does."""


def find(kind: str, name: str, entries: Mapping[str, T], aliases: Mapping[str, str]) -> T:
    """The entry called `name`, letter case ignored.

    Args:
        kind: what is looked for, for the message ("GPU", "model", "link").
        name: a full name or an alias.
        entries: entries by full name.
        aliases: full names by lower-case alias; full names in lower case are among them.

    Raises:
        CatalogError: no entry has this name.
    """
    full = aliases.get(name.strip().lower())
    if full is not None:
        return entries[full]
    close = get_close_matches(name.strip().lower(), list(aliases), n=8, cutoff=0.4)
    nearest = list(dict.fromkeys(aliases[c] for c in close))[:3] or list(entries)[:3]
    raise CatalogError(f"unknown {kind} {name!r}; closest in the catalogue: {', '.join(nearest)}")
