"""A trial that waits: turns are taken in `active` alone, and the mode is another one. Since when, until when, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..env.contract import Mode

FIGURE: Final = "waits"
"""Where a trial's evidence tells of it."""


@dataclass(frozen=True)
class Wait:
    """Of a trial, for the mode `active`."""

    mode: Mode
    """In which the sidecar is instead."""
    since: datetime
    """UTC, of the wall."""

    def seconds(self, now: datetime) -> float:
        """For so long it has waited; a clock that was set back makes it no less than 0."""
        return max((now - self.since).total_seconds(), 0.0)

    def in_words(self, patience_s: float, progress: str) -> str:
        """What it waits for, and when it ends if that does not come.

        Args:
            patience_s: so long it waits at most.
            progress: how far the trial has come.
        """
        until = _minute(self.since + timedelta(seconds=patience_s))
        waits = f"waits since {_minute(self.since)}, the mode is {self.mode} and turns are taken in {Mode.ACTIVE}"
        return f"{waits}; ends without a verdict at {until}; {progress}"

    def given_up(self, progress: str) -> str:
        """Why the trial is over, once it has waited long enough."""
        return f"not known: the mode has not been {Mode.ACTIVE} since {_minute(self.since)}; {progress}"

    def as_json(self) -> dict[str, str]:
        """For the evidence."""
        return {"mode": self.mode.value, "since": self.since.isoformat()}


def read_wait(figures: Mapping[str, Any]) -> Wait | None:
    """What `as_json` wrote among the figures of a trial's evidence; None if it did not wait, or that cannot be read."""
    told = figures.get(FIGURE)
    if not isinstance(told, dict):
        return None
    try:
        since = datetime.fromisoformat(str(told["since"]))
        return Wait(Mode(told["mode"]), since.replace(tzinfo=since.tzinfo or UTC))
    except (KeyError, ValueError):
        return None


def _minute(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
