"""The explored steps of a record, as the log's gate looks at them: the learner's own reading, and how wide the noise was.

Symbols: `S` steps, `A` numbers of an action, padded to the layout.
"""

from __future__ import annotations

import numpy as np

from ....agents.checkpoint import Checkpoint
from ....agents.exploring import LOG_STD_START, POOL_LOG_STD_START, live_outputs
from ....env.contract import Cluster, FloatArray
from ....env.spaces import SpaceLayout
from ....telemetry.record import Record
from ..live import live_of
from ..settings import FinetuneConfig
from .off_policy import LoggedSteps


def logged_steps(record: Record, incumbent: Checkpoint) -> tuple[LoggedSteps | None, FloatArray | None, str]:
    """Steps that the incumbent made, `[S, A]` the logarithm of their noise's deviations, and what there is and is not.

    Raises:
        LiveError: the record contradicts the incumbent's network: whoever wrote it, it was not this one.
    """
    found = live_of(record, incumbent, FinetuneConfig().hold)
    if found.transitions is None:
        return None, None, found.said
    spread = np.asarray(found.transitions.spread, dtype=np.float64)
    cluster = record.episodes[0].sitting.cluster
    return found.transitions, np.log(spread)[:, None] + deviations(cluster), found.said


def deviations(cluster: Cluster) -> FloatArray:
    """`[A]` logarithm of the noise's deviation where its spread is 1; NaN for outputs that mean nothing."""
    layout, live = SpaceLayout(), live_outputs(cluster)
    rows = {"classes": layout.max_classes, "pools": layout.max_pools}
    logs = {"classes": LOG_STD_START, "pools": POOL_LOG_STD_START, "whole": LOG_STD_START}
    parts = []
    for name, there in live.items():
        own = np.where(there > 0, logs[name], np.nan)
        if name in rows:
            own = np.pad(own, ((0, rows[name] - len(own)), (0, 0)), constant_values=np.nan)
        parts.append(own.ravel())
    return np.concatenate(parts)
