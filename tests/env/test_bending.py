"""Looking and acting around a rule: the rule's own memory and the allowance of misses side by side."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env.bending import RULE_PREFIX, Bending
from poolpilot.env.codec import CLASS_OUTPUTS, POOL_OUTPUTS, decode, encode, track_budget
from poolpilot.env.contract import Memory

from .clusters import Situation, a_cluster, a_plan, a_snapshot, row, same, situations


@settings(max_examples=40, deadline=None)
@given(situations())
def test_it_sees_what_the_codec_sees_and_remembers_for_both(at: Situation) -> None:
    rule = PlanTracking(at.cluster)
    price = np.full(len(at.cluster.serves), 0.5)
    seen, proposal, memory = Bending(at.cluster, rule).look(at.snapshot, at.plan, {}, price)
    expected, own = rule.propose(at.snapshot, at.plan, {})
    left, budget = track_budget(at.snapshot, at.cluster, {})
    assert same(proposal, expected)
    assert same(seen, encode(at.snapshot, at.plan, expected, at.cluster, price, left))
    assert set(memory) == {RULE_PREFIX + name for name in own} | set(budget)
    assert all(same(memory[RULE_PREFIX + name], own[name]) for name in own)


def test_the_rules_memory_reaches_the_rule_and_only_it() -> None:
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 2, 3)
    cluster, plan = row(batch, 0), row(a_plan(rng, batch), 0)
    rule = PlanTracking(cluster)
    bent: Memory = {}
    own: Memory = {}
    for tick in range(5):
        snapshot = row(a_snapshot(rng, batch), 0)
        snapshot = type(snapshot)(np.array(10.0 * tick), snapshot.classes, snapshot.pools, snapshot.forecast_per_s)
        _, proposal, bent = Bending(cluster, rule).look(snapshot, plan, bent, np.array(1.0))
        alone, own = rule.propose(snapshot, plan, own)
        assert same(proposal, alone)


def test_it_acts_as_the_codec_decodes() -> None:
    rng = np.random.default_rng(1)
    batch = a_cluster(rng, 2, 2, 3)
    rule = PlanTracking(batch)
    bending = Bending(batch, rule)
    _, proposal, _ = bending.look(a_snapshot(rng, batch), a_plan(rng, batch), {}, np.ones(2))
    by_class, by_pool = rng.uniform(-1, 1, (2, 2, CLASS_OUTPUTS)), rng.uniform(-1, 1, (2, 3, POOL_OUTPUTS))
    assert same(bending.act(by_class, by_pool, proposal), decode(by_class, by_pool, proposal, batch))
