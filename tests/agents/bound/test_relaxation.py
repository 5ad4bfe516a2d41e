"""The bound proves itself: no prices prove more than the cheapest way there is, and good prices nearly as much."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from poolpilot.agents.bound.relaxation import Hindsight, Prices, best_prices, certified, no_prices
from poolpilot.env.contract import IntArray


def a_past(rng: np.random.Generator) -> tuple[Hindsight, IntArray]:
    """A few requests of two classes, two pools, four stretches; and how many are met."""
    count, stretches, pools = int(rng.integers(4, 25)), 4, 2
    first = rng.integers(0, stretches, count)
    work = rng.uniform(1.0, 10.0, (count, pools))
    classes = rng.integers(0, 2, count)
    if rng.random() < 0.5:
        work[classes == 1, 0] = np.inf
    scarce = rng.random() < 0.5
    owed = np.zeros((count, pools))
    past = Hindsight(
        class_index=classes,
        first=first,
        last=np.minimum(first + rng.integers(0, 3, count), stretches - 1),
        work_s=work,
        owed_s=owed,
        owed_since=rng.integers(0, first + 1),
        own_usd=rng.uniform(0.0, 0.2, count),
        length_s=np.full(stretches, 10.0),
        rent_usd_per_s=rng.uniform(0.1, 1.0, (stretches, pools)),
        busy_usd_per_s=rng.uniform(0.0, 0.1, pools),
        least_s=rng.choice([0.0, 5.0], (stretches, pools)),
        most_s=np.where(scarce, rng.uniform(10.0, 40.0, (stretches, pools)), np.inf),
        kept=np.array([[True, True]])[: int(rng.integers(0, 2))].reshape(-1, pools),
    )
    met = np.bincount(classes, minlength=2) * rng.uniform(0.2, 0.7, 2)
    return past, met.astype(np.int64)


def cheapest_usd(past: Hindsight, met: IntArray) -> float | None:
    """The relaxed problem itself, request by request, by another solver; None if it cannot be done."""
    n, (stretches, pools) = len(past.class_index), past.rent_usd_per_s.shape
    places = [
        (r, p, t)
        for r in range(n)
        for p in range(pools)
        for t in range(past.first[r], past.last[r] + 1)
        if np.isfinite(past.work_s[r, p])
    ]
    width = stretches * pools
    cost = np.concatenate(
        [
            past.rent_usd_per_s.ravel(),
            [past.busy_usd_per_s[p] * past.work_s[r, p] + past.own_usd[r] for r, p, _ in places],
        ]
    )
    rows, limits = [], []

    def add(limit: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        rows.append(np.zeros(len(cost)))
        limits.append(limit)
        return rows[-1]

    for t in range(stretches):
        for p in range(pools):
            carried = add(0.0)
            carried[t * pools + p] = -1.0
            at_most = add(past.most_s[t, p]) if np.isfinite(past.most_s[t, p]) else np.zeros(len(cost))
            for i, (r, q, s) in enumerate(places):
                if (q, s) == (p, t):
                    carried[width + i] = at_most[width + i] = past.work_s[r, p]
        for own in past.kept:
            kept = add(-past.length_s[t])
            kept[t * pools : (t + 1) * pools] = -1.0 * own
    for r in range(n):
        once = add(1.0)
        for i, (s, _, _) in enumerate(places):
            once[width + i] = float(s == r)
    for c, wanted in enumerate(met):
        enough = add(-float(wanted))
        for i, (r, _, _) in enumerate(places):
            enough[width + i] = -float(past.class_index[r] == c)
    bounds = [(low, None) for low in past.least_s.ravel()] + [(0.0, None)] * len(places)
    answer = linprog(cost, A_ub=np.array(rows), b_ub=np.array(limits), bounds=bounds)
    return float(answer.fun) if answer.status == 0 else None


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_prices_drawn_at_random_never_prove_too_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    past, met = a_past(rng)
    optimum = cheapest_usd(past, met)
    if optimum is None:
        return
    shape = past.rent_usd_per_s.shape
    for size in (0.1, 1.0, 10.0):
        prices = Prices(
            rng.exponential(size, shape),
            rng.exponential(size, shape) * (rng.random(shape) < 0.3),
            rng.exponential(size, (shape[0], len(past.kept))),
        )
        assert certified(past, met, prices) <= optimum + 1e-9
    assert certified(past, met, no_prices(past)) <= optimum + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_best_prices_prove_nearly_the_optimum(seed: int) -> None:
    past, met = a_past(np.random.default_rng(seed))
    optimum = cheapest_usd(past, met)
    if optimum is None:
        return
    proven = certified(past, met, best_prices(past, met))
    assert 0.8 * optimum - 1e-9 <= proven <= optimum + 1e-9


def test_of_each_class_the_dearest_are_missed() -> None:
    """Three of four requests, one pool, a dollar a second: the three lightest."""
    past = Hindsight(
        class_index=np.zeros(4, dtype=np.int64),
        first=np.zeros(4, dtype=np.int64),
        last=np.zeros(4, dtype=np.int64),
        work_s=np.array([[1.0], [50.0], [2.0], [3.0]]),
        owed_s=np.array([[0.0], [0.0], [0.5], [0.0]]),
        owed_since=np.zeros(4, dtype=np.int64),
        own_usd=np.zeros(4),
        length_s=np.array([100.0]),
        rent_usd_per_s=np.ones((1, 1)),
        busy_usd_per_s=np.zeros(1),
        least_s=np.zeros((1, 1)),
        most_s=np.full((1, 1), np.inf),
        kept=np.zeros((0, 1), dtype=np.bool_),
    )
    assert certified(past, np.array([3]), no_prices(past)) == pytest.approx(6.5)
    assert certified(past, np.array([0]), no_prices(past)) == 0.0
    with pytest.raises(ValueError, match="5 of class 0"):
        certified(past, np.array([5]), no_prices(past))
