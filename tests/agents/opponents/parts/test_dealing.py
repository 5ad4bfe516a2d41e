"""Work is dealt so that replicas are about equally full, near the best that could be dealt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from poolpilot.agents.opponents.parts.dealing import ADVANTAGE, LEAST_USE, ROUNDS, SLACK, carries, dealt, needed
from poolpilot.agents.opponents.parts.figures import over
from poolpilot.env.contract import FloatArray
from poolpilot.tests.agents.opponents.test_spot_fallback import zones


def plainly(load: FloatArray, capacity: FloatArray, replicas: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same in plain NumPy."""
    beside = over(capacity, capacity.max(axis=-1, keepdims=True))
    meant = ((load > 0)[..., None] & (capacity > 0)).astype(np.float64)
    usual = over((beside * meant).sum(axis=-2), meant.sum(axis=-2))
    shares = capacity * over(beside, usual[..., None, :]) ** ADVANTAGE * replicas[..., None, :]
    shares = over(shares, shares.sum(axis=-1, keepdims=True))
    for _ in range(ROUNDS):
        full = over(over(load[..., None] * shares, capacity).sum(axis=-2), replicas)
        shares = shares / np.sqrt(np.maximum(full, LEAST_USE))[..., None, :]
        shares = over(shares, shares.sum(axis=-1, keepdims=True))
    return shares, over(over(load[..., None] * shares, capacity).sum(axis=-2), replicas)


def a_case(seed: int, strength: float, some: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Load, capacity and replicas: pools differ, and by `strength` not alike for all classes; `some` pairs do not go."""
    rng = np.random.default_rng(seed)
    c, p = int(rng.integers(1, 5)), int(rng.integers(1, 7))
    capacity = rng.lognormal(0, 0.6, (c, 1)) * rng.lognormal(0, 0.5, (1, p)) * rng.lognormal(0, strength, (c, p))
    goes = rng.random((c, p)) >= some
    goes[:, 0] = True
    return rng.lognormal(0, 0.6, c), capacity * goes, rng.integers(1, 6, p).astype(np.float64)


def least_full(load: FloatArray, capacity: FloatArray, replicas: FloatArray) -> float:
    """The smallest fullness of the fullest pool, by a linear program."""
    c, p = capacity.shape
    work = np.concatenate([np.diag(row) for row in over(load[:, None], capacity)], axis=1)
    each = np.kron(np.eye(c), np.ones(p))
    found = linprog(
        np.append(np.zeros(c * p), 1.0),
        A_ub=np.hstack([work, -replicas[:, None]]),
        b_ub=np.zeros(p),
        A_eq=np.hstack([each * (capacity.ravel() > 0), np.zeros((c, 1))]),
        b_eq=np.ones(c),
    )
    return float(found.fun)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), strength=st.floats(0.0, 1.0), some=st.floats(0.0, 0.9), idle=st.booleans())
def test_it_is_what_plain_numpy_says(seed: int, strength: float, some: float, idle: bool) -> None:
    load, capacity, replicas = a_case(seed, strength, some)
    if idle:
        load[0], replicas[-1] = 0.0, 0.0
    for mine, plain in zip(dealt(load, capacity, replicas), plainly(load, capacity, replicas), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("strength", "some", "mean", "worst"), [(0.0, 0.0, 1.001, 1.01), (0.15, 0.0, 1.06, 1.15), (0.15, 0.4, 1.08, 1.4)],
    ids=["alike", "nearly alike", "not everybody serves everything"],
)  # fmt: skip
def test_it_is_near_the_best_there_is(strength: float, some: float, mean: float, worst: float) -> None:
    cases = [a_case(seed, strength, some) for seed in range(60)]
    beyond = [float(dealt(*case)[1].max()) / least_full(*case) for case in cases]
    assert min(beyond) >= 1.0 - 1e-6
    assert np.mean(beyond) < mean
    assert max(beyond) < worst


def test_a_class_keeps_to_the_pools_that_are_better_for_it() -> None:
    shares, _ = dealt(np.ones(2), np.array([[4.0, 1.0], [1.0, 4.0]]), np.ones(2))
    assert shares[0, 0] > 0.9
    assert shares[1, 1] > 0.9


def test_what_nobody_could_serve_is_let_be_and_what_nobody_does_serve_is_not_carried() -> None:
    load, capacity = np.array([1.0, 1.0]), np.array([[2.0, 0.0], [0.0, 0.0]])
    assert carries(load, capacity, np.array([1.0, 0.0]))
    assert not carries(load, capacity, np.array([0.0, 5.0]))
    assert not carries(np.array([2.2, 0.0]), capacity, np.array([1.0, 0.0]))


def test_the_need_of_a_chosen_fleet_stays_below_its_counts_but_at_a_maximum() -> None:
    cluster, _ = zones(max_replicas=np.array([20.0, 20.0, 2.0]))
    counts = np.array([5.0, 3.0, 0.0])
    need = needed(np.array([8.2]), np.ones((1, 3)), counts, cluster).sum(axis=0)
    assert (need <= counts * (1.0 - SLACK) + 1e-9).all()
    full = needed(np.array([20.0]), np.ones((1, 3)), np.array([0.0, 0.0, 2.0]), cluster).sum(axis=0)
    assert full[2] == pytest.approx(20.0)
