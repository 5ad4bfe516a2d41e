"""When decisions rest on nothing: which telemetry did not arrive, what was looked for and where. Pure."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ..env.contract import Cluster, Reason, ReasonCode
from .observing import Observation

_SHOWN: Final = 3
"""Replicas named in one line."""


def blind(observation: Observation, cluster: Cluster, stale_after_s: float, *, resumed: bool) -> Reason | None:
    """Why the policy must not decide by what was seen; None if it may.

    Args:
        observation: of this tick.
        cluster: its pools.
        stale_after_s: older telemetry counts as none.
        resumed: the cluster ran before this sidecar did, which has not seen anything of its traffic yet.
    """
    snapshot = observation.snapshot
    if resumed and not snapshot.known("arrival_rate_per_s").any():
        return _reason(ReasonCode.RESUMING, "classes", math.nan, stale_after_s, "the first look at running traffic")
    if observation.log_age_s > stale_after_s:
        return _reason(
            ReasonCode.MISSING_TELEMETRY, "classes", observation.log_age_s, stale_after_s, observation.log_trouble
        )
    serving = snapshot.plausible("ready", 0.0) > 0  # one that was told to stop is not asked any more
    age_s = snapshot.telemetry_age_s
    silent = serving & ~((age_s >= 0) & (age_s <= stale_after_s))
    for p in np.flatnonzero(silent):
        name = cluster.pool_names[p]
        came = any(r.page is not None for r in observation.readings if r.pool == name)
        code = ReasonCode.STALE_TELEMETRY if came else ReasonCode.MISSING_TELEMETRY
        return _reason(code, name, float(age_s[p]), stale_after_s, _looked_for(observation, name))
    return None


def _reason(code: ReasonCode, subject: str, age_s: float, wanted_s: float, detail: str) -> Reason:
    return Reason(code, subject, age_s, wanted_s, detail)


def _looked_for(observation: Observation, pool: str) -> str:
    """What the pool's replicas were asked, and what came of it."""
    own = [r for r in observation.readings if r.pool == pool]
    said = [r.error for r in own if r.error]
    if not said:
        return "no replica with a metrics page is known"
    more = f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return f"no metrics page of {len(said)} replicas: {'; '.join(said[:_SHOWN])}{more}"
