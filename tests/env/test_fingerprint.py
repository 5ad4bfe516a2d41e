"""Scenarios are the same where results are."""

from pathlib import Path

from poolpilot.env.scenario import load_scenario
from poolpilot.env.scenario.fingerprint import fingerprint
from poolpilot.env.scenario.sources import GpuMetrics, PriceFeed

ONE, OTHER = load_scenario("mixed-chat"), load_scenario("two-models")


def test_the_name_and_the_summary_are_not_part_of_it() -> None:
    assert fingerprint(ONE.model_copy(update={"name": "n", "summary": "s"})) == fingerprint(ONE)


def test_what_results_depend_on_is() -> None:
    assert len({fingerprint(ONE), fingerprint(OTHER), fingerprint(ONE.model_copy(update={"duration_s": 60.0}))}) == 3


def test_of_several_the_order_does_not_matter_but_each_does() -> None:
    assert fingerprint(ONE, OTHER) == fingerprint(OTHER, ONE)
    assert len({fingerprint(ONE, OTHER), fingerprint(ONE, ONE), fingerprint(ONE), fingerprint(OTHER)}) == 4


def test_whose_servers_live_requests_go_to_is_not_part_of_it() -> None:
    own = {name: pool.model_copy(update={"endpoints": ("http://10.0.0.1:8000",)}) for name, pool in ONE.pools.items()}
    assert fingerprint(ONE.model_copy(update={"pools": own})) == fingerprint(ONE)


def test_where_a_live_controller_looks_is_not_part_of_it() -> None:
    name, pool = next(iter(ONE.pools.items()))
    price = pool.price.model_copy(update={"feed": PriceFeed(path=Path("prices.csv"))})
    followed = pool.model_copy(update={"price": price, "gpu_metrics": GpuMetrics(nvml=(0,))})
    assert fingerprint(ONE.model_copy(update={"pools": {**ONE.pools, name: followed}})) == fingerprint(ONE)


def test_how_far_a_live_policy_reaches_is_not_part_of_it() -> None:
    gates = ONE.control.gates.model_copy(update={"ticks": 7})
    assert fingerprint(
        ONE.model_copy(update={"control": ONE.control.model_copy(update={"gates": gates})})
    ) == fingerprint(ONE)
