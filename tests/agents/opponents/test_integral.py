"""Head-room grows after misses, shrinks while the allowance lasts, and does not wind up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.opponents.integral import KNOBS, Integral, with_headroom
from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env.codec import Proposal, whole_replicas
from poolpilot.env.contract import Memory, Snapshot
from poolpilot.tests.env.clusters import SEEDS, Situation, same, situations

from .decisions import check_actions_of_some_ticks
from .test_spot_fallback import told, zones


def controlled(cluster: Any, gain: float = 2.0, limit: float = 0.3) -> Integral:
    return Integral(cluster, PlanTracking(cluster), gain, limit)


@settings(max_examples=30, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    check_actions_of_some_ticks(at, controlled, seed)


def factors(snapshots: list[Snapshot], **knobs: float) -> list[float]:
    """The factor after each."""
    cluster, plan = zones()
    rule = controlled(cluster, **knobs)
    memory: Memory = {}
    found = []
    for snapshot in snapshots:
        _, memory = rule.propose(snapshot, plan, memory)
        found.append(float(np.exp(memory["log_factor"][0])))
    return found


def minutes(n: int, attainment: float, **columns: Any) -> list[Snapshot]:
    usual = {"attainment": [attainment], "ready": 9.0, "target": 9.0}
    return [told(60.0 * minute, **{**usual, **columns}) for minute in range(n)]


def test_it_begins_as_the_rule() -> None:
    cluster, plan = zones()
    snapshot = minutes(1, 1.0)[0]
    bare, _ = PlanTracking(cluster).propose(snapshot, plan, {})
    wrapped, _ = controlled(cluster).propose(snapshot, plan, {})
    assert same(wrapped.action, bare.action)
    assert same(wrapped.need, bare.need)


def test_misses_raise_headroom_up_to_the_limit() -> None:
    found = factors(minutes(60, 0.5))
    assert found[5] > 1.0
    assert (np.diff(found) >= 0).all()
    assert found[-1] == pytest.approx(np.exp(0.3))


def test_an_untouched_allowance_lowers_headroom_slowly_down_to_the_limit() -> None:
    found = factors(minutes(60, 1.0))
    assert 0.9 < found[10] < 1.0
    assert factors(minutes(300, 1.0))[-1] == pytest.approx(np.exp(-0.3))


def test_it_does_not_grow_while_replicas_asked_for_are_starting() -> None:
    waiting = factors(minutes(30, 0.5, ready=4.0, target=9.0))
    assert max(waiting) <= 1.0


def test_it_does_not_grow_where_nothing_more_can_be_had() -> None:
    everything = factors(minutes(30, 0.5, arrival_rate_per_s=[500.0], ready=20.0, target=20.0))
    assert max(everything) <= 1.0


def test_what_was_counted_at_the_limit_is_not_counted() -> None:
    """However long it missed, head-room falls as soon as the rolling window has its allowance back: no wind-up."""

    def minutes_at_limit(missing: int) -> int:
        better = [replace(s, time_s=s.time_s + 60.0 * missing) for s in minutes(200, 1.0)]
        found = factors(minutes(missing, 0.5) + better)[missing:]
        return next(i for i, factor in enumerate(found) if factor < np.exp(0.3) - 1e-9)

    assert minutes_at_limit(400) == minutes_at_limit(200)


def test_rows_of_memory_that_are_zero_mean_a_factor_of_one() -> None:
    cluster, plan = zones()
    rule = controlled(cluster)
    _, memory = rule.propose(minutes(1, 0.5)[0], plan, {})
    zeroed = {name: np.zeros_like(value) for name, value in memory.items()}
    _, after = rule.propose(told(0.0, attainment=[1.0], ready=9.0, target=9.0), plan, zeroed)
    assert after["log_factor"].tolist() == [0.0]


def test_what_is_held_beyond_the_need_stays_on_top() -> None:
    cluster, plan = zones()
    proposal, _ = PlanTracking(cluster).propose(told(ready=9.0, target=9.0), plan, {})
    held = replace(proposal.action, replicas=np.array([6.0, 5.0, 2.0]))
    before = Proposal(held, np.array([[3.5, 2.5, 0.0]]))
    after = with_headroom(before, np.array([1.5]), cluster)
    assert after.need.tolist() == [[5.25, 3.75, 0.0]]
    assert after.action.replicas.tolist() == [8.0, 6.0, 2.0]
    assert same(with_headroom(before, np.ones(1), cluster).action, held)
    assert (whole_replicas(before.need.sum(axis=0)) <= held.replicas).all()


def test_its_knobs_have_defaults_within_their_range() -> None:
    cluster, _ = zones()
    defaults = {knob.name: knob.default for knob in KNOBS}
    rule = Integral(cluster, PlanTracking(cluster))
    assert defaults == {"gain": rule.gain, "limit": rule.limit}
    assert all(knob.low <= knob.default <= knob.high for knob in KNOBS)
    assert rule.name == "plan-tracking+integral"
