"""The clairvoyant plan: whole replicas, no dearer than any schedule that carries the load."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from poolpilot.agents.bound.schedule import Ahead, asked_ahead, cheapest_schedule


def some_load(seed: int) -> Ahead:
    """One class, two pools of at most two replicas, three steps."""
    rng = np.random.default_rng(seed)
    return Ahead(
        step_s=60.0,
        load_per_s=rng.uniform(0.5, 6.0, (3, 1)),
        capacity_per_s=np.array([[2.0, 3.0]]),
        usd_per_hr=rng.uniform(1.0, 4.0, (3, 2)),
        least=np.zeros(2),
        most=np.full((3, 2), 2.0),
        start=np.array([1.0, 0.0]),
        cold_start_s=np.array([30.0, 90.0]),
        drops=np.array([2, 1]),
    )


def usd_of(ahead: Ahead, counts: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """Rent and cold starts of a schedule."""
    before = np.concatenate([ahead.start[None], counts[:-1]])
    starts = np.maximum(counts - before, 0.0)
    return float((ahead.usd_per_hr * (counts * ahead.step_s + starts * ahead.cold_start_s)).sum() / 3600.0)


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_that_carries_the_load_is_cheaper(seed: int) -> None:
    """Against trying all."""
    ahead = some_load(seed)
    found = cheapest_schedule(ahead)
    carried = found.replicas @ ahead.capacity_per_s[0]
    # A hair may be short where it would take one more replica.
    assert (carried >= 0.97 * ahead.load_per_s[:, 0]).all()
    everything = (np.array(counts, dtype=np.float64).reshape(3, 2) for counts in product(range(3), repeat=6))
    able = (counts for counts in everything if (counts @ ahead.capacity_per_s[0] >= ahead.load_per_s[:, 0]).all())
    assert usd_of(ahead, found.replicas) <= 1.03 * min(usd_of(ahead, counts) for counts in able) + 1e-9
    np.testing.assert_allclose(found.route.sum(axis=-1), 1.0)


def test_a_class_goes_only_where_it_is_served() -> None:
    ahead = replace(
        some_load(0),
        load_per_s=np.array([[1.0, 1.0]] * 3),
        capacity_per_s=np.array([[2.0, 0.0], [0.0, 3.0]]),
    )
    found = cheapest_schedule(ahead)
    np.testing.assert_array_equal(found.replicas, [[1.0, 1.0]] * 3)
    np.testing.assert_array_equal(found.route[0], [[1.0, 0.0], [0.0, 1.0]])


def test_counts_shrink_no_faster_than_the_guard_lets_them_but_where_machines_go() -> None:
    quiet = replace(
        some_load(0),
        load_per_s=np.zeros((6, 1)),
        usd_per_hr=np.ones((6, 2)),
        most=np.full((6, 2), 4.0),
        start=np.array([4.0, 4.0]),
        drops=np.array([1, 2]),
    )
    quiet.most[3:, 1] = 0.0
    found = cheapest_schedule(quiet)
    np.testing.assert_array_equal(found.replicas[:, 0], [3, 3, 2, 2, 1, 1])
    np.testing.assert_array_equal(found.replicas[3:, 1], [0, 0, 0])


def test_what_fits_nowhere_is_short_and_the_rest_is_planned() -> None:
    flooded = replace(some_load(0), load_per_s=np.array([[100.0], [1.0], [1.0]]))
    found = cheapest_schedule(flooded)
    np.testing.assert_array_equal(found.replicas[0], [2.0, 2.0])
    assert found.replicas[1:].sum() < 8.0


def test_starts_are_asked_for_ahead_and_a_short_dip_is_sat_out() -> None:
    serving = np.array([[1, 0], [1, 0], [1, 2], [3, 0], [1, 2], [1, 0]], dtype=np.float64)
    np.testing.assert_array_equal(
        asked_ahead(serving, np.array([2, 1])), [[1, 0], [3, 2], [3, 2], [3, 2], [1, 2], [1, 0]]
    )
    np.testing.assert_array_equal(asked_ahead(serving, np.array([0, 99]))[:, 1], [2, 2, 2, 2, 2, 0])
