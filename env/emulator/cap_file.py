"""The file that tells a running engine how much it may batch.

    {"fencing_token": 7, "batch_cap": 32, "token_budget": 2048}

It is looked at often and read when it changed. What cannot be used, or was written by a leader of the past, changes
nothing and is counted. An engine never goes above its start values.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

_LOG: Final = logging.getLogger(__name__)
_MAX_BYTES: Final = 4096


class CapsError(ValueError):
    """Caps that cannot be used; the message names the field."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What an engine may do."""

    fencing_token: int
    """Of the leader that wrote it; grows with every change of leader."""
    batch_cap: int
    """Sequences that run at once."""
    token_budget: int
    """Tokens in one iteration."""

    def within(self, start: Caps) -> Caps:
        """The same, but not above the start values."""
        return Caps(
            self.fencing_token,
            min(self.batch_cap, start.batch_cap),
            min(self.token_budget, start.token_budget),
        )


def parse_caps(text: bytes) -> Caps:
    """The caps that a file holds.

    Raises:
        CapsError: not JSON, not exactly these fields, or numbers that would stop an engine.
    """
    names = [f.name for f in fields(Caps)]
    if len(text) > _MAX_BYTES:
        raise CapsError(f"more than {_MAX_BYTES} bytes")
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CapsError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or set(document) != set(names):
        raise CapsError(f"wanted exactly the fields {', '.join(names)}")
    for name, least in (("fencing_token", 0), ("batch_cap", 1), ("token_budget", 1)):
        value = document[name]
        if type(value) is not int or value < least:
            raise CapsError(f"{name}: {value!r}, wanted a whole number of at least {least}")
    return Caps(**document)


class CapFile:
    """One cap file, watched. `caps` is the last good one, within the start values."""

    def __init__(self, path: Path, start: Caps) -> None:
        """`start` holds until a good file is found; the file may come later."""
        self.path = path
        self.caps = start
        self.errors = 0
        """Contents that could not be used."""
        self._start = start
        self._seen: tuple[int, int, int] | None = None

    def poll(self) -> bool:
        """Look at the file; True if `caps` has changed."""
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return False
            self._seen = seen
            return self._take(self._read())
        except FileNotFoundError:
            return False  # a file that is not there yet, or just being replaced, is no error
        except (CapsError, OSError) as error:
            self.errors += 1
            _LOG.warning("%s: %s; keeping batch_cap %d", self.path, error, self.caps.batch_cap)
            return False

    def _read(self) -> Caps:
        # A named pipe would block the server for ever.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
        return parse_caps(text or b"")  # None of what is no file

    def _take(self, written: Caps) -> bool:
        if written.fencing_token < self.caps.fencing_token:
            raise CapsError(f"fencing_token {written.fencing_token} is older than {self.caps.fencing_token}")
        before, self.caps = self.caps, written.within(self._start)
        return (before.batch_cap, before.token_budget) != (self.caps.batch_cap, self.caps.token_budget)
