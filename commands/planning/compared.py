"""The plan beside other fleets for the same load and targets: one GPU type alone, and a greedy mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...agents.planner.baselines import carries_all, gpu_types, of_gpu
from ...agents.planner.composition import Composition, Infeasible, Problem
from ...agents.planner.fleet import chosen
from ...agents.planner.greedy import greedy
from ...agents.planner.solving.milp import compose
from ...agents.planner.solving.search import Unsolved

Answer = Composition | Infeasible | Unsolved


@dataclass(frozen=True)
class Rival:
    """A fleet, or why there is none."""

    name: str
    """`plan`, `greedy mix`, or `A100-SXM-80GB alone`."""
    usd_per_hr: float | None
    fleet: str = ""
    note: str = ""
    replicas: dict[str, int] | None = None


def fleet_text(problem: Problem, composition: Composition) -> str:
    """The replicas, for people."""
    return ", ".join(
        f"{round(float(composition.replicas[o]))} x {problem.options[o].name}" for o in chosen(composition)
    )


def rivals(problem: Problem, plan: Composition, on_fleet: Callable[[], Any] | None = None) -> Iterator[Rival]:
    """The plan, every homogeneous fleet from cheap to dear, and the greedy mix."""
    yield rival(problem, "plan", plan)
    alone = []
    for gpu in gpu_types(problem):
        alone.append(rival(problem, f"{gpu} alone", answered(of_gpu(problem, gpu))))
        if on_fleet:
            on_fleet()
    yield from sorted(alone, key=lambda r: (r.usd_per_hr is None, r.usd_per_hr))
    mix = greedy(problem)
    if carries_all(problem, mix):
        yield rival(problem, "greedy mix", mix)
    else:
        yield Rival("greedy mix", None, note="does not carry the load within stock and budget")


def answered(problem: Problem) -> Answer:
    """The cheapest composition; or that there is none, or none was found in time."""
    try:
        return compose(problem)
    except (Infeasible, Unsolved) as why:
        return why


def rival(problem: Problem, name: str, answer: Answer) -> Rival:
    """A fleet under a name."""
    if not isinstance(answer, Composition):
        return Rival(name, None, note=str(answer))
    counts = {problem.options[o].name: round(float(answer.replicas[o])) for o in chosen(answer)}
    return Rival(name, answer.usd_per_hr, fleet_text(problem, answer), replicas=counts)
