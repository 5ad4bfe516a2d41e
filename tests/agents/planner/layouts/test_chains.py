"""The order of machines in a pipeline."""

from itertools import permutations

import pytest

from poolpilot.agents.planner.layouts.chains import Group, best_chain, places_of
from poolpilot.agents.planner.layouts.partition import best_split

A100, L4, T4, V100 = "A100-SXM-40GB", "L4-24GB", "T4-16GB", "V100-SXM-16GB"


@pytest.mark.parametrize(
    "groups",
    [
        [Group(A100), Group(L4, 2)],
        [Group(T4), Group(A100), Group(V100)],
        [Group(L4, 2), Group(T4, 2), Group(A100)],
    ],
    ids=["two kinds", "three kinds", "five stages"],
)
def test_no_order_of_the_machines_serves_more(groups: list[Group]) -> None:
    """Within 1 %: a machine's stages are parted only for more."""
    _, best = best_chain(groups, "llama-2-13b", "fp16")
    rates = [best_split(places_of(order), "llama-2-13b", "fp16").requests_per_s for order in permutations(groups)]
    assert best.requests_per_s >= max(rates) * (1 - 1e-9)


def test_stages_of_a_machine_use_its_own_link_and_machines_the_network() -> None:
    places, _ = best_chain([Group(A100, 2), Group(L4)], "llama-2-13b", "fp16", between_machines="Ethernet-100G")
    ways = [place.link_to_next for place in places]
    assert sorted(str(way) for way in ways) == ["Ethernet-100G", "NVLink3", "None"]
    assert ways[-1] is None


def test_a_slower_network_never_serves_more() -> None:
    rates = [
        best_chain([Group(A100), Group(L4, 2)], "llama-2-13b", "fp16", between_machines=way)[1].requests_per_s
        for way in ("InfiniBand-NDR400", "InfiniBand-HDR200", "Ethernet-100G")
    ]
    assert rates == sorted(rates, reverse=True)
