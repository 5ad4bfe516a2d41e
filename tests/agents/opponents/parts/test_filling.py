"""Nothing is lost on the way to pools, no pool takes more than it has room for, and nothing dear is used too early."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.agents.opponents.parts.figures import pools_seen
from poolpilot.agents.opponents.parts.filling import filled, filled_cheapest_first, usd_per_request, with_overflow
from poolpilot.env.contract import FloatArray
from poolpilot.tests.agents.opponents.small import small, told
from poolpilot.tests.env.clusters import SEEDS


def drawn(seed: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Loads, capacities, costs and rooms of three clusters of four classes and five pools."""
    rng = np.random.default_rng(seed)
    capacity = np.where(rng.random((3, 4, 5)) < 0.7, rng.uniform(0.2, 5.0, (3, 4, 5)), 0.0)
    cost = np.where(capacity > 0, rng.integers(1, 6, capacity.shape), np.inf)  # with ties
    return rng.uniform(0.0, 20.0, (3, 4)), capacity, cost, np.floor(rng.uniform(0.0, 8.0, (3, 5)))


@given(SEEDS, st.booleans())
def test_load_is_carried_or_left_and_rooms_are_kept(seed: int, spread: bool) -> None:
    load, capacity, cost, room = drawn(seed)
    if spread:
        weights = np.random.default_rng(seed).uniform(0.1, 1.0, cost.shape)
        need, left = filled(load, capacity, np.where(capacity > 0, 0.0, np.inf), weights, room)
    else:
        need, left = filled_cheapest_first(load, capacity, cost, room)
    assert (need >= 0).all()
    np.testing.assert_allclose((need * capacity).sum(axis=-1) + left, load, rtol=1e-9)
    assert (need.sum(axis=-2) <= room + 1e-9).all()
    # Whatever is left over finds every pool that could take it full.
    free = (room - need.sum(axis=-2) > 1e-6)[:, None, :] & (capacity > 0)
    assert (left[free.any(axis=-1)] == 0).all()
    everything = with_overflow(need, left, capacity, cost)
    served = (capacity > 0).any(axis=-1)
    np.testing.assert_allclose((everything * capacity).sum(axis=-1)[served], load[served], rtol=1e-9)


@given(SEEDS)
def test_nothing_goes_to_a_dearer_pool_while_a_cheaper_one_has_room(seed: int) -> None:
    load, capacity, cost, room = drawn(seed)
    need, _ = filled_cheapest_first(load, capacity, cost, room)
    free = (room - need.sum(axis=-2) > 1e-6)[:, None, :] & (capacity > 0)
    dearest_used = np.where(need > 0, cost, -np.inf).max(axis=-1)
    cheapest_free = np.where(free, cost, np.inf).min(axis=-1)
    assert (dearest_used <= cheapest_free).all()


def test_pools_that_cost_the_same_share_alike() -> None:
    need, left = filled_cheapest_first(
        np.array([6.0]), np.full((1, 3), 2.0), np.array([[1.0, 1.0, 9.0]]), np.full(3, 9.0)
    )
    assert need == pytest.approx(np.array([[1.5, 1.5, 0.0]]))
    assert left == pytest.approx([0.0])


def test_what_costs_how_much() -> None:
    cluster, plan = small(spot=np.array([False, True]))
    pools = pools_seen(told(ready=[0.0, 0.0]), plan, cluster)
    capacity = plan.capacity_per_s
    busy, idle = np.array([80.0]), np.array([1.0])
    assert usd_per_request(busy, capacity, pools, cluster, 0.0) == pytest.approx(np.array([[0.5, 0.75]]))
    assert usd_per_request(busy, capacity, pools, cluster, 1.0) == pytest.approx(np.array([[0.5, 1.5]]))
    # 1/s fills half of the small replica and an eighth of the large one; whole ones are rented.
    assert usd_per_request(idle, capacity, pools, cluster, 0.0) == pytest.approx(np.array([[1.0, 6.0]]))
    up = pools_seen(told(ready=[0.0, 1.0]), plan, cluster)
    assert usd_per_request(busy, capacity, up, cluster, 0.0) == pytest.approx(np.array([[0.5, 0.75 * 0.9]]))
    assert usd_per_request(busy, np.array([[2.0, 0.0]]), pools, cluster, 0.0)[0, 1] == np.inf
