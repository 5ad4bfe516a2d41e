"""What a tick's replica-seconds were caused by. Symbols: `B` clusters, `P` pools, `R` slots, `N` rows."""

from __future__ import annotations

import numpy as np

from ..contract import IDLE_PARTS, FloatArray
from ..ledger import ScalingSeconds
from .engine_state import PS_PER_S
from .state import Clusters

_CAUSED = (
    ("cold_start", "start_ps", "started_by_tick"),
    ("drain", "drain_ps", "drained_by_tick"),
    ("asleep", "asleep_ps", "drained_by_tick"),
)
"""Part of the idle layer, the slot's span that it is, and whose decision that was. Actions reach a slot at the start of
a tick only, so that one decision caused each span of a tick."""


_NONE = np.zeros(0, dtype=np.int64)
_NOTHING = ScalingSeconds(_NONE, _NONE, _NONE, _NONE, np.zeros(0))


def scaling_seconds(every: Clusters, asleep_rent_frac: FloatArray) -> ScalingSeconds:
    """The last tick's, of all slots.

    Args:
        asleep_rent_frac: `[B, P]` share of the rent that is paid for a sleeping replica.
    """
    slots = every.slots
    rows = []
    for part, span, by_tick in _CAUSED:
        if not every.pools[span].any():  # far fewer to look through than slots, and usually nothing
            continue
        cluster, slot = np.nonzero(slots[span])
        own = slots[cluster, slot]
        pool, seconds = own["pool"], own[span] / PS_PER_S
        if part == "asleep":
            seconds = seconds * asleep_rent_frac[cluster, pool]
        rows.append((cluster, own[by_tick], pool, np.full(len(slot), IDLE_PARTS.index(part)), seconds))
    if not rows:
        return _NOTHING
    clusters, ticks, pools, parts, spans = (np.concatenate(column) for column in zip(*rows, strict=True))
    return ScalingSeconds(clusters, ticks, pools, parts, spans)
