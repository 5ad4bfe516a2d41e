"""Distributions of delays as rows of numbers, and draws from them in compiled code.

Symbols: `P` pools, `D` kinds of delay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..contract import FloatArray
from ..scenario.delays import Delay, EmpiricalDelay, LognormalDelay
from . import chance
from .engine_state import PS_PER_S, compiled
from .state import DELAY_WIDTH, FAR_PS, KNOTS, MEAN_S, N_DELAYS, N_KNOTS, SPREAD_FRAC


def delay_row(delay: Delay | None) -> FloatArray:
    """`[DELAY_WIDTH]`; without a delay it never ends."""
    row = np.zeros(DELAY_WIDTH)
    row[MEAN_S] = np.inf if delay is None else delay.mean_s
    if isinstance(delay, LognormalDelay):
        row[SPREAD_FRAC] = delay.spread_frac
    elif isinstance(delay, EmpiricalDelay):
        row[N_KNOTS] = len(delay.quantiles)
        row[KNOTS : KNOTS + 2 * len(delay.quantiles)] = np.ravel(delay.quantiles)
    return row


def no_delays(n_pools: int) -> FloatArray:
    """`[P, D, DELAY_WIDTH]` of nothing that takes any time."""
    return np.zeros((n_pools, N_DELAYS, DELAY_WIDTH))


@compiled
def drawn_ps(
    delays: NDArray[np.float64], pool: int, kind: int, seed: int, purpose: int, subject: int, attempt: int
) -> int:
    """One draw from `delays[pool, kind]`, in whole picoseconds."""
    mean_s, count = delays[pool, kind, MEAN_S], int(delays[pool, kind, N_KNOTS])
    if mean_s == np.inf:
        return FAR_PS
    if count == 0:
        seconds = chance.log_normal(mean_s, delays[pool, kind, SPREAD_FRAC], seed, purpose, subject, attempt)
    else:
        share = chance.uniform(seed, purpose, subject, 2 * attempt)
        place = KNOTS + 2
        while place < KNOTS + 2 * (count - 1) and delays[pool, kind, place] <= share:
            place += 2
        before, after = delays[pool, kind, place - 2], delays[pool, kind, place]
        low, high = delays[pool, kind, place - 1], delays[pool, kind, place + 1]
        seconds = low + (high - low) * (share - before) / (after - before)
    return int(min(seconds * PS_PER_S, float(FAR_PS)))
