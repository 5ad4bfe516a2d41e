"""Each class on the cheapest pool for its work that has room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.opponents.cheapest_fit import CheapestFit
from poolpilot.env.contract import FloatArray, Memory

from .small import small, told

CLUSTER, PLAN = small()
RULE = CheapestFit(CLUSTER, headroom=1.0, burst=0.0)
# The small pool costs $0.5 per request/s and hour, the large one $0.75.


def counts(rule: CheapestFit = RULE, **columns: Any) -> list[float]:
    counted: FloatArray = rule.decide(told(**columns), PLAN, {})[0].replicas
    return counted.tolist()


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"arrival_rate_per_s": 8.0}, [4.0, 0.0]),
        ({"arrival_rate_per_s": 8.0, "usd_per_hr": [1.0, 2.0]}, [2.0, 1.0]),
        ({"arrival_rate_per_s": 8.0, "usd_per_hr": [1.0, 2.0], "ready": [2.0, 1.0]}, [0.0, 1.0]),
        ({"arrival_rate_per_s": 8.0, "usd_per_hr": [1.0, 3.8]}, [4.0, 0.0]),
        ({"arrival_rate_per_s": 8.0, "usd_per_hr": [1.0, 3.8], "ready": [0.0, 1.0]}, [0.0, 1.0]),
        ({"arrival_rate_per_s": 2.0, "usd_per_hr": [1.0, 2.0]}, [1.0, 0.0]),
        ({"arrival_rate_per_s": 8.0, "waiting": [120.0, 0.0]}, [5.0, 0.0]),
        ({"arrival_rate_per_s": 24.0}, [10.0, 1.0]),
        ({"arrival_rate_per_s": 900.0}, [10.0, 10.0]),
        ({"arrival_rate_per_s": 0.0}, [0.0, 0.0]),
        ({"arrival_rate_per_s": np.nan}, [0.0, 0.0]),
    ],
    ids=["the cheaper for the work", "what is dearer stands in", "until the cheaper is ready",
         "hardly cheaper is not worth a change", "whichever way round", "rented whole, it is not the cheaper",
         "120 waiting are 2/s on top", "spills when full", "all there is", "nothing to do", "unknown: as planned for"],
)  # fmt: skip
def test_counts(columns: dict[str, Any], wanted: list[float]) -> None:
    assert counts(**columns) == wanted


def test_headroom_and_burst() -> None:
    assert counts(replace(RULE, headroom=1.5), arrival_rate_per_s=8.0) == [6.0, 0.0]
    assert counts(replace(RULE, burst=0.5), arrival_rate_per_s=8.0) == [5.0, 0.0]  # 4 + 0.5 x 2


def test_a_spot_pool_must_be_cheaper_by_what_it_is_worth() -> None:
    rule = replace(RULE, cluster=replace(CLUSTER, spot=np.array([True, False])))
    now = {"ready": [0.0, 0.0], "arrival_rate_per_s": 16.0}
    assert counts(replace(rule, spot_aversion=0.4), **now) == [8.0, 0.0]
    assert counts(replace(rule, spot_aversion=0.6), **now) == [0.0, 2.0]


def test_what_is_expected_soon_is_carried_too() -> None:
    snapshot = told(arrival_rate_per_s=2.0)
    ahead = replace(snapshot, forecast_per_s=np.array([[3.0, 10.0, 18.0, 18.0, 18.0]]))
    assert RULE.decide(ahead, PLAN, {})[0].replicas.tolist() == [5.0, 0.0]


def test_a_load_that_has_passed_fades() -> None:
    memory: Memory = {}
    seen = []
    for tick in range(4):
        snapshot = told(60.0 * tick, ready=[4.0, 0.0], arrival_rate_per_s=8.0 if tick == 0 else 0.5)
        action, memory = RULE.decide(snapshot, PLAN, memory)
        seen.append(action.replicas[0])
    assert seen == [4.0, 3.0, 2.0, 1.0]  # 8/s x exp(-t / 120 s)


def test_each_class_where_it_is_cheapest() -> None:
    cluster, plan = small(2)
    plan = replace(plan, capacity_per_s=np.array([[2.0, 8.0], [1.0, 20.0]]))
    rule = CheapestFit(cluster, headroom=1.0, burst=0.0)
    proposal, _ = rule.propose(told(ready=[3.0, 2.0], arrival_rate_per_s=[6.0, 40.0]), plan, {})
    assert proposal.need == pytest.approx(np.array([[3.0, 0.0], [0.0, 2.0]]))
    assert proposal.action.route == pytest.approx(np.eye(2))


def test_classes_share_a_full_pool_in_proportion() -> None:
    cluster, plan = small(2, max_replicas=np.array([4.0, 10.0]))
    rule = CheapestFit(cluster, headroom=1.0, burst=0.0)
    proposal, _ = rule.propose(told(ready=[4.0, 0.0], arrival_rate_per_s=[12.0, 4.0]), plan, {})
    assert proposal.need == pytest.approx(np.array([[3.0, 0.75], [1.0, 0.25]]))


@pytest.mark.parametrize(
    ("columns", "share"),
    [
        ({"ready": [4.0, 2.0]}, 1.0),
        ({"ready": [2.0, 2.0]}, 0.5),
        ({"ready": [0.0, 2.0]}, 0.0),
        ({"ready": [4.0, 2.0], "waiting": [64.0, 0.0]}, 0.5),
    ],
    ids=["all ready", "half ready", "none ready", "a queue of a quarter batch"],
)
def test_weights_follow_what_is_ready(columns: dict[str, Any], share: float) -> None:
    route = RULE.decide(told(arrival_rate_per_s=8.0, **columns), PLAN, {})[0].route
    assert route[0] == pytest.approx([share, 1.0 - share], abs=0.06)
