"""What a composition means: rent by pool sums to the bill, shares by class to what is carried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poolpilot.agents.planner.composition import Infeasible
from poolpilot.agents.planner.explaining.explain import rent_of
from poolpilot.agents.planner.fleet import (
    class_shares,
    gpus_of_offers,
    list_usd_per_hr,
    pool_usd_per_hr,
    spot_options,
    unused_usd_per_hr,
    usable,
    work_replicas,
)
from poolpilot.agents.planner.solving.milp import compose

from .markets import a_market, counted
from .problems import a_problem


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_rent_by_pool_and_by_purpose_sums_to_the_bill(seed: int, goodput: bool) -> None:
    problem = a_problem(seed, tight=0.2)
    try:
        plan = compose(problem, goodput=goodput)
    except Infeasible:
        assume(False)
    rent, parts = pool_usd_per_hr(problem, plan), rent_of(problem, plan)
    assert rent.sum() == pytest.approx(plan.usd_per_hr, abs=1e-6)
    assert (rent[plan.replicas == 0] == 0).all()
    assert parts.usd_per_hr == pytest.approx(plan.usd_per_hr, abs=1e-6)
    assert min(parts.load_usd_per_hr, parts.headroom_usd_per_hr, parts.unused_gpus_usd_per_hr) >= 0
    assert parts.whole_replicas_usd_per_hr >= -1e-6
    rates = problem.demand.class_rate_per_s
    carried = class_shares(problem, plan).sum(axis=1) * rates
    own = np.bincount(problem.demand.class_index, plan.served_per_s, len(rates))
    assert carried[rates > 0] == pytest.approx(own[rates > 0])


def test_gpus_that_come_along_unused_are_paid_by_the_pools_that_share_them() -> None:
    problem = a_market(headroom=1.0)
    plan = counted(problem, [2, 1, 0, 1], [[1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0.25, 0, 0.75]])
    # Two of eight A100s serve: the pool pays for all eight. L40S are rented one by one, at 1.9 and twice 0.8.
    assert gpus_of_offers(problem).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 2]]
    assert list_usd_per_hr(problem).tolist() == [2.0, 1.9, 1.9, 1.6]
    assert unused_usd_per_hr(problem, plan).tolist() == [12.0, 0.0, 0.0]
    assert pool_usd_per_hr(problem, plan).tolist() == pytest.approx([16.0, 1.9, 0.0, 1.6])
    # Chat: 6 of 8 requests on A100, 2 on spot.
    assert class_shares(problem, plan)[0].tolist() == [0.75, 0.0, 0.0, 0.25]
    assert work_replicas(problem, plan).sum(axis=0).tolist() == pytest.approx(
        [6 / 8 + 0.5 / 3, 1 / 1.8, 0, 2 / 2 + 3 / 5]
    )
    rent = rent_of(problem, plan)
    assert rent.headroom_usd_per_hr == 0.0
    assert rent.unused_gpus_usd_per_hr == 12.0


def test_what_serves_a_class_whole_and_what_is_spot() -> None:
    problem = a_market()
    assert usable(problem).tolist() == [[True, True, False, True]] * 2 + [[True, True, True, True]]
    assert spot_options(problem).tolist() == [False, False, False, True]
