"""The random streams of one class, and the arrivals drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np

from ..contract import FloatArray
from .arrivals import points_of_clients, renewal_points
from .checks import WorkloadError
from .rates import RateCurve, rate_curve
from .spec import Clients, RateShape

MAX_REQUESTS = 50_000_000  # 2 GB of arrays; more is a mistyped rate, not a wish
# What is drawn for one leaves the others as they were.
ARRIVALS, LENGTHS, SHAPES, PREFIX_LENGTHS, PREFIX_CHOICES, STARTED, TURNS, THINKING, OUTPUTS, BATCHES = range(10)

Stream: TypeAlias = Callable[..., np.random.Generator]
"""From a key of whole numbers to random numbers."""


class _Arriving(Protocol):
    """What a load says of its arrivals."""

    @property
    def arrivals(self) -> str: ...
    @property
    def cv(self) -> float: ...
    @property
    def shape(self) -> tuple[RateShape, ...]: ...


def arrival_times(
    load: _Arriving,
    rate_per_s: float,
    clients: Clients | None,
    duration_s: float,
    rng: Stream,
    check: Callable[[float, float], None],
) -> tuple[FloatArray, RateCurve]:
    """`[N]` times in [0, duration_s), and the rate they follow.

    `check` is told how many are expected, and the rate at the beginning, before any is drawn.
    """
    curve = rate_curve(rate_per_s, load.shape, duration_s, [rng(SHAPES, i) for i in range(len(load.shape))])
    expected = float(curve.expected_at_edges()[-1])
    check(expected, curve.at_start_per_s())
    if clients is None:
        points = renewal_points(load.arrivals, load.cv, expected, rng(ARRIVALS))
    else:
        points = points_of_clients(clients, load.arrivals, load.cv, expected, lambda i: rng(ARRIVALS, i))
    times = curve.times_at(points)
    return times[times < duration_s], curve


def check_count(field: str, value: float, expected: float, duration_s: float) -> None:
    """Raise `WorkloadError` if a run would have more requests than memory is meant for."""
    if expected > MAX_REQUESTS:
        raise WorkloadError(
            f"workload.classes.{field}: {value:g}: makes {expected:.3g} requests in"
            f" {duration_s:g} s, wanted at most {MAX_REQUESTS:.0e}; lower it, or shorten the run"
        )
