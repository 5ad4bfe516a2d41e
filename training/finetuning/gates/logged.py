"""The explored steps of a record, as the log's gate looks at them."""

from __future__ import annotations

from typing import Final

import numpy as np

from ....agents.checkpoint import Checkpoint
from ....agents.exploring import LOG_STD_START, POOL_LOG_STD_START
from ....env.codec import CLASS_FEATURES, CLASS_OUTPUTS, POOL_OUTPUTS
from ....env.contract import FloatArray
from ....env.spaces import SpaceLayout
from ....telemetry.record import Record
from ..live import Transitions, live_of

HOLD: Final = 6
"""Ticks of a step without noise."""
_DEFERRABLE: Final = CLASS_FEATURES.index("deferrable")


def logged_steps(record: Record, incumbent: Checkpoint) -> tuple[Transitions | None, FloatArray | None, str]:
    """Steps, `[S, A]` the logarithm of their noise's deviations (NaN for outputs that mean nothing), and why there are none.

    Raises:
        LiveError: the record contradicts itself, or the incumbent's network.
    """
    found = live_of(record, incumbent, HOLD)
    if found.transitions is None:
        return None, None, found.said
    return found.transitions, deviations(found.transitions), ""


def deviations(steps: Transitions) -> FloatArray:
    """`[S, A]` see `logged_steps`."""
    classes, _, _, class_mask, pool_mask = SpaceLayout().parts(steps.seen)
    admission = class_mask * (classes[..., _DEFERRABLE] > 0.5)
    of_class = np.stack([class_mask, admission], axis=-1).reshape(len(steps), -1)
    of_pool = np.repeat(pool_mask, POOL_OUTPUTS, axis=1)
    of_whole = np.ones((len(steps), steps.actions.shape[1] - of_class.shape[1] - of_pool.shape[1]))
    assert of_class.shape[1] == CLASS_OUTPUTS * class_mask.shape[1]
    live = np.concatenate([of_class, of_pool, of_whole], axis=1) > 0.5
    start = np.concatenate(
        [
            np.full(part.shape[1], std)
            for part, std in ((of_class, LOG_STD_START), (of_pool, POOL_LOG_STD_START), (of_whole, LOG_STD_START))
        ]
    )
    return np.where(live, start + np.log(steps.spread)[:, None], np.nan)
