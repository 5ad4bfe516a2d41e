"""What a tick is worth to the agent: dollars saved, minus the price of every missed target.

Symbols: `C` classes; `...` an optional leading batch axis.
"""

from __future__ import annotations

import numpy as np

from .contract import FloatArray
from .window import FINISHED, LOST, MET

WORST_TICK = 15.0
"""Misses of one tick, in allowances, beyond which a worse tick is not punished further: a lost minute is lost."""


def reward(
    bill_usd: FloatArray,
    tally: FloatArray,
    wanted_attainment: FloatArray,
    miss_price: FloatArray,
    reference_usd: FloatArray,
    reference_requests: FloatArray,
) -> FloatArray:
    """`[...]` reward of one tick, -1 for a tick at the reference bill with every target met.

    Summed over an episode it is the Lagrangian of "least bill at the wanted attainment": a class that misses just
    its allowance costs `miss_price` times the reference bill.

    Args:
        bill_usd: `[...]` the tick's bill.
        tally: `[..., C, W]` the tick's tally (`env.window`).
        wanted_attainment: `[..., C]` share of requests that must meet their target.
        miss_price: `[...]` price of missing the whole allowance, in reference bills.
        reference_usd: `[...]` the bill of a usual tick; it makes the rewards of unlike clusters alike.
        reference_requests: `[..., C]` requests of a usual tick; zero for a class that is padding.
    """
    misses = allowances_missed(tally, wanted_attainment, reference_requests)
    dollars: FloatArray = -bill_usd / np.maximum(reference_usd, 1e-9)
    penalty: FloatArray = miss_price * misses.sum(axis=-1)
    return dollars - penalty


def allowances_missed(tally: FloatArray, wanted_attainment: FloatArray, reference_requests: FloatArray) -> FloatArray:
    """`[..., C]` misses of one tick in usual ticks' allowances, at most `WORST_TICK`; arguments as for `reward`."""
    missed = tally[..., FINISHED] + tally[..., LOST] - tally[..., MET]
    allowed = np.maximum(1.0 - wanted_attainment, 1e-3) * reference_requests
    misses = np.divide(missed, allowed, out=np.zeros_like(missed), where=allowed > 0)
    bounded: FloatArray = np.minimum(misses, WORST_TICK)
    return bounded
