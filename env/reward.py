"""What a tick is worth to the agent: dollars saved, minus the price of missed targets.

What is wanted is that no class misses more than its allowance over an hour, so a miss costs the more the less of the
allowance is left: little while there is plenty, the whole price once it is used up. (A linear price of every miss asks for
something else: one price leaves some clusters far above their targets and others far below.)

Symbols: `C` classes; `...` an optional leading batch axis.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .contract import FloatArray
from .window import FINISHED, LOST, MET

WORST_TICK: Final = 15.0
"""Misses of one tick, in allowances, beyond which a worse tick is not punished further: a lost minute is lost."""
HOUR_S: Final = 3600.0
"""The allowance is that of an hour; misses of longer ago are forgotten exponentially over as long."""
USED: Final = np.array([0.0, 0.5, 1.0, 4.0, 5.0])
"""Shares of an hour's allowance that are used up ..."""
CHARGED: Final = np.array([0.2, 0.2, 1.0, 1.0, 0.3])
"""... and what of its price a miss then costs. A world that no policy can hold must not drown all others: far beyond the
allowance a miss costs less again."""


def reward(bill_usd: FloatArray, reference_usd: FloatArray, charged: FloatArray, miss_price: FloatArray) -> FloatArray:
    """`[...]` reward of one tick, -1 for a tick at the reference bill with every target met.

    Args:
        bill_usd: `[...]` the tick's bill.
        reference_usd: `[...]` the bill of a usual tick; it makes the rewards of unlike clusters alike.
        charged: `[..., C]` see `charge`.
        miss_price: `[...]` price of missing the whole allowance, in reference bills.
    """
    dollars: FloatArray = -bill_usd / np.maximum(reference_usd, 1e-9)
    penalty: FloatArray = miss_price * charged.sum(axis=-1)
    return dollars - penalty


def charge(missed: FloatArray, used: FloatArray, tick_s: float, elapsed_s: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What of a tick's misses is charged, and what of the hour's allowance is then used up.

    Args:
        missed: `[..., C]` in usual ticks' allowances (`allowances_missed`).
        used: `[..., C]` share of the hour's allowance that was used up before; 0 at the start.
        tick_s: length of the tick.
        elapsed_s: `[...]` for how long the allowance has been counted: before an hour is over nothing is forgotten.

    Returns:
        `[..., C]` allowances charged, and `[..., C]` the share used up.
    """
    now = used * kept_of_hour(elapsed_s, tick_s)[..., None] + missed * (tick_s / HOUR_S)
    # Misses of one tick cross several steps of the price at most here and there: its middle is near enough.
    charged: FloatArray = missed * np.interp(0.5 * (used + now), USED, CHARGED)
    return charged, now


def kept_of_hour(counted_s: FloatArray, elapsed_s: FloatArray | float) -> FloatArray:
    """`[...]` what is kept of the hour's misses after `elapsed_s` more: all of it until an hour has been counted."""
    kept: FloatArray = np.where(counted_s + elapsed_s > HOUR_S, np.exp(-np.asarray(elapsed_s) / HOUR_S), 1.0)
    return kept


def allowances_missed(tally: FloatArray, wanted_attainment: FloatArray, reference_requests: FloatArray) -> FloatArray:
    """`[..., C]` misses of one tick in usual ticks' allowances, at most `WORST_TICK`.

    Args:
        tally: `[..., C, W]` the tick's tally (`env.window`).
        wanted_attainment: `[..., C]` share of requests that must meet their target.
        reference_requests: `[..., C]` requests of a usual tick; zero for a class that is padding.
    """
    missed = tally[..., FINISHED] + tally[..., LOST] - tally[..., MET]
    allowed = np.maximum(1.0 - wanted_attainment, 1e-3) * reference_requests
    misses = np.divide(missed, allowed, out=np.zeros_like(missed), where=allowed > 0)
    bounded: FloatArray = np.minimum(misses, WORST_TICK)
    return bounded
