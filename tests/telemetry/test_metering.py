"""Live readings become dollars whose layers add up to the rent."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.contract import IDLE_PARTS
from poolpilot.env.ledger import Tariff, charge, charge_scaling, scaling_seconds_of
from poolpilot.telemetry.metering import BusyShare, Used, busy_share, meter, nothing_known, scaling_seconds
from poolpilot.telemetry.readings import ReplicaReading
from poolpilot.telemetry.tally import tally

from .samples import ANSWERED, CLUSTER, GONE, NOW_S, PAGE, USE, reading, start

FREE = Tariff(usd_per_kwh=np.array(0.0), pue=np.array(1.0), egress_usd_per_gb=np.array(0.0))
PAID = Tariff(usd_per_kwh=np.array(0.12), pue=np.array(1.3), egress_usd_per_gb=np.array(0.05))
USED = Used(
    span_s=10.0,
    usd_per_hr=np.array([0.8, 4.0]),
    up_s=np.array([20.0, 10.0]),
    starting_s=np.array([0.0, 5.0]),
    draining_s=np.array([4.0, 0.0]),
    asleep_s=np.array([0.0, 3.0]),
    busy=BusyShare(np.array([0.5, 0.8]), np.array([0.3, 0.6])),
    power_w=np.array([140.0, 600.0]),
    route=np.array([[0.75, 0.25], [1.0, 0.0], [0.0, 1.0]]),
    tick=tally([start("a"), start("b", "batch"), ANSWERED], {}, CLUSTER, NOW_S),
    caused=scaling_seconds_of(
        [(3, "l4", "drain", 4.0), (5, "h100", "cold_start", 5.0), (7, "h100", "asleep", 3.0)], CLUSTER.pool_names
    ),
)
fractions = st.floats(0, 1)
seconds = st.floats(0, 1e4)


@given(st.tuples(fractions, fractions), st.tuples(fractions, fractions), st.tuples(seconds, seconds))
def test_the_layers_of_the_rent_add_up(
    busy: tuple[float, float], useful: tuple[float, float], up_s: tuple[float, float]
) -> None:
    up, shares = np.array(up_s), BusyShare(np.array(busy), np.array(useful))
    used = replace(USED, busy=shares, up_s=up, draining_s=np.minimum(up, USED.draining_s))
    rent = used.usd_per_hr / 3600.0 * (used.up_s + used.starting_s + used.asleep_s)
    bill = charge(meter(used, FREE), FREE)
    assert float(bill.total_usd) == pytest.approx(float(rent.sum()))
    assert (bill.usd >= 0).all()


def test_time_is_useful_wasted_or_waiting() -> None:
    read = meter(USED, PAID)
    np.testing.assert_allclose(read.useful_s, [6.0, 6.0])
    np.testing.assert_allclose(read.wasted_s, [4.0, 2.0])
    np.testing.assert_allclose(read.waiting_s, [8.0, 2.0])
    np.testing.assert_allclose(read.draining_s, [2.0, 0.0])
    np.testing.assert_allclose(read.energy_j, [1400.0, 6000.0])
    np.testing.assert_array_equal(read.class_work, [[126, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(read.egress_bytes, [[5000, 0, 0], [0, 0, 0]])


def test_what_scaling_took_is_what_the_bill_says_of_those_parts() -> None:
    bill = charge(meter(USED, FREE), FREE)
    rows = charge_scaling(scaling_seconds(USED), USED.usd_per_hr).rows(CLUSTER.pool_names)
    assert [(row.tick, row.pool, row.part) for row in rows] == [
        (3, "l4", "drain"),
        (5, "h100", "cold_start"),
        (7, "h100", "asleep"),
    ]
    for row in rows:
        assert row.usd == pytest.approx(float(bill.idle_part_usd(row.part)))
    assert float(bill.idle_usd[..., IDLE_PARTS.index("waiting")].sum()) == pytest.approx(
        0.8 / 3600 * 8 + 4.0 / 3600 * 2
    )


def test_idle_dollars_follow_the_routing() -> None:
    np.testing.assert_allclose(meter(USED, PAID).class_claim, [[0.75, 1, 0], [0.25, 0, 1]])


def test_an_unknown_share_is_an_unknown_split_of_that_pool_only() -> None:
    used = replace(USED, busy=BusyShare(np.array([math.nan, 0.8]), np.array([math.nan, 0.6])))
    by_pool = charge(meter(used, FREE), FREE).usd.sum(axis=(1, 2))
    assert math.isnan(by_pool[0])
    assert by_pool[1] == pytest.approx(4.0 / 3600 * 18)


def test_a_pool_that_was_not_up_costs_nothing_whatever_its_share() -> None:
    nothing = np.zeros(2)
    used = replace(USED, busy=nothing_known(2), up_s=nothing, starting_s=nothing, draining_s=nothing, asleep_s=nothing)
    assert float(charge(meter(used, FREE), FREE).total_usd) == 0.0


def test_unknown_power_matters_only_to_who_pays_for_it() -> None:
    used = replace(USED, power_w=np.full(2, math.nan))
    assert math.isfinite(float(charge(meter(used, FREE), FREE).total_usd))
    assert math.isnan(float(charge(meter(used, PAID), PAID).total_usd))


BEFORE = BusyShare(np.array([0.4, 0.4]), np.array([0.2, 0.2]))
MISSED = reading("b", use=None, age_s=10.0, error=GONE)
PLAIN = reading("c", use=replace(USE, busy_s=math.nan, useful_s=math.nan))


@pytest.mark.parametrize(
    ("readings", "busy", "useful"),
    [
        ([reading("a")], 0.5, 0.3),
        ([reading("a"), MISSED], 0.5, 0.3),
        ([MISSED], 0.4, 0.2),
        ([reading("a", use=replace(USE, busy_s=2.0, useful_s=3.0))], 0.2, 0.2),
        ([reading("a", use=None, page=replace(PAGE, gpu_util_frac=math.nan))], 0.4, 0.2),
        ([PLAIN], 0.5, math.nan),
        ([], 0.0, 0.0),
    ],
    ids=[
        "counted",
        "one missed",
        "all missed",
        "useful within busy",
        "first page",
        "utilisation stands in",
        "no engine",
    ],
)
def test_busy_share(readings: list[ReplicaReading], busy: float, useful: float) -> None:
    share = busy_share(CLUSTER, readings, BEFORE)
    assert [share.busy_frac[0], share.useful_frac[0]] == pytest.approx([busy, useful], nan_ok=True)
    assert share.busy_frac[1] == 0.0


def test_utilisation_of_a_source_of_its_own_stands_in_where_no_page_tells_how_busy() -> None:
    told = np.array([0.7, 0.3])
    quiet = replace(PAGE, gpu_util_frac=math.nan)
    share = busy_share(CLUSTER, [reading("a", page=quiet, use=None)], nothing_known(2), told)
    assert (share.busy_frac[0], share.busy_frac[1]) == (0.7, 0.0)
    assert np.isnan(share.useful_frac[0])
    counted = busy_share(CLUSTER, [reading("a")], nothing_known(2), told)
    assert counted.busy_frac[0] == 0.5
