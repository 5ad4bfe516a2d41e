"""Who decides and who is on trial, in one small file that is replaced as a whole; and every move that led there.

The file holds the last move too, so that a machine that stops between the two writes loses none: whoever writes next adds
it to the history first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..checkpoint import CheckpointError

KIND: Final = "poolpilot-policy-registry"
FORMAT: Final = 1
MAX_STATE_BYTES: Final = 1 << 20
FOUNDED, PROMOTED, ROLLED_BACK = "founded", "promoted", "rolled back"
TRIAL, ENDED = "trial", "trial ended"
ADDED, EVIDENCE = "added", "evidence"
MOVES: Final = (FOUNDED, PROMOTED, ROLLED_BACK, TRIAL, ENDED)
"""Events that change the state; each makes a generation."""
KINDS: Final = (*MOVES, ADDED, EVIDENCE)


class StateError(CheckpointError):
    """A registry's files cannot be; the message names file and field."""


@dataclass(frozen=True)
class Event:
    """One thing that happened to a version."""

    kind: str
    """One of `KINDS`."""
    version: str
    at: str
    """UTC, ISO 8601."""
    generation: int
    """Of the state that it led to, or found."""
    before: str = ""
    """Who decided before a promotion or a rollback."""
    reason: str = ""
    forced: bool = False
    """Somebody wanted it without the evidence."""
    by: str = ""
    """Who did it: host and process."""
    evidence: tuple[tuple[str, str], ...] = ()
    """What it rests on: gate and sha256 of its file."""

    def as_json(self) -> dict[str, Any]:
        """A line of the history."""
        return {own.name: getattr(self, own.name) for own in fields(self)} | {"evidence": dict(self.evidence)}

    def line(self) -> bytes:
        """As it stands in the history, without the line's end."""
        return json.dumps(self.as_json()).encode()


@dataclass(frozen=True)
class State:
    """Where a registry stands."""

    generation: int
    """Grows with every move: two states that name the same versions are told apart."""
    incumbent: str
    """Version that decides."""
    on_trial: str
    """Version that is tried beside it; empty if none is."""
    event: Event
    """The move that led here."""

    def text(self) -> bytes:
        """The file's content."""
        document = {
            "kind": KIND,
            "format": FORMAT,
            "generation": self.generation,
            "incumbent": self.incumbent,
            "on_trial": self.on_trial,
            "event": self.event.as_json(),
        }
        return (json.dumps(document, indent=2) + "\n").encode()


def read_state(path: Path) -> State | None:
    """The state in a file; None if there is none.

    Raises:
        StateError: it is something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror or error}") from None
    document = _object(text, str(path))
    seen = (document.get("kind"), document.get("format"))
    if seen != (KIND, FORMAT):
        raise StateError(f"{path}: kind {seen[0]!r} format {seen[1]!r}, wanted {KIND!r} format {FORMAT}")
    generation, incumbent, on_trial = (document.get(name) for name in ("generation", "incumbent", "on_trial"))
    if not isinstance(generation, int) or isinstance(generation, bool) or generation < 1:
        raise StateError(f"{path}: generation: {str(generation)[:60]!r}, wanted a whole number above 0")
    for name, value in (("incumbent", incumbent), ("on_trial", on_trial)):
        if not isinstance(value, str) or not (is_version(value) or (name == "on_trial" and not value)):
            raise StateError(f"{path}: {name}: {str(value)[:60]!r}, wanted a version")
    return State(generation, str(incumbent), str(on_trial), _event(document.get("event"), f"{path}: event"))


def read_events(path: Path) -> list[Event]:
    """A history's events, oldest first; a last line that a crash cut in half is left out.

    Raises:
        StateError: names the line that cannot be.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(f"{path}: {error.strerror or error}") from None
    return [_event(_object(line, f"{path}:{n}"), f"{path}:{n}") for n, line in enumerate(lines[:-1], start=1)]


def with_last(events: Sequence[Event], state: State) -> list[Event]:
    """The history with the state's own move, if a crash kept it out."""
    written = any(e.generation == state.generation and e.kind in MOVES for e in events)
    return [*events] if written else [*events, state.event]


def reigns(events: Sequence[Event]) -> list[str]:
    """The versions that a rollback goes back through, the one that decides last. Pure.

    A promotion adds one; a rollback takes off all down to the version that it went back to.
    """
    found: list[str] = []
    for event in events:
        if event.kind in (FOUNDED, PROMOTED):
            found.append(event.version)
        elif event.kind == ROLLED_BACK:
            while found and found[-1] != event.version:
                found.pop()
            found = found or [event.version]
    return found


def predecessor(events: Sequence[Event]) -> str | None:
    """The version that a rollback goes back to; None if there is none. Pure."""
    past = reigns(events)
    return past[-2] if len(past) > 1 else None


def promoted_at(events: Sequence[Event]) -> str | None:
    """When the version that decides was promoted, UTC in ISO 8601; None if it came by another way. Pure."""
    came = [event for event in events if event.kind in (FOUNDED, PROMOTED, ROLLED_BACK)]
    return came[-1].at if came and came[-1].kind == PROMOTED else None


def withdrawn(events: Sequence[Event]) -> dict[str, Event]:
    """Versions that were rolled back from and not promoted again since, with that event. Pure."""
    found: dict[str, Event] = {}
    for event in events:
        if event.kind == ROLLED_BACK:
            found[event.before] = event
            found.pop(event.version, None)
        elif event.kind == PROMOTED:
            found.pop(event.version, None)
    return found


VERSION_DIGITS: Final = 16


def is_version(text: str) -> bool:
    """Whether it looks like one."""
    return len(text) == VERSION_DIGITS and all(digit in "0123456789abcdef" for digit in text)


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        if len(text) > MAX_STATE_BYTES:
            raise ValueError(f"larger than {MAX_STATE_BYTES} bytes")
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{where}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise StateError(f"{where}: wanted a JSON object")
    return document


def _event(document: Any, where: str) -> Event:
    kinds: dict[str, type] = {"generation": int, "forced": bool, "evidence": dict}
    if not isinstance(document, dict) or set(document) != {own.name for own in fields(Event)}:
        raise StateError(f"{where}: wanted an event of a registry")
    for name, value in document.items():
        if type(value) is not kinds.get(name, str):
            raise StateError(f"{where}: {name}: {str(value)[:60]!r}, wanted {kinds.get(name, str).__name__}")
    if document["kind"] not in KINDS:
        raise StateError(f"{where}: kind: {document['kind'][:60]!r}, wanted one of {', '.join(KINDS)}")
    evidence = tuple((str(gate), str(digest)) for gate, digest in document["evidence"].items())
    return Event(**{**document, "evidence": evidence})
