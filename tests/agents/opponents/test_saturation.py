"""Grows the cheapest before saturation, waits for pending replicas, shrinks the dearest where the rest stays clear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from poolpilot.agents.opponents.saturation import Saturation
from poolpilot.env.contract import FloatArray, Memory

from .small import small, told

NAN = np.nan
CLUSTER, PLAN = small()
RULE = Saturation(CLUSTER, grow_at=0.8, band=0.75)
FULL = 2.0 * 100.0 * 0.1 * 0.78
"""Sequences that a replica of the first pool holds at the limit of its targets."""


def counts(rule: Saturation = RULE, **columns: Any) -> list[float]:
    columns = {"arrival_rate_per_s": 0.5, **columns}
    counted: FloatArray = rule.decide(told(**columns), PLAN, {})[0].replicas
    return counted.tolist()


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"running": [4.0 * FULL * 0.79, 0.0]}, 4),
        ({"running": [4.0 * FULL * 0.9, 0.0]}, 5),
        ({"running": [4.0 * FULL * 1.4, 0.0]}, 7),
        ({"running": [30.0, 0.0], "kv_used_frac": [0.63, NAN]}, 4),
        ({"running": [30.0, 0.0], "kv_used_frac": [0.70, NAN]}, 5),
        ({"running": [30.0, 0.0], "kv_used_frac": [0.5, NAN], "waiting": [15.0, 0.0]}, 5),
        ({"running": [20.0, 0.0], "waiting": [20.0, 0.0]}, 5),
        ({"running": [50.0, 0.0], "arrival_rate_per_s": 7.0}, 5),
        ({"running": [NAN, 0.0], "kv_used_frac": NAN}, 4),
    ],
    ids=["clear of it", "concurrency", "as many as are missing", "cache nearly", "cache", "cache with what waits",
         "a full queue", "the rate alone", "nothing known: no change"],
)  # fmt: skip
def test_it_grows_before_it_is_saturated(columns: dict[str, Any], wanted: float) -> None:
    assert counts(ready=[4.0, 0.0], **columns) == [wanted, 0.0]


def test_pending_replicas_are_supply_and_block_their_pool() -> None:
    full = {"ready": [4.0, 0.0], "running": [4.0 * FULL * 1.4, 0.0], "arrival_rate_per_s": 0.5}
    assert counts(**full) == [7.0, 0.0]
    assert counts(**full, starting=[3.0, 0.0]) == [7.0, 0.0]
    # Still short: not the pool with pending replicas, but the next.
    assert counts(**full, starting=[1.0, 0.0]) == [5.0, 1.0]
    # Asked for and not answered: no supply, and blocked all the same.
    assert counts(**full, target=[7.0, 0.0]) == [7.0, 1.0]


def test_what_nobody_answers_is_asked_for_no_longer_than_needed() -> None:
    assert counts(ready=[4.0, 0.0], target=[7.0, 0.0], running=[4.0 * FULL * 0.5, 0.0]) == [4.0, 0.0]


@pytest.mark.parametrize(
    ("use", "wanted"),
    [(0.79, [4.0, 0.0]), (0.46, [4.0, 0.0]), (0.44, [3.0, 0.0])],
    ids=["busy", "three would be too full", "three would do"],
)
def test_it_shrinks_only_where_the_rest_stays_clear(use: float, wanted: list[float]) -> None:
    assert counts(ready=[4.0, 0.0], running=[4.0 * FULL * use, 0.0]) == wanted


def test_the_dearest_goes_first() -> None:
    assert counts(ready=[4.0, 1.0], running=[4.0 * FULL * 0.4, 0.0]) == [3.0, 0.0]
    assert counts(ready=[4.0, 1.0], running=[4.0 * FULL * 0.55, 0.0]) == [4.0, 0.0]


def test_it_shrinks_by_the_peak_of_a_window() -> None:
    memory: Memory = {}
    seen = []
    for tick in range(15):
        running = 4.0 * FULL * (0.79 if tick == 0 else 0.2)
        snapshot = told(10.0 * tick, ready=[4.0, 0.0], running=[running, 0.0], arrival_rate_per_s=0.5)
        action, memory = RULE.decide(snapshot, PLAN, memory)
        seen.append(action.replicas[0])
    assert seen == [4.0] * 13 + [2.0] * 2


def test_at_the_first_look_what_was_planned_for_stands() -> None:
    plan = replace(PLAN, load_per_s=np.array([7.0]))
    assert RULE.decide(told(ready=[5.0, 0.0]), plan, {})[0].replicas.tolist() == [5.0, 0.0]


def test_classes_of_other_pools_do_not_matter() -> None:
    cluster, plan = small(2, serves=np.eye(2, dtype=np.bool_))
    rule = replace(RULE, cluster=cluster)
    busy = told(ready=[2.0, 2.0], running=[2.0 * FULL * 1.2, 0.0], arrival_rate_per_s=[0.5, 2.0])
    assert rule.decide(busy, plan, {})[0].replicas.tolist() == [3.0, 1.0]


def test_its_need_is_what_it_must_have_up() -> None:
    rule = replace(RULE, grow_at=0.5)
    proposal, _ = rule.propose(
        told(ready=[4.0, 0.0], running=[4.0 * FULL * 0.3, 0.0], arrival_rate_per_s=0.5), PLAN, {}
    )
    assert proposal.need == pytest.approx(np.array([[2.4, 0.0]]))
