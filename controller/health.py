"""What is wrong with a sidecar, in words, sorted by what it means: of no use now, or of use with less than it should have.

It is of no use when it cannot decide (nothing is known of any request, or of any pool), or when what it decides does not
reach the proxy. All else it can do without: a policy that fails has a fallback, a price that is old is kept, a store or a
disk that is gone holds up no tick, a pool that is silent is held. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..env.contract import Snapshot


@dataclass(frozen=True)
class Health:
    """What is wrong; nothing, if both are empty."""

    problems: tuple[str, ...] = ()
    """It cannot decide, or its decisions do not reach the world: it is not ready."""
    warnings: tuple[str, ...] = ()
    """It decides and acts all the same."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """All of it, the worse first."""
        return (*self.problems, *self.warnings)

    def with_problems(self, problems: Iterable[str]) -> Self:
        """And these."""
        return type(self)((*self.problems, *problems), self.warnings)

    def with_warnings(self, warnings: Iterable[str]) -> Self:
        """And these."""
        return type(self)(self.problems, (*self.warnings, *warnings))

    def and_also(self, other: Health) -> Self:
        """What is wrong here and there."""
        return self.with_problems(other.problems).with_warnings(other.warnings)


WELL = Health()


def of_sight(
    snapshot: Snapshot, log_trouble: str, log_age_s: float, sources: Iterable[str], stale_after_s: float
) -> Health:
    """What could not be seen at a tick.

    Args:
        snapshot: what was seen.
        log_trouble: why the record of requests could not be read now; empty if it could.
        log_age_s: since it last could, or since it was first looked for.
        sources: troubles of all others.
        stale_after_s: older telemetry counts as none.
    """
    health = WELL
    if log_trouble:
        told = (f"access log: {log_trouble}",)
        health = health.with_problems(told) if log_age_s > stale_after_s else health.with_warnings(told)
    serving = snapshot.plausible("ready", 0.0) > 0
    fresh = (snapshot.telemetry_age_s >= 0) & (snapshot.telemetry_age_s <= stale_after_s)
    if bool(serving.any()) and not bool((serving & fresh).any()):
        newest_s = float(
            np.where(serving & ~np.isnan(snapshot.telemetry_age_s), snapshot.telemetry_age_s, np.inf).min()
        )
        since = f"for {newest_s:.0f} s" if np.isfinite(newest_s) else "yet"
        health = health.with_problems((f"no pool has told anything {since}: the cluster is held as it is",))
    return health.with_warnings(sources)
