"""Commands of ours one after another, each a process of its own, and what becomes of them when we are told to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

LOCK: Final = "lock"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class AtWork(ValueError):
    """Somebody else is at work in the folder; the message is one line."""


class Stopped(Exception):
    """We were told to stop, and whichever step ran has ended."""

    def __init__(self, by: signal.Signals, step: str) -> None:
        super().__init__(f"stopped by {by.name} at {step}")
        self.by, self.step = by, step

    @property
    def exit_code(self) -> int:
        """As a shell tells of a process that a signal ended."""
        return 128 + self.by.value


class Steps:
    """Runs them. A signal is passed on to the step that runs, once as SIGTERM; a second one ends it at once."""

    def __init__(self, lock: int) -> None:
        """`lock` is the descriptor of a locked file: a step that outlives us still holds it."""
        self._lock = lock
        self._stopped_by: signal.Signals | None = None
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, step: str, arguments: Sequence[str]) -> tuple[int, dict[str, Any]]:
        """Exit code of a command, below 0 if a signal ended it, and its JSON; what it says goes to our stderr.

        Raises:
            Stopped: we were told to stop before it had ended, or before it began.
        """
        self._stop_if_told(step)
        # Without -P a folder of the user's that is called as a library would be imported instead of it. A session of its
        # own: Ctrl-C is for us, who pass it on, and all workers that a step has end with it.
        command = [sys.executable, "-P", "-m", __package__.split(".")[0], *arguments, "--json"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, start_new_session=True, pass_fds=(self._lock,)
        ) as process:
            self._running = process
            try:
                if self._stopped_by is not None:  # while it was being started
                    self._tell(signal.SIGTERM)
                out, _ = process.communicate()
            finally:
                self._running = None
        self._stop_if_told(step)
        try:
            document: Any = json.loads(out)
        except ValueError:
            document = {}
        return process.returncode, document if isinstance(document, dict) else {}

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals."""
        again = self._stopped_by is not None
        self._stopped_by = self._stopped_by or signal.Signals(number)
        self._tell(signal.SIGKILL if again else signal.SIGTERM)

    def _tell(self, what: signal.Signals) -> None:
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, what)

    def _stop_if_told(self, step: str) -> None:
        if self._stopped_by is not None:
            raise Stopped(self._stopped_by, step)


@contextmanager
def steps_in(folder: Path) -> Iterator[Steps]:
    """Run steps that work in `folder`, which nobody else may meanwhile; SIGINT, SIGTERM and SIGHUP are passed on.

    Raises:
        AtWork: somebody does already.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AtWork(
                f"{folder}: another `finetune run` is at work there; wait for it, or name another --out"
            ) from None
        steps = Steps(file.fileno())
        before = {number: signal.signal(number, steps.pass_on) for number in _SIGNALS}
        try:
            yield steps
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
