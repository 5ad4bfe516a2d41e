"""Costs at an attainment are read off between the settings to both sides of it, and never beyond the sweep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.training.evaluation.frontier import (
    ALWAYS_HELD,
    NEVER_HELD,
    budget_used,
    cost_at,
    neighbours,
    undominated,
    why_unknown,
)

SETTINGS = st.lists(
    st.tuples(st.floats(0.01, 50.0), st.floats(1.0, 100.0)), min_size=1, max_size=7, unique_by=lambda own: own[0]
)


@pytest.mark.parametrize(
    ("used", "usd", "cost"),
    [
        ([4.0, 1.0, 0.1], [10.0, 20.0, 30.0], 20.0),
        ([10.0, 0.1], [10.0, 20.0], 15.0),
        ([4.0, 0.5], [10.0, 40.0], 30.0),
        ([0.1, 10.0], [20.0, 10.0], 15.0),
        ([10.0, 5.0, 0.1], [10.0, 50.0, 20.0], 15.0),
        ([10.0, 0.5, 0.1], [10.0, 90.0, 20.0], 15.0),
        ([10.0, 0.5], [30.0, 20.0], 20.0),
        ([0.5, 0.1], [10.0, 20.0], np.nan),
        ([9.0, 2.0], [10.0, 20.0], np.nan),
        ([1.0], [7.0], np.nan),
    ],
    ids=[
        "a setting that just holds it",
        "halfway in the logarithm",
        "two thirds of the way",
        "in any order",
        "one that is dear and misses it is passed over",
        "one that is dear and holds it is passed over",
        "what misses it is no cheaper",
        "all hold it",
        "none holds it",
        "a single setting tells nothing",
    ],
)
def test_the_cost_is_read_off_between_the_two_nearest_on_the_envelope(
    used: list[float], usd: list[float], cost: float
) -> None:
    seen = float(cost_at(np.array(used), np.array(usd)))
    assert seen == pytest.approx(cost, nan_ok=True)


@given(SETTINGS)
def test_a_cost_is_never_beyond_its_neighbours_and_hangs_on_no_order(settings: list[tuple[float, float]]) -> None:
    used, usd = (np.array(column) for column in zip(*settings, strict=True))
    cost = float(cost_at(used, usd))
    holds = used <= 1.0
    assert np.isnan(cost) == (holds.all() or not holds.any())
    assert (why_unknown(used) == "") == (not np.isnan(cost))
    shuffled = np.random.default_rng(0).permutation(len(used))
    assert float(cost_at(used[shuffled], usd[shuffled])) == pytest.approx(cost, nan_ok=True)
    assert float(cost_at(used, 3.0 * usd)) == pytest.approx(3.0 * cost, nan_ok=True)
    if not np.isnan(cost):
        lower, upper = neighbours(used, usd)
        assert upper is not None
        assert usd[upper] == usd[holds].min()
        assert cost <= usd[upper] * (1 + 1e-12)
        assert cost >= (usd[upper] if lower is None else usd[lower]) * (1 - 1e-12)
        # A setting that another beats in both changes nothing.
        worse = cost_at(np.append(used, used[upper] * 1.1), np.append(usd, usd[upper] * 1.1))
        assert float(worse) == pytest.approx(cost)


@given(SETTINGS, st.integers(1, 5))
def test_many_at_once_are_as_each_alone(settings: list[tuple[float, float]], times: int) -> None:
    used, usd = (np.array(column) for column in zip(*settings, strict=True))
    scales = np.linspace(0.5, 2.0, times)[:, None]
    together = cost_at(used * scales, usd + scales)
    alone = [float(cost_at(used * scale, usd + scale)) for scale in scales[:, 0]]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@given(SETTINGS)
def test_the_envelope_is_what_no_other_setting_beats_in_both(settings: list[tuple[float, float]]) -> None:
    used, usd = (np.array(column) for column in zip(*settings, strict=True))
    kept = undominated(used, usd)
    for h in range(len(used)):
        beaten = ((used <= used[h]) & (usd <= usd[h]) & ((used < used[h]) | (usd < usd[h]))).any()
        assert (h in kept) == (not beaten)
    assert (np.diff(usd[kept]) >= 0).all()
    assert (np.diff(used[kept]) < 0).all()


@pytest.mark.parametrize(
    ("met", "done", "wanted", "level", "used"),
    [
        ([98.0], [100.0], [0.99], 0.99, 2.0),
        ([98.0], [100.0], [0.95], 0.99, 0.4),
        ([980.0], [1000.0], [0.999], 0.99, 2.0),
        ([980.0], [1000.0], [0.999], 0.95, 0.4),
        ([90.0, 999.0], [100.0, 1000.0], [0.95, 0.99], 0.99, 2.0),
        ([100.0], [100.0], [0.99], 0.99, 0.5),
        ([0.0, 98.0], [0.0, 100.0], [0.99, 0.99], 0.99, 2.0),
        ([0.0], [0.0], [0.99], 0.99, 0.0),
    ],
    ids=[
        "twice what may miss",
        "a class that wants less may miss more",
        "a class that wants more is asked for the level",
        "at a lower level more may miss",
        "the worst class counts",
        "no miss is taken for half a request",
        "a class without requests is left out",
        "nobody came",
    ],
)
def test_the_budget_used_is_that_of_the_worst_class(
    met: list[float], done: list[float], wanted: list[float], level: float, used: float
) -> None:
    seen = budget_used(np.array(met), np.array(done), np.array(wanted), level)
    assert float(seen) == pytest.approx(used)


def test_what_is_not_known_says_why() -> None:
    assert why_unknown(np.array([3.0, 1.7])) == f"{NEVER_HELD}: at best 1.7 times the misses allowed"
    assert why_unknown(np.array([0.3, 1.0])) == ALWAYS_HELD
    assert why_unknown(np.array([0.3, 1.01])) == ""


@given(SETTINGS)
def test_at_most_is_the_cost_where_it_is_known_and_the_cheapest_that_holds_where_all_do(
    settings: list[tuple[float, float]],
) -> None:
    used, usd = (np.array(column) for column in zip(*settings, strict=True))
    exact, bounded = float(cost_at(used, usd)), float(cost_at(used, usd, at_most=True))
    if (used <= 1.0).all():
        assert bounded == usd.min()
    else:
        assert bounded == pytest.approx(exact, nan_ok=True)
