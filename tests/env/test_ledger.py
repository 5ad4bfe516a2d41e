"""Every dollar is in one layer, one pool and one class, and together they are what the price list says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.contract import BILL_LAYERS, IDLE_PARTS, NO_DECISION, SCALING_PARTS, ScalingCost
from poolpilot.env.ledger import (
    Meter,
    Tariff,
    charge,
    charge_scaling,
    dearest,
    dearest_rows,
    joined,
    scaling_seconds_of,
    summed,
)

from .clusters import SEEDS


def a_meter(rng: np.random.Generator, b: int, p: int, c: int) -> Meter:
    idle = rng.random((b, p)) < 0.3
    return Meter(
        usd_per_hr=rng.uniform(0.1, 10.0, (b, p)),
        useful_s=np.where(idle, 0.0, rng.uniform(0, 100, (b, p))),
        wasted_s=np.where(idle, 0.0, rng.uniform(0, 100, (b, p))),
        starting_s=rng.uniform(0, 100, (b, p)),
        waiting_s=rng.uniform(0, 100, (b, p)),
        draining_s=rng.uniform(0, 100, (b, p)),
        asleep_s=np.where(rng.random((b, p)) < 0.5, 0.0, rng.uniform(0, 100, (b, p))),
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

    idle_s = meter.starting_s + meter.waiting_s + meter.draining_s + meter.asleep_s
    hours = (meter.useful_s + meter.wasted_s + idle_s) / 3600.0
    rent = (meter.usd_per_hr * hours).sum(axis=-1)
    energy = meter.energy_j.sum(axis=-1) / 3.6e6 * tariff.usd_per_kwh * tariff.pue
    network = meter.egress_bytes.sum(axis=(-2, -1)) / 1e9 * tariff.egress_usd_per_gb
    assert np.allclose(bill.layer_usd("energy"), energy, rtol=1e-9)
    assert np.allclose(bill.layer_usd("network"), network, rtol=1e-9)
    assert np.allclose(bill.total_usd, rent + energy + network, rtol=1e-9)
    # Along every axis the same dollars: pools, classes, layers, and the parts of the idle one.
    assert np.allclose(bill.usd.sum(axis=(2, 3)).sum(axis=1), bill.total_usd, rtol=1e-9)
    assert np.allclose(bill.usd.sum(axis=(1, 3)).sum(axis=1), bill.total_usd, rtol=1e-9)
    assert np.allclose(sum(bill.idle_part_usd(part) for part in IDLE_PARTS), bill.layer_usd("idle"), rtol=1e-9)
    assert np.allclose(bill.idle_usd.sum(axis=-1), bill.usd[..., BILL_LAYERS.index("idle")], rtol=1e-9)


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
        ("idle", meter.starting_s + meter.waiting_s + meter.draining_s + meter.asleep_s),
    ):
        assert np.allclose(usd[..., BILL_LAYERS.index(layer)], per_s * seconds), layer


def one_pool(**changed: np.ndarray) -> Meter:
    """A pool at 3,600 $/h, busy half of 100 s, whose work is the first class's and whose routing the second's."""
    parts = {
        "usd_per_hr": np.array([3600.0]),
        "useful_s": np.array([30.0]),
        "wasted_s": np.array([20.0]),
        "starting_s": np.array([10.0]),
        "waiting_s": np.array([25.0]),
        "draining_s": np.array([12.0]),
        "asleep_s": np.array([3.0]),
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


def test_idle_is_told_by_what_it_was_for() -> None:
    bill = charge(one_pool(), TARIFF)
    assert [float(bill.idle_part_usd(part)) for part in IDLE_PARTS] == pytest.approx([10.0, 25.0, 12.0, 3.0])
    assert np.allclose(bill.idle_usd[0, 0], 0.0)  # nothing was routed for the first class


POOLS = ("a", "b")
ROWS = st.lists(
    st.tuples(
        st.integers(NO_DECISION, 6),
        st.sampled_from(POOLS),
        st.sampled_from(SCALING_PARTS),
        st.floats(0.0, 1e4),
    ),
    max_size=30,
)


@given(ROWS, st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)))
def test_every_second_of_scaling_is_charged_to_one_decision(
    rows: list[tuple[int, str, str, float]], prices: tuple[float, float]
) -> None:
    costs = charge_scaling(scaling_seconds_of(rows, POOLS), np.array(prices))
    expected = sum(prices[POOLS.index(pool)] / 3600.0 * seconds for _, pool, _, seconds in rows)
    told = costs.rows(POOLS)
    assert sum(row.usd for row in told) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert len({(row.tick, row.pool, row.part) for row in told}) == len(told)
    assert sum(row.usd for row in summed((*told, *told))) == pytest.approx(2 * expected, rel=1e-9, abs=1e-12)
    shown = dearest(told, 1000)
    by_decisions = sum(row.usd for row in told if row.tick != NO_DECISION)
    assert sum(float(decision["usd"]) for decision in shown) == pytest.approx(by_decisions, rel=1e-9, abs=1e-12)
    assert [d["usd"] for d in shown] == sorted((d["usd"] for d in shown), reverse=True)


def test_a_batch_of_scaling_costs_is_told_by_cluster() -> None:
    rows = scaling_seconds_of([(2, "a", "cold_start", 3600.0), (4, "b", "drain", 1800.0)], POOLS)
    other = charge_scaling(replace(rows, cluster=np.array([1, 1])), np.array([[1.0, 1.0], [2.0, 4.0]]))
    both = joined([charge_scaling(rows, np.array([[1.0, 1.0], [2.0, 4.0]])), other, other])
    assert both.rows(POOLS, 0) == (ScalingCost(2, "a", "cold_start", 1.0), ScalingCost(4, "b", "drain", 0.5))
    assert both.rows(POOLS, 1) == (ScalingCost(2, "a", "cold_start", 4.0), ScalingCost(4, "b", "drain", 4.0))


def test_the_dearest_decisions_come_first_with_what_they_paid_for() -> None:
    costs = (
        ScalingCost(1, "a", "cold_start", 1.0),
        ScalingCost(1, "a", "drain", 0.5),
        ScalingCost(2, "b", "cold_start", 3.0),
        ScalingCost(NO_DECISION, "a", "drain", 9.0),
    )
    assert dearest(costs, 5) == (
        {"tick": 2, "pool": "b", "usd": 3.0, "usd_cold_start": 3.0},
        {"tick": 1, "pool": "a", "usd": 1.5, "usd_cold_start": 1.0, "usd_drain": 0.5},
    )
    assert dearest(costs, 1)[0]["tick"] == 2


def test_only_so_many_decisions_are_kept_and_the_newest_always() -> None:
    costs = [ScalingCost(tick, "a", "cold_start", usd) for tick, usd in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 0.1))]
    assert [row.tick for row in dearest_rows(costs, 2)] == [1, 3, 4]
    assert len(dearest_rows(costs, 4)) == 4
