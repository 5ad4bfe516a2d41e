"""What would be up by now if the fallback rule had decided all along: the measure that a policy is held to. Pure.

A replica that the rule has wanted for a whole cold start would serve by now; one that it stopped wanting would be gone.

Symbols: `P` pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..env.contract import FloatArray


@dataclass(frozen=True)
class Shadow:
    """The rule's wishes of the last cold start."""

    times_s: tuple[float, ...]
    """When each was wished; the first one is what was there before."""
    wanted: tuple[FloatArray, ...]
    """`[P]` each."""


def found(replicas: FloatArray) -> Shadow:
    """Before the rule's first wish: what is up."""
    return Shadow((-np.inf,), (replicas,))


def wished(shadow: Shadow, now_s: float, replicas: FloatArray, cold_start_s: FloatArray) -> Shadow:
    """With the wish of `now_s`; those that no pool's cold start (`[P]`) reaches back to are forgotten, but for one."""
    since_s = now_s - float(np.nanmax(cold_start_s, initial=0.0))
    kept = sum(time_s <= since_s for time_s in shadow.times_s[1:])
    return Shadow((*shadow.times_s[kept:], now_s), (*shadow.wanted[kept:], replicas))


def up(shadow: Shadow, now_s: float, cold_start_s: FloatArray) -> FloatArray:
    """`[P]` replicas that would serve: the fewest that were wanted at any moment of the last cold start."""
    times = np.array(shadow.times_s)
    wanted = np.stack(shadow.wanted)
    until = np.append(times[1:], np.inf)  # each wish stands until the next one
    in_force = until[:, None] > now_s - cold_start_s
    fewest: FloatArray = np.where(in_force, wanted, np.inf).min(axis=0)
    return fewest
