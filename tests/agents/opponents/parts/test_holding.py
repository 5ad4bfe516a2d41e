"""How long a load, a replica and a wish are held on to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.agents.opponents.parts.figures import elapsed_s, looked_at, pools_seen
from poolpilot.agents.opponents.parts.holding import faded, highest_of_window, made_before_broken, within_reach
from poolpilot.env.contract import Memory
from poolpilot.tests.agents.opponents.small import small, told
from poolpilot.tests.env.clusters import SEEDS


@given(SEEDS, st.sampled_from([5.0, 10.0, 30.0]), st.sampled_from([20.0, 120.0, 600.0]))
def test_the_highest_of_a_window_is_the_highest_that_was_seen_in_it(seed: int, tick_s: float, window_s: float) -> None:
    rng = np.random.default_rng(seed)
    values, memory = rng.uniform(0.0, 9.0, (60, 2)), {}
    slot_s = max(window_s / 20.0, tick_s)
    for tick, value in enumerate(values):
        snapshot = told(1000.0 + tick_s * tick)
        highest, memory = highest_of_window(value, np.zeros(2), snapshot.time_s, window_s, memory)
        memory = {**memory, **looked_at(snapshot)}
        age_s = tick_s * (tick - np.arange(tick + 1))
        assert (highest >= values[: tick + 1][age_s <= window_s].max(axis=0)).all()
        assert (highest <= values[: tick + 1][age_s <= window_s + slot_s].max(axis=0)).all()


def test_what_was_planned_for_counts_at_the_first_look_only() -> None:
    first, memory = highest_of_window(np.ones(1), np.full(1, 5.0), np.array(0.0), 60.0, {})
    memory = {**memory, **looked_at(told(0.0))}
    later, memory = highest_of_window(np.ones(1), np.full(1, 9.0), np.array(30.0), 60.0, memory)
    memory = {**memory, **looked_at(told(30.0))}
    at_last, _ = highest_of_window(np.ones(1), np.full(1, 9.0), np.array(90.0), 60.0, memory)
    assert [first[0], later[0], at_last[0]] == [5.0, 5.0, 1.0]


def test_a_load_fades_from_the_last_look() -> None:
    memory = {"load": np.array([8.0]), **looked_at(told(100.0))}
    gone_s = elapsed_s(told(160.0), memory)
    assert faded(np.array([1.0]), gone_s, 60.0, memory) == pytest.approx([8.0 / np.e])
    assert faded(np.array([9.0]), gone_s, 60.0, memory) == pytest.approx([9.0])
    assert elapsed_s(told(50.0), memory) == 0.0
    assert faded(np.array([1.0]), np.array(10.0), 0.0, memory) == pytest.approx([1.0])


def test_a_wish_that_nobody_answers_is_given_up_for_a_while() -> None:
    cluster, plan = small()
    memory: Memory = {}
    rooms = []
    for tick in range(30):
        snapshot = told(10.0 * tick, ready=[2.0, 0.0], target=[5.0, 0.0])
        pools = pools_seen(snapshot, plan, cluster)
        room, reach = within_reach(pools, cluster, elapsed_s(snapshot, memory), memory)
        memory = {**reach, **looked_at(snapshot)}
        rooms.append(room.tolist())
    # Then for one at a time, and given up again.
    assert rooms == [[10.0, 10.0]] * 3 + [[2.0, 10.0]] * 18 + [[3.0, 10.0]] * 3 + [[2.0, 10.0]] * 6


def test_replicas_that_start_answer_a_wish() -> None:
    cluster, plan = small()
    snapshot = told(600.0, ready=[2.0, 0.0], starting=[3.0, 0.0])
    memory = {"unanswered_s": np.full(2, 29.0), "doubt_s": np.zeros(2), **looked_at(told(590.0))}
    room, reach = within_reach(pools_seen(snapshot, plan, cluster), cluster, elapsed_s(snapshot, memory), memory)
    assert room.tolist() == [10.0, 10.0]
    assert reach["unanswered_s"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("ready", "counts"),
    [([0.0, 4.0], [4.0, 1.0]), ([2.0, 4.0], [4.0, 1.0]), ([3.9, 4.0], [4.0, 1.0]), ([4.0, 4.0], [4.0, 0.0]),
     ([0.0, 0.0], [4.0, 0.0]), ([9.0, 0.0], [4.0, 0.0])],
    ids=["one carries it all", "half of it", "hardly any", "all ready", "none to stand in", "too many"],
)  # fmt: skip
def test_others_stay_until_what_replaces_them_is_ready(ready: list[float], counts: list[float]) -> None:
    cluster, plan = small()
    pools = pools_seen(told(ready=ready), plan, cluster)
    assert made_before_broken(np.array([[4.0, 0.0]]), plan.capacity_per_s, pools).tolist() == counts


def test_those_that_are_starting_may_stand_in_as_well() -> None:
    cluster, plan = small()
    pools = pools_seen(told(ready=[0.0, 0.0], starting=[0.0, 2.0]), plan, cluster)
    assert made_before_broken(np.array([[4.0, 0.0]]), plan.capacity_per_s, pools).tolist() == [4.0, 1.0]


def test_doubt_passes() -> None:
    cluster, plan = small()
    memory = {"unanswered_s": np.zeros(2), "doubt_s": np.full(2, 15.0), **looked_at(told(590.0))}
    for time_s, room in ((600.0, 3.0), (605.0, 10.0)):
        snapshot = told(time_s, ready=[2.0, 2.0])
        pools = pools_seen(snapshot, plan, cluster)
        assert within_reach(pools, cluster, elapsed_s(snapshot, memory), memory)[0].tolist() == [room, room]


def test_only_as_many_stay_as_are_missed() -> None:
    cluster, plan = small()
    pools = pools_seen(told(ready=[8.0, 1.0]), plan, cluster)
    # 3 large ones are needed, 1 is there: of 16/s in small ones that are not needed all must stay, of 24/s 16/s.
    assert made_before_broken(np.array([[0.0, 3.0]]), plan.capacity_per_s, pools).tolist() == [8.0, 3.0]
    cluster = replace(cluster, max_replicas=np.full(2, 12.0))
    pools = pools_seen(told(ready=[12.0, 1.0]), plan, cluster)
    assert made_before_broken(np.array([[0.0, 3.0]]), plan.capacity_per_s, pools).tolist() == [8.0, 3.0]
