"""A fleet that somebody else would have steered is charged as the measured one is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from poolpilot.env.contract import BILL_LAYERS
from poolpilot.env.counterfactual import Fleet, fleet_usd

POOLS = 3
PRICE = np.array([4.0, 1.0, 0.5])
SPAN_S = 10.0
FEW = arrays(np.float64, POOLS, elements=st.integers(0, 6).map(float))


def a_fleet(rented: list[float], worth: list[float]) -> Fleet:
    return Fleet(np.array(rented), np.array(rented), np.array(worth))


def measured_usd(fleet: Fleet, busy_frac: float, useful_frac: float) -> np.ndarray:
    """What a fleet costs whose replicas that serve are busy for a share of their time."""
    rent = PRICE * fleet.rented * SPAN_S / 3600.0
    busy = np.where(fleet.worth > 0, busy_frac, 0.0) * PRICE * fleet.up * SPAN_S / 3600.0
    usd = np.zeros((POOLS, len(BILL_LAYERS)))
    usd[:, 0], usd[:, 1], usd[:, 2] = busy * useful_frac, busy * (1 - useful_frac), rent - busy
    usd[:, 3] = 0.0001 * fleet.rented
    usd[:, 4] = 0.00005 * fleet.worth
    return usd


@given(FEW, st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_the_measured_fleet_gets_the_measured_bill(rented: np.ndarray, busy: float, useful: float) -> None:
    fleet = Fleet(rented, rented, rented * 0.7)
    usd = measured_usd(fleet, busy, useful)
    assert fleet_usd(usd, fleet, fleet, PRICE, SPAN_S) == pytest.approx(np.nan_to_num(usd), abs=1e-12)


@given(FEW, FEW, FEW)
def test_rent_is_price_times_replicas_whatever_the_layers(
    there: np.ndarray, up: np.ndarray, starting: np.ndarray
) -> None:
    real = Fleet(there, there, there * 0.5)
    other = Fleet(up + starting, up, np.full(POOLS, 0.8))
    usd = fleet_usd(measured_usd(real, 0.6, 0.5), real, other, PRICE, SPAN_S)
    rent = PRICE * other.rented * SPAN_S / 3600.0
    if there.any():
        assert usd[:, :3].sum(axis=1) == pytest.approx(rent)
        assert (usd >= -1e-12).all()
    else:  # nothing told how busy a replica is
        assert np.isnan(usd[:, 0][up > 0]).all()


def test_a_larger_fleet_under_the_same_load_is_idler_and_no_busier() -> None:
    real = a_fleet([2, 2, 2], [1, 1, 1])
    usd = measured_usd(real, 0.6, 0.5)
    larger = fleet_usd(usd, real, replace(real, rented=real.rented + 1, up=real.up + 1), PRICE, SPAN_S)
    assert larger[:, :2] == pytest.approx(usd[:, :2])
    assert larger[:, 2] - usd[:, 2] == pytest.approx(PRICE * SPAN_S / 3600.0)


def test_load_that_moves_takes_its_work_along() -> None:
    real = a_fleet([2, 2, 0], [1, 1, 0])
    usd = measured_usd(real, 0.5, 1.0)
    moved = fleet_usd(usd, real, a_fleet([0, 2, 2], [0, 1, 1]), PRICE, SPAN_S)
    assert moved[0].tolist() == [0.0] * len(BILL_LAYERS)
    assert moved[2, 0] == pytest.approx(0.5 * 2 * PRICE[2] * SPAN_S / 3600.0)


def test_a_pool_that_hides_its_split_is_charged_at_the_mean_of_the_others() -> None:
    real = a_fleet([2, 2, 2], [1, 1, 1])
    usd = measured_usd(real, 0.6, 0.5)
    hidden = usd.copy()
    hidden[1, :3] = np.nan
    assert fleet_usd(hidden, real, real, PRICE, SPAN_S) == pytest.approx(usd)
