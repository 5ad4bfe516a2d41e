"""What is missing is counted at once, and named when nothing fresh is known any more."""

import math

import numpy as np

from poolpilot.telemetry.gpu_readings import PoolGpus
from poolpilot.telemetry.prices import Prices
from poolpilot.telemetry.sources import Silence, source_states

from .samples import GONE, reading

TOLD = Silence()
STATED = Prices(np.array([0.8, 4.0]), np.array([math.nan, math.nan]))
FOLLOWED = Prices(np.array([0.8, 4.0]), np.array([30.0, math.nan]))


def test_all_is_well() -> None:
    states = source_states((reading("a"),), {"l4": PoolGpus((), 0.0, True)}, FOLLOWED, TOLD, TOLD, 30.0)
    assert states.troubles == ()
    assert states.asked == {"engines": 1, "gpus": 1, "prices": 1, "proxy": 1, "access_log": 1}
    assert set(states.failed.values()) == {0}


def test_one_page_missing_once_is_counted_and_no_trouble() -> None:
    readings = (reading("a"), reading("b", error=GONE, age_s=100.0))
    states = source_states(readings, {}, STATED, TOLD, TOLD, 30.0)
    assert states.failed["engines"] == 1
    assert states.troubles == ()
    assert states.asked["prices"] == 0


def test_a_pool_of_which_nothing_came_is_named_with_where_it_was_looked_for() -> None:
    readings = tuple(reading(name, error=GONE, age_s=age_s, page=None) for name, age_s in (("a", 45.0), ("b", 31.0)))
    (trouble,) = source_states(readings, {}, STATED, TOLD, TOLD, 30.0).troubles
    assert trouble == f"telemetry of l4: nothing for 31 s from any of its 2 replicas; {GONE}"


def test_gpus_prices_and_the_proxy_are_named_too() -> None:
    old = Prices(STATED.usd_per_hr, STATED.age_s, ("price of l4: prices.csv: 90000 s old",))
    gpus = {"l4": PoolGpus((), 40.0, False, ("NVML: GPU is lost",)), "h100": PoolGpus((), 5.0, False, ("late",))}
    states = source_states((), gpus, old, Silence("http://proxy: no page", 31.0), Silence("gone", 40.0), 30.0)
    assert states.troubles == ("GPUs of l4: NVML: GPU is lost", *old.troubles, "proxy: http://proxy: no page")
    assert states.failed == {"engines": 0, "gpus": 2, "prices": 1, "proxy": 1, "access_log": 1}


def test_a_proxy_that_is_late_once_is_counted_and_no_trouble() -> None:
    states = source_states((), {}, STATED, Silence("http://proxy: no page within 1 s", 5.0), TOLD, 30.0)
    assert states.failed["proxy"] == 1
    assert states.troubles == ()
