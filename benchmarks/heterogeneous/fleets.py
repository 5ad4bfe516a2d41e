"""One problem, every fleet: each GPU type alone, a greedy mix and the plan; throughput at equal budget and cost at equal
load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from poolpilot.agents.planner.baselines import (
    Growth,
    carries_all,
    homogeneous,
    most_load,
    most_load_alike,
    most_load_greedily,
    most_load_homogeneous,
    planned,
)
from poolpilot.agents.planner.composition import Composition, Problem
from poolpilot.agents.planner.greedy import greedy

GREEDY, PLAN = "greedy", "plan"
ALIKE = "alike"
"""The best fleet of replicas that are all alike."""
ALMOST = 0.99
"""Of the load that the best homogeneous fleet carries for the budget: costs are compared there. At all of it, half a per
cent of solver's gap could ask for a replica more."""


@dataclass(frozen=True)
class Throughput:
    """Requests per second within a budget, by fleet: GPU types, `ALIKE`, `GREEDY`, `PLAN`."""

    fleets: Mapping[str, Growth]
    """Factors are requests per second of the mix."""

    def per_s(self, name: str) -> float:
        """0 where the fleet cannot serve the mix."""
        return self.fleets[name].factor

    @property
    def best(self) -> str:
        """The best homogeneous fleet."""
        alone = [name for name in self.fleets if name not in (ALIKE, GREEDY, PLAN)]
        return max(alone, key=self.per_s)

    @property
    def gain(self) -> float:
        """Of the plan over the best homogeneous fleet, as a share; infinite where there is none."""
        return gain(self.per_s(PLAN), self.per_s(self.best))

    def gain_over(self, name: str) -> float:
        """Of the plan over a fleet."""
        return gain(self.per_s(PLAN), self.per_s(name))


def gain(ours: float, theirs: float) -> float:
    """By which share ours is more."""
    return ours / theirs - 1.0 if theirs > 0 else float("inf")


def throughput(problem: Problem, budget_usd_per_hr: float) -> Throughput:
    """Every fleet within a budget. The demand is of one request per second in all, so that factors are rates."""
    return Throughput(
        {
            **most_load_homogeneous(problem, budget_usd_per_hr),
            ALIKE: max(most_load_alike(problem, budget_usd_per_hr).values(), key=lambda growth: growth.factor),
            GREEDY: most_load_greedily(problem, budget_usd_per_hr),
            PLAN: most_load(problem, budget_usd_per_hr),
        }
    )


def costs(problem: Problem) -> dict[str, float | None]:
    """Dollars per hour of every fleet that carries the demand; None of one that cannot."""
    wanted = replace(problem, wishes=replace(problem.wishes, budget_usd_per_hr=None))
    found = {name: _usd(answer) for name, answer in homogeneous(wanted).items()}
    mix = greedy(wanted)
    found[GREEDY] = mix.usd_per_hr if carries_all(wanted, mix) else None
    found[PLAN] = _usd(planned(wanted))
    return found


def _usd(answer: object) -> float | None:
    return answer.usd_per_hr if isinstance(answer, Composition) else None


def one_per_s(problem: Problem) -> Problem:
    """The same mix at one request per second."""
    demand = problem.demand
    return replace(problem, demand=demand.scaled(1.0 / float(demand.rate_per_s.sum())))
