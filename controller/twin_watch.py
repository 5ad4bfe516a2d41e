"""Reads what a refit last told of the simulated twin, whenever that changed."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Final

from ..telemetry.twin_report import FILE, TwinReportError, read_twin_report

_LOG: Final = logging.getLogger(__name__)


class TwinWatch:
    """The newest error of the twin that was told in a working folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet."""
        self._folder, self._seen = folder, _NOTHING
        self._error = math.nan

    def error(self) -> float:
        """The error; NaN where nobody told, or the file is none of ours. Between two changes it costs one look at its date."""
        seen = self._look()
        if seen != self._seen:
            self._seen, self._error = seen, self._read()
        return self._error

    def _look(self) -> tuple[int, ...]:
        """What changes with the file; it is replaced as a whole."""
        try:
            found = (self._folder / FILE).stat()
        except OSError:
            return _NOTHING
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> float:
        try:
            told = read_twin_report(self._folder)
        except (TwinReportError, OSError) as error:
            _LOG.warning("the twin's error is not known: %s", error)
            return math.nan
        return math.nan if told is None else told.error


_NOTHING: Final[tuple[int, ...]] = ()
