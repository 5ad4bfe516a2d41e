"""Why there is no plan, in words."""

from __future__ import annotations

from ...agents.planner.composition import Infeasible, Problem
from ...agents.planner.fleet import capacities


def said_of(error: Infeasible, problem: Problem) -> tuple[str, ...]:
    """What clashes, and what would have to give, a line each."""
    said = []
    carried, demand = capacities(problem) > 0, problem.demand
    for c, name in enumerate(demand.class_names):
        own = (demand.class_index == c) & (demand.rate_per_s > 0)
        if own.any() and not carried[own].any():
            reasons = {why for option in problem.options for b, why in enumerate(option.why_not) if own[b] and why}
            said.append(
                f"{name}: nothing that can be rented serves it within its targets"
                + (f" ({'; '.join(sorted(reasons)[:3])})" if reasons else "")
            )
    return tuple(said) or (str(error),)
