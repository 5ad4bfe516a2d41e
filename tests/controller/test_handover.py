"""What a leader leaves is taken over whole, as far as it is of the same scenario and policy, or not at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.controller.handover import (
    Account,
    Handover,
    HandoverError,
    Remembered,
    as_far_as_same,
    cluster_hash,
    newest,
    parsed,
    read,
)
from poolpilot.controller.thinking import Thinker
from poolpilot.env.contract import BILL_LAYERS, IDLE_PARTS, Action, Memory, Plan, ScalingCost, Snapshot
from poolpilot.env.wire import memory_to_json, to_json

from .ticks import a_plan, a_sitting, sat_through

SITTING = a_sitting()
CLUSTER = SITTING.cluster
POOLS, CLASSES = len(CLUSTER.pool_names), len(CLUSTER.class_names)
POLICY = Remembered("ppo", "abc", {"held": np.arange(3.0)})
FALLBACK = Remembered("plan-tracking", "def", {"since_s": np.array([1.0, np.nan])})


def left(**changed: Any) -> Handover:
    account = Account(
        began_unix_s=1.8e9,
        scenario=SITTING.scenario,
        class_names=CLUSTER.class_names,
        pool_names=CLUSTER.pool_names,
        cluster_hash=cluster_hash(CLUSTER),
        fencing_token=3,
        tick=41,
        time_s=420.0,
        wall_s=1.8e9 + 84.0,
        ticks=40,
        fallback_ticks=2,
        usd=np.full((POOLS, CLASSES, len(BILL_LAYERS)), 0.25),
        idle_usd=np.full(len(IDLE_PARTS), 0.1),
        scaling=(ScalingCost(7, CLUSTER.pool_names[0], "cold_start", 0.5),),
        plan=a_plan(CLUSTER),
        changed_at_s=np.full(POOLS, -np.inf),
    )
    return Handover(replace(account, **changed), POLICY, FALLBACK)


def test_what_is_written_is_read_as_it_was() -> None:
    back = parsed(left().text(), SITTING.scenario, CLUSTER)
    assert to_json(back.account) == to_json(left().account)
    for then, now in ((POLICY, back.policy), (FALLBACK, back.fallback)):
        assert (now.name, now.policy_hash) == (then.name, then.policy_hash)
        assert memory_to_json(now.memory) == memory_to_json(then.memory)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"scenario": "another"}, "account.scenario"),
        ({"pool_names": ("x", "y")}, "account.pool_names"),
        ({"class_names": ("x",)}, "account.class_names"),
        ({"usd": np.zeros((1, 1, len(BILL_LAYERS)))}, "account.usd"),
        ({"usd": np.full((POOLS, CLASSES, len(BILL_LAYERS)), np.nan)}, "account.usd"),
        ({"time_s": float("inf")}, "account.time_s"),
        ({"tick": -1}, "account.tick"),
        ({"changed_at_s": np.full(POOLS, 421.0)}, "account.changed_at_s"),
        ({"scaling": (ScalingCost(7, "nowhere", "cold_start", 0.5),)}, r"account.scaling\[0\]"),
        ({"plan": replace(a_plan(CLUSTER), replicas=np.ones(POOLS + 1))}, "account.plan.replicas"),
        ({"schema": 999}, "account.schema"),
    ],
)
def test_what_is_of_another_scenario_or_cannot_be_is_refused_by_its_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(HandoverError, match=named):
        parsed(left(**changed).text(), SITTING.scenario, CLUSTER)


TEXT = left().text().encode()


@given(st.binary(max_size=200) | st.builds(lambda end: TEXT[:end], st.integers(0, len(TEXT) - 1)))
def test_rubbish_and_halves_are_refused_and_nothing_worse(text: bytes) -> None:
    with pytest.raises(HandoverError):
        parsed(text, SITTING.scenario, CLUSTER)


def test_memory_goes_to_the_same_policy_only_and_the_bill_goes_on_all_the_same() -> None:
    same = as_far_as_same(left(), CLUSTER, replace(POLICY, memory={}), replace(FALLBACK, memory={}))
    assert (same.policy, same.fallback) == (POLICY, FALLBACK)
    retrained = as_far_as_same(left(), CLUSTER, Remembered("ppo", "abd"), Remembered("plan-tracking", "def"))
    assert retrained.policy == Remembered("ppo", "abd")
    assert retrained.fallback == FALLBACK
    assert retrained.account.ticks == 40
    dearer = replace(CLUSTER, usd_per_hr=CLUSTER.usd_per_hr * 2.0)
    assert as_far_as_same(left(), dearer, POLICY, FALLBACK).policy.memory == {}


def test_the_newer_of_folder_and_store_counts() -> None:
    older, newer, led_since = left(tick=40), left(tick=41), left(tick=3, fencing_token=4)

    def chosen(folder: str | None, store: str | None) -> Any:
        found = newest({"folder": folder, "store": store}, SITTING.scenario, CLUSTER)
        return None if found is None else found.newness

    assert chosen(older.text(), newer.text()) == (3, 41)
    assert chosen(newer.text(), older.text()) == (3, 41)
    assert chosen(led_since.text(), newer.text()) == (4, 3)
    assert chosen(older.text(), "{") == (3, 40)
    assert chosen(older.text(), None) == (3, 40)


def test_a_store_that_served_another_folder_is_not_believed() -> None:
    anothers = left(tick=99, began_unix_s=1.7e9).text()
    assert newest({"folder": None, "store": anothers}, SITTING.scenario, CLUSTER) is None
    found = newest({"folder": left().text(), "store": anothers}, SITTING.scenario, CLUSTER)
    assert found is not None
    assert found.account.tick == 41


def test_a_folder_without_one_begins_anew(tmp_path: Path) -> None:
    assert read(tmp_path / "handover.json") is None
    assert newest({"folder": None, "store": None}, SITTING.scenario, CLUSTER) is None


@pytest.mark.parametrize(
    ("passed_s", "expected_s"),
    [(10.0, 470.0), (0.0, 425.0), (-3600.0, 425.0)],
    ids=["it went on all the while", "at once", "the wall's clock was set back"],
)
def test_the_clock_goes_on_and_never_back(passed_s: float, expected_s: float) -> None:
    account = left().account
    assert account.next_s(account.wall_s + passed_s, tick_s=5.0, speed_up=5.0) == expected_s


class Remembering:
    """Counts in its memory how often it decided; what is no such memory it cannot use."""

    name, policy_hash = "remembering", "h"

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        count = float(memory["count"]) if memory else 0.0
        (record,) = sat_through(SITTING, 1, seed=3)
        return record.decision.applied, {"count": np.array(count + 1.0)}


@pytest.mark.parametrize(
    ("memory", "counts"),
    [({"count": np.array(7.0)}, 9.0), ({"counts": np.array(7.0)}, 1.0), ({"count": np.arange(3.0)}, 1.0)],
    ids=["goes on", "of an earlier release", "of another shape"],
)
async def test_who_cannot_go_on_from_its_memory_begins_without_one(memory: Memory, counts: float) -> None:
    thinker = Thinker(Remembering(), Remembering())
    thinker.recall(memory, memory)
    (record,) = sat_through(SITTING, 1, seed=3)
    troubles = []
    for _ in range(2):
        proposed, _ = await thinker.propose(record.snapshot, record.plan, 30.0, None)
        troubles.append(proposed.trouble)
    policy, fallback = thinker.remembered()
    assert troubles[1] is None
    assert (float(policy.memory["count"]), float(fallback.memory["count"])) == (counts, 9.0 if counts == 9.0 else 2.0)
    assert json.dumps(memory_to_json(policy.memory))
