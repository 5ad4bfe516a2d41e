"""Every dollar is in one layer, one pool and one class, and together they are what the price list says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.contract import BILL_LAYERS
from poolpilot.env.ledger import Meter, Tariff, charge

from .clusters import SEEDS


def a_meter(rng: np.random.Generator, b: int, p: int, c: int) -> Meter:
    idle = rng.random((b, p)) < 0.3
    return Meter(
        usd_per_hr=rng.uniform(0.1, 10.0, (b, p)),
        useful_s=np.where(idle, 0.0, rng.uniform(0, 100, (b, p))),
        wasted_s=np.where(idle, 0.0, rng.uniform(0, 100, (b, p))),
        starting_s=rng.uniform(0, 100, (b, p)),
        waiting_s=rng.uniform(0, 100, (b, p)),
        energy_j=rng.uniform(0, 1e7, (b, p)),
        egress_bytes=rng.uniform(0, 1e10, (b, p, c)),
        class_work=np.where(idle[..., None] | (rng.random((b, p, c)) < 0.3), 0.0, rng.uniform(0, 1e6, (b, p, c))),
        class_claim=np.where(rng.random((b, p, c)) < 0.3, 0.0, rng.uniform(0, 1, (b, p, c))),
    )


def a_tariff(rng: np.random.Generator, b: int) -> Tariff:
    return Tariff(rng.uniform(0, 0.5, b), rng.uniform(1, 2, b), rng.uniform(0, 0.2, b))


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_the_layers_sum_to_rent_plus_energy_plus_network(seed: int, b: int, p: int, c: int) -> None:
    rng = np.random.default_rng(seed)
    meter, tariff = a_meter(rng, b, p, c), a_tariff(rng, b)
    bill = charge(meter, tariff)
    assert bill.usd.shape == (b, p, c, len(BILL_LAYERS))
    assert (bill.usd >= 0).all()

    hours = (meter.useful_s + meter.wasted_s + meter.starting_s + meter.waiting_s) / 3600.0
    rent = (meter.usd_per_hr * hours).sum(axis=-1)
    energy = meter.energy_j.sum(axis=-1) / 3.6e6 * tariff.usd_per_kwh * tariff.pue
    network = meter.egress_bytes.sum(axis=(-2, -1)) / 1e9 * tariff.egress_usd_per_gb
    assert np.allclose(bill.layer_usd("energy"), energy)
    assert np.allclose(bill.layer_usd("network"), network)
    assert np.allclose(bill.total_usd, rent + energy + network)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_each_layer_of_a_pool_is_shared_out_to_its_classes_in_full(seed: int) -> None:
    rng = np.random.default_rng(seed)
    meter = a_meter(rng, 2, 3, 2)
    usd = charge(meter, a_tariff(rng, 2)).usd.sum(axis=-2)
    per_s = meter.usd_per_hr / 3600.0
    for layer, seconds in (
        ("compute", meter.useful_s),
        ("software", meter.wasted_s),
        ("idle", meter.starting_s + meter.waiting_s),
    ):
        assert np.allclose(usd[..., BILL_LAYERS.index(layer)], per_s * seconds), layer


def one_pool(**changed: np.ndarray) -> Meter:
    """A pool at 3,600 $/h, busy half of 100 s, whose work is the first class's and whose routing the second's."""
    parts = {
        "usd_per_hr": np.array([3600.0]),
        "useful_s": np.array([30.0]),
        "wasted_s": np.array([20.0]),
        "starting_s": np.array([10.0]),
        "waiting_s": np.array([40.0]),
        "energy_j": np.array([3.6e6]),
        "egress_bytes": np.array([[1e9, 3e9]]),
        "class_work": np.array([[5.0, 0.0]]),
        "class_claim": np.array([[0.0, 2.0]]),
    }
    return Meter(**{**parts, **changed})


TARIFF = Tariff(np.array(0.5), np.array(1.2), np.array(0.1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [[30, 20, 0, 0.6, 0.1], [0, 0, 50, 0, 0.3]]),
        ({"class_work": np.zeros((1, 2))}, [[0, 0, 0, 0, 0.1], [30, 20, 50, 0.6, 0.3]]),
        ({"class_claim": np.zeros((1, 2))}, [[30, 20, 25, 0.6, 0.1], [0, 0, 25, 0, 0.3]]),
        ({"class_work": np.array([[1.0, 3.0]])}, [[7.5, 5, 0, 0.15, 0.1], [22.5, 15, 50, 0.45, 0.3]]),
    ],
    ids=["busy by work, idle by routing", "no work: by routing", "no routing: evenly", "by share of work"],
)
def test_who_pays_for_what(changed: dict[str, np.ndarray], expected: list[list[float]]) -> None:
    bill = charge(one_pool(**changed), TARIFF)
    assert np.allclose(bill.usd[0], expected)


def test_a_batch_is_charged_as_each_cluster_alone() -> None:
    rng = np.random.default_rng(5)
    meter, tariff = a_meter(rng, 3, 2, 2), a_tariff(rng, 3)
    together = charge(meter, tariff).usd
    for b in range(3):
        alone = charge(
            Meter(**{name: value[b] for name, value in vars(meter).items()}),
            Tariff(**{name: value[b] for name, value in vars(tariff).items()}),
        )
        assert np.array_equal(alone.usd, together[b])
