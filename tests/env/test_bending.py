"""Looking and acting around the rules: each rule's own memory and that of the minutes before, side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.env.bending import Bending, rule_prefix
from poolpilot.env.codec import BLENDED, decode, encode, look_back
from poolpilot.env.contract import Memory

from .clusters import Situation, a_cluster, a_plan, a_snapshot, row, same, situations
from .portfolios import outputs, unlike_rules


@settings(max_examples=40, deadline=None)
@given(situations())
def test_it_sees_what_the_codec_sees_and_remembers_for_all(at: Situation) -> None:
    rules = unlike_rules(at.cluster)
    price = np.full(len(at.cluster.serves), 0.5)
    look, memory = Bending(at.cluster, rules).look(at.snapshot, at.plan, {}, price)
    answers = [rule.propose(at.snapshot, at.plan, {}) for rule in rules]
    past, own = look_back(at.snapshot, at.cluster, {})
    assert same(look.proposals, tuple(proposal for proposal, _ in answers))
    assert same(look.seen, encode(at.snapshot, at.plan, look.proposals, at.cluster, price, past))
    expected = {rule_prefix(k) + name: v for k, (_, kept) in enumerate(answers) for name, v in kept.items()}
    assert memory.keys() == expected.keys() | own.keys()
    assert all(same(memory[name], values) for name, values in {**expected, **own}.items())


def test_each_rules_memory_reaches_that_rule_and_only_it() -> None:
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 2, 3)
    cluster, plan = row(batch, 0), row(a_plan(rng, batch), 0)
    rules = unlike_rules(cluster)
    blended: Memory = {}
    own: list[Memory] = [{}] * BLENDED
    for tick in range(5):
        snapshot = replace(row(a_snapshot(rng, batch), 0), time_s=np.array(10.0 * tick))
        look, blended = Bending(cluster, rules).look(snapshot, plan, blended, np.array(1.0))
        alone = [rule.propose(snapshot, plan, own[k]) for k, rule in enumerate(rules)]
        own = [kept for _, kept in alone]
        assert same(look.proposals, tuple(proposal for proposal, _ in alone))


def test_it_acts_as_the_codec_decodes() -> None:
    rng = np.random.default_rng(1)
    batch = a_cluster(rng, 2, 2, 3)
    at = Situation(batch, a_plan(rng, batch), a_snapshot(rng, batch))
    bending = Bending(batch, unlike_rules(batch))
    look, _ = bending.look(at.snapshot, at.plan, {}, np.ones(2))
    asked = outputs(at, 1)
    assert same(bending.act(asked, look), decode(asked, look.proposals, at.snapshot, at.plan, batch))


@pytest.mark.parametrize("count", [0, 1, BLENDED + 1])
def test_another_number_of_rules_is_refused(count: int) -> None:
    cluster = row(a_cluster(np.random.default_rng(1), 1, 2, 3), 0)
    rules = (unlike_rules(cluster) * 2)[:count]
    with pytest.raises(ValueError, match=f"^{count} rules to blend, wanted {BLENDED}$"):
        Bending(cluster, rules)
