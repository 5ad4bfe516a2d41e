"""Values that hold from one time to the next.

Symbols: `K` steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contract import FloatArray


class SeriesError(ValueError):
    """A series cannot be used; the message is one line: file, row, column, value, and what would be right."""


@dataclass(frozen=True, slots=True, eq=False)
class StepSeries:
    """Each value holds until the next, the last for ever."""

    from_s: FloatArray
    """`[K]` rising, 0 first."""
    values: FloatArray
    """`[K]`"""
    end_s: float
    """Until when it was watched."""

    def window(self, offset_s: float, duration_s: float, speedup: float = 1.0) -> StepSeries:
        """What happens in a run of `duration_s` that begins at `offset_s` of this series, `speedup` times as fast."""
        first = int(np.searchsorted(self.from_s, offset_s, side="right")) - 1
        last = int(np.searchsorted(self.from_s, offset_s + duration_s * speedup, side="left"))
        from_s = np.maximum(self.from_s[first:last] - offset_s, 0.0) / speedup
        return StepSeries(from_s, self.values[first:last], duration_s)

    def without_repeats(self) -> StepSeries:
        """The same with a step only where the value changes."""
        kept = np.concatenate([[True], np.diff(self.values) != 0.0])
        return StepSeries(self.from_s[kept], self.values[kept], self.end_s)

    def losses_per_hr(self) -> float:
        """Of machines over time: how many were taken away per machine and hour."""
        held_s = np.diff(self.from_s, append=max(self.end_s, self.from_s[-1]))
        machine_hr = float((held_s * self.values).sum()) / 3600.0
        taken = float(np.maximum(-np.diff(self.values), 0.0).sum())
        return taken / machine_hr if machine_hr > 0.0 else 0.0
