"""What somebody who asks for a plan could ask for less of: targets, attainment, quality, routing.

These change what replicas carry, so that the problem must be posed again for each; whoever has the scenario says how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ....env.catalog.quality import quality_frac
from ....env.scenario import Scenario
from ....env.scenario.classes import RequestClass, Target
from ..composition import Problem

__all__ = ["LOOSER", "Lever", "Setting", "levers_of"]

LOOSER = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Times as long a latency target that are tried, from a little looser on."""
MISSES = (1.5, 2.0, 5.0, 10.0)
"""Times as many misses that are tried."""
MOST_MISSES = 0.25


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a lever."""

    label: str
    """For people: `ttft_s 1.5`."""
    problem: Callable[[], Problem]
    """Poses the problem so."""


@dataclass(frozen=True, slots=True)
class Lever:
    """Something that can be asked for less strictly."""

    kind: str
    """`targets`, `attainment`, `quality floor` or `routing`."""
    subject: str
    """The class; empty for all."""
    now: str
    settings: Sequence[Setting] = field(default_factory=tuple)
    """Each looser than the one before."""


def levers_of(scenario: Scenario, problem_from: Callable[[Scenario], Problem]) -> tuple[Lever, ...]:
    """The levers of a scenario, class by class.

    Args:
        scenario: what is planned for.
        problem_from: poses the problem of a scenario whose classes are asked for less strictly.
    """
    return tuple(_levers(scenario, problem_from))


def _levers(scenario: Scenario, problem_from: Callable[[Scenario], Problem]) -> Iterator[Lever]:
    planning = scenario.planning
    for name, requests in scenario.classes.items():
        target = requests.target

        def setting(label: str, changed: RequestClass, name: str = name) -> Setting:
            classes = {**scenario.classes, name: changed}
            return Setting(label, lambda: problem_from(scenario.model_copy(update={"classes": classes})))

        def aimed(requests: RequestClass, target: Target) -> RequestClass:
            return requests.model_copy(update={"target": target})

        yield Lever(
            "targets",
            name,
            _latencies(target),
            tuple(
                setting(_latencies(own), aimed(requests, own)) for own in (_looser(target, times) for times in LOOSER)
            ),
        )
        missed = 1.0 - target.attainment
        shares = [1.0 - missed * times for times in MISSES if 0.0 < missed * times <= MOST_MISSES]
        if shares:
            yield Lever(
                "attainment",
                name,
                f"{target.attainment:g}",
                tuple(
                    setting(f"{a:g}", aimed(requests, target.model_copy(update={"attainment": round(a, 6)})))
                    for a in shares
                ),
            )
        if planning is not None:
            floor = planning.quality_floor if requests.quality_floor is None else requests.quality_floor
            served = requests.model or scenario.model
            kept = {math.floor(quality_frac(served, p).frac * 1e4) / 1e4 for p in planning.precisions}
            below = sorted((share for share in kept if share < floor), reverse=True)
            if below:
                yield Lever(
                    "quality floor",
                    name,
                    f"{floor:g}",
                    tuple(setting(f"{q:g}", requests.model_copy(update={"quality_floor": q})) for q in below),
                )
    if planning is not None and not planning.route_by_length:
        apart = planning.model_copy(update={"route_by_length": True})
        whole = scenario.model_copy(update={"planning": apart})
        yield Lever("routing", "", "by class", (Setting("by length", lambda: problem_from(whole)),))


def _looser(target: Target, times: float) -> Target:
    fields = ("ttft_s", "tpot_s", "e2e_s", "deadline_s")
    values = {name: getattr(target, name) for name in fields}
    return target.model_copy(update={n: float(f"{v * times:.4g}") for n, v in values.items() if v is not None})


def _latencies(target: Target) -> str:
    fields = ("ttft_s", "tpot_s", "e2e_s", "deadline_s")
    return ", ".join(f"{n} {getattr(target, n):g}" for n in fields if getattr(target, n) is not None)
