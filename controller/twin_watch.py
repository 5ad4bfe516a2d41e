"""Reads what a refit last told of the simulated twin, at most once a minute."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..telemetry.twin_report import TwinReportError, read_twin_report

_LOG: Final = logging.getLogger(__name__)
EVERY_S: Final = 60.0
"""Of the wall: a refit tells once a day."""


class TwinWatch:
    """The newest error of the twin that was told in a working folder."""

    def __init__(self, folder: Path, wall: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read yet."""
        self._folder, self._wall = folder, wall
        self._read_at_s, self._error = -math.inf, math.nan

    def error(self) -> float:
        """The error; NaN where nobody told, or the file is none of ours."""
        now_s = self._wall()
        if now_s - self._read_at_s >= EVERY_S:
            self._read_at_s = now_s
            try:
                told = read_twin_report(self._folder)
                self._error = math.nan if told is None else told.error
            except (TwinReportError, OSError) as error:
                _LOG.warning("the twin's error is not known: %s", error)
                self._error = math.nan
        return self._error
