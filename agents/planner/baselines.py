"""What a plan is compared with: the best fleet of each single GPU type and a greedy mix, for the least cost of a load and
for the largest load within a budget.

Symbols: `B` buckets of demand, `O` options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from .composition import Composition, Infeasible, Option, Problem
from .fleet import capacities, list_usd_per_hr
from .greedy import greedy
from .layouts.layout import Layout
from .solving.milp import compose

__all__ = [
    "Growth",
    "alike",
    "carries_all",
    "gpu_types",
    "homogeneous",
    "most_load",
    "most_load_alike",
    "most_load_greedily",
    "most_load_homogeneous",
    "of_gpu",
    "planned",
    "restricted",
]

WHOLE = 1.0 - 1e-6
"""A bucket counts as carried from this share of it on."""


class Growth(NamedTuple):
    """How far a budget goes."""

    factor: float
    """Of the demand, all buckets alike; 0 if it buys nothing that serves all of them."""
    composition: Composition | None
    """That carries the demand times `factor`."""


def homogeneous(problem: Problem) -> dict[str, Composition | Infeasible]:
    """The cheapest fleet of each GPU type alone: any layouts, precisions and price sources of it, the same wishes.

    Answers are of the problem's own options and offers, with zeros for those of other types.
    """
    return {gpu: planned(of_gpu(problem, gpu)) for gpu in gpu_types(problem)}


def alike(problem: Problem) -> dict[str, Composition | Infeasible]:
    """The cheapest fleet of replicas that are all alike, by the layout's name: one GPU type, layout and precision."""
    return {name: planned(own) for name, own in _by_layout(problem).items()}


def planned(problem: Problem) -> Composition | Infeasible:
    """The cheapest composition, or why there is none."""
    try:
        return compose(problem)
    except Infeasible as why:
        return why


def gpu_types(problem: Problem) -> tuple[str, ...]:
    """Those on offer, in the order of the offers."""
    return tuple(dict.fromkeys(offer.gpu for offer in problem.offers))


def of_gpu(problem: Problem, gpu: str) -> Problem:
    """The same problem where only replicas on GPUs of this type alone may be rented."""
    return restricted(problem, lambda option: set(option.layout.gpus) == {gpu})


def _by_layout(problem: Problem) -> dict[str, Problem]:
    return {
        layout.name: restricted(problem, partial(_lies_as, layout))
        for layout in dict.fromkeys(option.layout for option in problem.options)
    }


def _lies_as(layout: Layout, option: Option) -> bool:
    return option.layout == layout


def restricted(problem: Problem, allowed: Callable[[Option], bool]) -> Problem:
    """The same problem where other options must stay empty; they keep their places, and lose their least counts."""
    none = np.zeros(len(problem.demand.class_index))
    options = tuple(
        option if allowed(option) else replace(option, min_replicas=0, max_replicas=0, capacity_per_s=none)
        for option in problem.options
    )
    return replace(problem, options=options)


def carries_all(problem: Problem, composition: Composition) -> bool:
    """Whether all demand is carried."""
    asked = problem.demand.rate_per_s > 0
    return bool((composition.share.sum(axis=1)[asked] >= WHOLE).all())


def most_load(problem: Problem, budget_usd_per_hr: float, gap: float = 5e-3) -> Growth:
    """The largest multiple of the demand that a budget carries, head-room included: throughput at equal budget.

    All buckets grow alike: leaving out the dear ones would not count.
    """
    bound = _load_bound(problem, budget_usd_per_hr)
    if not 0.0 < bound < np.inf:
        return Growth(0.0, None)
    wishes = replace(problem.wishes, budget_usd_per_hr=budget_usd_per_hr)
    grown = replace(problem, demand=problem.demand.scaled(bound), wishes=wishes)
    try:
        answer = compose(grown, goodput=True, in_proportion=True, gap=gap)
    except Infeasible:
        return Growth(0.0, None)
    total = answer.share.sum(axis=1)
    asked = problem.demand.rate_per_s > 0
    served = float(total[asked].min())
    if served <= 1e-6:
        return Growth(0.0, None)
    whole = np.divide(answer.share, total[:, None], out=np.zeros_like(answer.share), where=total[:, None] > 0)
    return Growth(bound * served, replace(answer, share=whole))


def most_load_homogeneous(problem: Problem, budget_usd_per_hr: float) -> dict[str, Growth]:
    """`most_load` of each GPU type alone."""
    return {gpu: most_load(of_gpu(problem, gpu), budget_usd_per_hr) for gpu in gpu_types(problem)}


def most_load_alike(problem: Problem, budget_usd_per_hr: float) -> dict[str, Growth]:
    """`most_load` of replicas that are all alike, by the layout's name."""
    return {name: most_load(own, budget_usd_per_hr) for name, own in _by_layout(problem).items()}


def most_load_greedily(problem: Problem, budget_usd_per_hr: float, gap: float = 5e-3) -> Growth:
    """The largest multiple of the demand that the greedy mix carries within a budget, by bisection to a share `gap` of
    it. Greedy answers are not monotone: a larger one may exist that bisection does not meet."""
    wishes = replace(problem.wishes, budget_usd_per_hr=budget_usd_per_hr)
    low, high = Growth(0.0, None), _load_bound(problem, budget_usd_per_hr)
    least = 1e-3 * high
    if not 0.0 < high < np.inf:
        return low
    while high - low.factor > gap * high and high > least:
        tried = 0.5 * (low.factor + high)
        answer = greedy(replace(problem, demand=problem.demand.scaled(tried), wishes=wishes))
        if carries_all(problem, answer):
            low = Growth(tried, answer)
        else:
            high = tried
    return low


def _load_bound(problem: Problem, budget_usd_per_hr: float) -> float:
    """A multiple of the demand that no fleet can exceed: every request at the least that it can cost anywhere."""
    demand = problem.demand
    rent = list_usd_per_hr(problem)
    capacity = capacities(problem)
    each = np.divide(rent, capacity, out=np.full(capacity.shape, np.inf), where=capacity > 0)
    usd = each.min(axis=1, initial=np.inf)
    asked = demand.rate_per_s > 0
    cost = float((usd[asked] * demand.rate_per_s[asked]).sum()) * problem.wishes.headroom
    return budget_usd_per_hr / cost if cost > 0 else np.inf
