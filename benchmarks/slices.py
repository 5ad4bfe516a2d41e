"""Mélange's formulation (Griggs et al., arXiv:2404.14527, section 5) of the planner's problem, for HiGHS.

Each bucket of the load is cut into equal slices. A slice goes to one GPU type whole (a binary variable each), and of each
type there is a whole number of GPUs, on which its slices' loads, each its rate by the type's greatest throughput for such
requests within the target, may add up to no more than these. Least price.
"""

from __future__ import annotations

import numpy as np

from poolpilot.agents.planner.composition import Problem
from poolpilot.agents.planner.fleet import capacities, gpus_of_offers, list_usd_per_hr
from poolpilot.agents.planner.solving.highs import Mip, Tuning, solve


def solve_slices(problem: Problem, slices: int, gap: float, time_limit_s: float) -> tuple[float, float, int]:
    """$/h of the best found (infinite without one), the bound, and how many binary variables there are.

    Every option is a type of its own, as a type there is one GPU or a group of them; stock is kept as the paper keeps
    it, by an upper bound on GPUs, here of all types that share an offer.
    """
    rate = np.repeat(problem.demand.rate_per_s / slices, slices) * problem.wishes.headroom
    capacity = np.repeat(capacities(problem), slices, axis=0)
    item, kind = np.nonzero(capacity > 0.0)
    n_items, n_types, n_pairs = len(rate), capacity.shape[1], len(item)
    gpus = gpus_of_offers(problem)
    stock = np.array([np.inf if o.stock is None else float(o.stock * o.gpus) for o in problem.offers])
    columns = n_pairs + np.arange(n_types)
    used, offer = np.nonzero(gpus)
    mip = Mip(
        cost=np.concatenate([np.zeros(n_pairs), list_usd_per_hr(problem)]),
        lower=np.zeros(n_pairs + n_types),
        upper=np.concatenate([np.ones(n_pairs), np.full(n_types, np.inf)]),
        whole=np.ones(n_pairs + n_types, dtype=np.bool_),
        row_lower=np.concatenate([np.ones(n_items), np.full(n_types + len(stock), -np.inf)]),
        row_upper=np.concatenate([np.ones(n_items), np.zeros(n_types), stock]),
        row=np.concatenate([item, n_items + kind, n_items + np.arange(n_types), n_items + n_types + offer]),
        column=np.concatenate([np.arange(n_pairs), np.arange(n_pairs), columns, columns[used]]),
        value=np.concatenate(
            [np.ones(n_pairs), rate[item] / capacity[item, kind], np.full(n_types, -1.0), gpus[used, offer]]
        ),
    )
    answer = solve(mip, Tuning(gap=gap, time_limit_s=time_limit_s))
    return answer.cost, answer.bound, n_pairs
