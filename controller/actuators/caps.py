"""Tells engines how many sequences and tokens they may run at once: one small JSON file a pool.

    {"fencing_token": 7, "batch_cap": 32, "token_budget": 2048}

The engines' scheduler reads its file while it runs. Files are replaced by a rename, so nobody reads half of one, and
checked against the fencing token under a lock: a leader that was paused and wakes too late writes nothing.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..fencing import UNFENCED, Fence

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_BYTES: Final = 4096


class CapFileError(OSError):
    """A file of caps is not what was written, or another writer is at it; the message names the file."""


class StaleToken(CapFileError):
    """A newer leader wrote the file: this one may not write any more."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What one pool's engines may do.

    Raises:
        ValueError: a number that cannot be, named.
    """

    fencing_token: int
    """Of the leader that wrote it; grows with every change of leader."""
    batch_cap: int
    """Sequences that run at once."""
    token_budget: int
    """Tokens in one iteration."""

    def __post_init__(self) -> None:
        """Refuse what would stop an engine."""
        for name, least in (("fencing_token", 0), ("batch_cap", 1), ("token_budget", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name}: {value!r}, wanted a whole number of at least {least}")


class CapFiles:
    """The batch-size actuator: one folder, one file a pool."""

    def __init__(self, folder: Path, fence: Fence = UNFENCED) -> None:
        """Make the folder if it is not there. `fence` keeps leaders of the past from writing."""
        self.folder, self._fence = folder, fence
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, pool: str) -> Path:
        """Where the caps of a pool are. ValueError if its name cannot be a file's."""
        if not _NAME.fullmatch(pool):
            raise ValueError(f"pool {pool!r}: wanted letters, digits, '_', '.' and '-' only")
        return self.folder / f"{pool}.json"

    def read(self, pool: str) -> Caps | None:
        """What stands in the file; None if there is none. CapFileError, naming file and field, if it is broken."""
        path = self.path(pool)
        try:
            text = path.read_bytes()[: _MAX_BYTES + 1]
        except FileNotFoundError:
            return None
        return _parsed(text, path)

    def apply(self, pool: str, batch_cap: int, token_budget: int, fencing_token: int = 0) -> bool:
        """Write a pool's caps and read them back; False if they stood there already.

        Raises:
            ValueError: numbers that cannot be.
            StaleToken: the file has a newer token; it stays as it is.
            Fenced: a newer leader took over.
            CapFileError: another process is writing just now, or did so since: try again at the next tick.
        """
        wanted = Caps(fencing_token, batch_cap, token_budget)
        with self._fence.held(), self._locked():
            present = self._present(pool)
            if present == wanted:
                return False
            if present and present.fencing_token > fencing_token:
                raise StaleToken(
                    f"{self.path(pool)}: has fencing token {present.fencing_token}, this writer has {fencing_token};"
                    " another sidecar leads now"
                )
            part = self.folder / f".{pool}.json.part"
            part.write_text(json.dumps(asdict(wanted)) + "\n", encoding="utf-8")
            part.replace(self.path(pool))
            written = self.read(pool)
        if written != wanted:
            raise CapFileError(f"{self.path(pool)}: reads {written}, wrote {wanted}; something else writes there")
        return True

    def _present(self, pool: str) -> Caps | None:
        """What stands in the file. A broken one was not written here, and is written over."""
        try:
            return self.read(pool)
        except CapFileError:
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out, so that nobody wakes up between looking at the token and writing."""
        path = self.folder / ".lock"
        with path.open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CapFileError(f"{path}: another process writes caps just now; trying again next time") from None
            yield


def _parsed(text: bytes, path: Path) -> Caps:
    names = [f.name for f in fields(Caps)]
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        document: Any = json.loads(text)
        if not isinstance(document, dict) or set(document) != set(names):
            raise ValueError(f"wanted exactly the fields {', '.join(names)}")
        return Caps(**document)
    except (ValueError, RecursionError) as error:
        raise CapFileError(f"{path}: {error}; it is written anew with the next caps") from None
