"""The highest load at which the clients keep to their own schedule: which rate to try next, by what was found so far. Pure.

Clients, proxy, replicas and sidecar share one machine. Beyond some load the clients themselves do not get the processor in
time, and what they send is no longer the load that was meant: that is where a machine ends as a test stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..env.contract import FloatArray

LATE_S: Final = 0.1
"""A request that is sent this much after its time has slipped."""
MOST_SLIPPED_FRAC: Final = 0.02
"""Of a load's requests: with more the clients starve."""
PILE_FACTOR, PILE_SLACK = 1.5, 20
"""Requests under way that count as no more than before: their number wavers with the arrivals."""
TRIES: Final = 2
"""Other work on the machine may spoil a step: a rate is too much once it was so twice on end."""
FINE_ENOUGH: Final = 1.2
"""The search ends when the lowest rate that is too much is within this factor of the highest that is not."""
HIGHEST_PER_S: Final = 4096.0


@dataclass(frozen=True)
class Step:
    """A rate that was tried."""

    rate_per_s: float
    slipped_frac: float
    """Share of its requests that were sent `LATE_S` after their time, or later."""
    unserved: int
    """Requests that ended in anything but their answer."""
    piled_up: bool = False
    """More came than was answered, all the while."""

    @property
    def carried(self) -> bool:
        """Whether the clients kept to their schedule, and every request was served as fast as others came."""
        return self.slipped_frac <= MOST_SLIPPED_FRAC and self.unserved == 0 and not self.piled_up


def slipped_frac(due_s: FloatArray, sent_s: FloatArray) -> float:
    """Share of requests that were sent `LATE_S` after their time, or later; 0 where there are none.

    Args:
        due_s: `[N]` when each was to be sent.
        sent_s: `[N]` when it was.
    """
    return float(np.mean(sent_s - due_s >= LATE_S)) if len(sent_s) else 0.0


def piled_up(sent_s: FloatArray, end_s: FloatArray) -> bool:
    """Whether more and more requests were under way: markedly more when the last was sent than at half of the time.

    Args:
        sent_s: `[N]` when each was sent, rising.
        end_s: `[N]` when it was answered.
    """
    if not len(sent_s):
        return False
    half_s, whole_s = (sent_s[0] + sent_s[-1]) / 2.0, sent_s[-1]
    at_half, at_end = (int(np.sum((sent_s <= at_s) & (end_s > at_s))) for at_s in (half_s, whole_s))
    return at_end > PILE_FACTOR * at_half + PILE_SLACK


def highest_carried(steps: Sequence[Step]) -> float:
    """The highest rate that was carried; 0 if none was."""
    return max((step.rate_per_s for step in steps if step.carried), default=0.0)


def following(steps: Sequence[Step], first_per_s: float) -> float | None:
    """The rate to try next: doubled until one is too much, then between the two; None once that is known well enough."""
    if not steps:
        return first_per_s
    last = steps[-1]
    tries = sum(step.rate_per_s == last.rate_per_s for step in steps)
    if not last.carried and tries < TRIES:
        return last.rate_per_s
    carried = highest_carried(steps)
    if carried == 0.0:
        return first_per_s / 2.0 if last.rate_per_s == first_per_s else None
    too_much = min((s.rate_per_s for s in steps if not s.carried and s.rate_per_s > carried), default=None)
    if too_much is None:
        return 2.0 * carried if carried < HIGHEST_PER_S else None
    return None if too_much / carried <= FINE_ENOUGH else float(np.sqrt(carried * too_much))
