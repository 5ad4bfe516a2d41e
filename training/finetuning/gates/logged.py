"""The explored steps of a record, as the log's gate looks at them."""

from __future__ import annotations

import math

from ....agents.checkpoint import Checkpoint
from ....env.contract import FloatArray
from ....telemetry.record import Record
from .off_policy import LoggedSteps


def logged_steps(record: Record, incumbent: Checkpoint) -> tuple[LoggedSteps | None, FloatArray | None, str]:
    """Steps, the logarithm of their noise's deviations, and why there are none."""
    explored = sum(
        answer is not None and math.isfinite(answer.log_probability) for e in record.episodes for answer in e.answer
    )
    return None, None, f"{explored} of {record.ticks} recorded ticks were explored"
