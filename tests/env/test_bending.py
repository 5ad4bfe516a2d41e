"""Looking and acting around the rules: each rule's own memory and that of the minutes before, side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from poolpilot.env.bending import LEFT_AT_REST, PRICE_RANGE, Bending, followed_price, rule_prefix
from poolpilot.env.codec import BLENDED, decode, encode, look_back
from poolpilot.env.contract import FloatArray, Memory

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


@given(
    price=st.floats(0.02, 3.0),
    slope=st.floats(0.1, 5.0),
    left=hnp.arrays(np.float64, 3, elements=st.floats(-50.0, 1.0)),
)
def test_a_price_follows_the_class_that_is_worst_off_within_its_range(
    price: float, slope: float, left: FloatArray
) -> None:
    followed = float(followed_price(np.array(price), slope, left))
    assert PRICE_RANGE[0] <= followed <= PRICE_RANGE[1]
    worse = left.copy()
    worse[int(left.argmin())] -= 1.0
    assert float(followed_price(np.array(price), slope, worse)) >= followed
    at_rest = np.array([1.0, LEFT_AT_REST, 1.0])
    assert float(followed_price(np.array(price), slope, at_rest)) == pytest.approx(price)


def test_a_price_without_a_slope_stays_as_it_is_whatever_is_left() -> None:
    assert float(followed_price(np.array(7.5), 0.0, np.array([-9.0, 0.2]))) == 7.5
