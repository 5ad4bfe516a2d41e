"""All pools at one utilisation, the fleet sized by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.opponents.least_loaded import LeastLoaded
from poolpilot.env.contract import FloatArray

from .small import small, told

CLUSTER, PLAN = small(usd_per_hr=np.array([1.0, 4.0]))  # the same $ per request/s on both pools
RULE = LeastLoaded(CLUSTER, utilisation=0.5, thrift=1.0, spot_aversion=0.0)
FULL = 2.0 * 100.0 * 0.1 * 0.78
"""Sequences that a replica of the first pool holds at the limit of its targets."""


def need_with(rule: LeastLoaded = RULE, **columns: Any) -> FloatArray:
    told_first = {"ready": [2.0, 2.0], "arrival_rate_per_s": 20.0, "usd_per_hr": [1.0, 4.0]}
    return rule.propose(told(**{**told_first, **columns}), PLAN, {})[0].need


def test_every_pool_is_used_to_the_same_degree() -> None:
    assert need_with() == pytest.approx(np.array([[4.0, 4.0]]))  # 20/s over 10 x (2 + 8)/s at 0.5
    uneven = replace(RULE, cluster=replace(CLUSTER, max_replicas=np.array([20.0, 5.0])))
    assert need_with(uneven) == pytest.approx(np.array([[10.0, 2.5]]))


def test_dear_pools_are_used_less_as_far_as_it_is_thrifty() -> None:
    dear = {"usd_per_hr": [1.0, 8.0]}
    assert need_with(replace(RULE, thrift=0.0), **dear) == pytest.approx(np.array([[4.0, 4.0]]))
    # Half the weight: 10 x 2 beside 10 x 8 / 2.
    assert need_with(**dear) == pytest.approx(np.array([[40.0 / 3.0 / 2.0, 80.0 / 3.0 / 8.0]]))


def test_a_pool_with_little_to_do_is_left_out() -> None:
    assert need_with(arrival_rate_per_s=2.4, ready=[2.0, 0.0], usd_per_hr=[1.0, 40.0]) == pytest.approx(
        np.array([[2.4, 0.0]])
    )


@pytest.mark.parametrize(
    ("columns", "total"),
    [({"running": [0.0, 0.0]}, 20.0), ({"running": [2.0 * FULL, 8.0 * FULL]}, 20.0),
     ({"running": [4.0 * FULL, 16.0 * FULL]}, 40.0), ({"running": [2.0 * FULL, 8.0 * FULL], "waiting": [FULL, 0.0]}, 22.0)],
    ids=["the rate at least", "as the rate has it", "twice as busy", "what waits counts as busy"],
)  # fmt: skip
def test_the_fleet_grows_with_its_use(columns: dict[str, Any], total: float) -> None:
    need = need_with(arrival_rate_per_s=20.0, **columns)
    assert (need * PLAN.capacity_per_s).sum() == pytest.approx(total / RULE.utilisation)


def test_what_finds_no_room_goes_to_the_others() -> None:
    small_first = replace(RULE, thrift=6.0)
    need = need_with(small_first, usd_per_hr=[1.0, 8.0], arrival_rate_per_s=14.0)
    assert need == pytest.approx(np.array([[10.0, 1.0]]))


@pytest.mark.parametrize(
    ("running", "share"),
    [([0.0, 0.0], 0.2), ([2.0 * FULL, 0.0], 1 / 9), ([2.0 * FULL, 8.0 * FULL], 0.2), ([99.0 * FULL, 0.0], 0.1 / 16.1)],
    ids=["idle", "one is full", "both are", "overfull keeps a trickle"],
)
def test_weights_follow_free_capacity(running: list[float], share: float) -> None:
    snapshot = told(ready=[2.0, 2.0], running=running, arrival_rate_per_s=1.0)
    assert RULE.decide(snapshot, PLAN, {})[0].route[0] == pytest.approx([share, 1.0 - share])
