"""Cost against attainment: the same load planned again and again, for a share that is wanted within target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...agents.planner.baselines import gpu_types, of_gpu
from ...agents.planner.composition import Composition, Problem
from .compared import Answer, answered, fleet_text

ATTAINMENTS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
"""Wanted of every class, from loose to strict."""


@dataclass(frozen=True)
class Point:
    """What a fleet costs that is planned for an attainment."""

    series: str
    """`plan`, or whose fleet it is."""
    attainment: float
    usd_per_hr: float | None
    """None: there is none."""
    fleet: str = ""
    note: str = ""
    """Why there is none."""

    def record(self) -> dict[str, Any]:
        """For JSON, and for the figure."""
        return asdict(self)


def frontier(
    problem_at: Callable[[float], Problem],
    attainments: Sequence[float] = ATTAINMENTS,
    *,
    others: bool = False,
) -> Iterator[tuple[Point, ...]]:
    """The points of one attainment after the other.

    Args:
        problem_at: poses the problem for an attainment.
        others: also every homogeneous fleet.
    """
    for attainment in attainments:
        problem = problem_at(attainment)
        points = [_point("plan", attainment, problem, answered(problem))]
        for gpu in gpu_types(problem) if others else ():
            points.append(_point(f"{gpu} alone", attainment, problem, answered(of_gpu(problem, gpu))))
        yield tuple(points)


def _point(series: str, attainment: float, problem: Problem, answer: Answer) -> Point:
    if not isinstance(answer, Composition):
        return Point(series, attainment, None, note=str(answer))
    return Point(series, attainment, answer.usd_per_hr, fleet_text(problem, answer))
