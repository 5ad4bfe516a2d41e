"""A neutral output is the first rule itself, a blend lies between its rules, and a bend stays within its bounds."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env.codec import (
    BLENDED,
    CLASS_OUTPUTS,
    POOL_OUTPUTS,
    WHOLE_OUTPUTS,
    Outputs,
    Proposal,
    bend,
    blend,
    decode,
    on_top,
    whole_replicas,
)
from poolpilot.env.codec.outputs import ADMIT_BEND, CAP_BEND, DOUBT, HEADROOM_BEND, HOLD_BEND, REPLICA_BEND, TILT_BEND
from poolpilot.env.contract import Action, blank_snapshot

from ..clusters import SEEDS, Situation, a_cluster, a_plan, any_floats, row, same, situations, with_columns
from ..portfolios import neutral, outputs, proposals_of, unlike_proposals


def acted(at: Situation, asked: Outputs, proposals: tuple[Proposal, ...]) -> Action:
    return decode(asked, proposals, at.snapshot, at.plan, at.cluster)


@settings(max_examples=100, deadline=None)
@given(situations(absurdity=True), SEEDS)
def test_a_neutral_output_is_the_first_rule_bit_for_bit(at: Situation, seed: int) -> None:
    with np.errstate(all="ignore"):  # a rule may stumble over absurd figures
        first = proposals_of(at)[0]
        proposals = (first, *unlike_proposals(at, seed)[1:])
        action = acted(at, neutral(at), proposals)
    for field in fields(action):
        ours, its = getattr(action, field.name), getattr(first.action, field.name)
        real = np.isfinite(its)
        if field.name == "batch_cap":
            real &= at.cluster.pool_mask
        assert np.array_equal(ours[real], its[real]), field.name
        assert ours.shape == its.shape


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS, st.integers(1, BLENDED - 1))
def test_a_rule_that_is_wholly_trusted_is_followed(at: Situation, seed: int, k: int) -> None:
    proposals, asked = unlike_proposals(at, seed), neutral(at)
    asked.whole[:] = -0.5  # no trust is no distrust
    asked.whole[..., k - 1] = 1.0
    action, its = acted(at, asked, proposals), proposals[k].action
    for name in ("route", "admit", "token_budget"):
        assert np.allclose(getattr(action, name), getattr(its, name), atol=1e-12), name
    assert (action.batch_cap == its.batch_cap)[at.cluster.pool_mask].all()
    assert (action.replicas == its.replicas).all()


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS, SEEDS)
def test_a_blend_lies_between_its_rules(at: Situation, seed: int, trust: int) -> None:
    proposals = unlike_proposals(at, seed)
    mixed = blend(proposals, outputs(at, trust).whole, at.cluster)

    def within(value: np.ndarray, all_of_them: list[np.ndarray], slack: float = 1e-9) -> bool:
        low, high = np.min(all_of_them, axis=0), np.max(all_of_them, axis=0)
        return bool(((value >= low - slack) & (value <= high + slack)).all())

    assert within(mixed.need, [proposal.need for proposal in proposals])
    for name in ("route", "admit", "batch_cap", "token_budget"):
        assert within(getattr(mixed.action, name), [getattr(proposal.action, name) for proposal in proposals]), name
    assert within(on_top(mixed, at.cluster), [on_top(proposal, at.cluster) for proposal in proposals], slack=0.5)
    rows = proposals[0].action.route.sum(axis=-1)
    assert np.allclose(mixed.action.route.sum(axis=-1), rows, atol=1e-12)


@pytest.mark.parametrize(
    ("trust", "weights"),
    [
        ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
        ((-1.0, 0.6, 0.0), (0.5, 0.0, 0.5, 0.0)),
        ((DOUBT, -0.1, 0.1), (1.0, 0.0, 0.0, 0.0)),
        ((0.4, 0.4, 0.4), (0.25, 0.25, 0.25, 0.25)),
        ((1.0, 1.0, 0.0), (0.0, 0.5, 0.5, 0.0)),
        ((1.0, 0.6, 0.6), (0.0, 0.5, 0.25, 0.25)),
        ((9.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)),
    ],
)
def test_trust_is_shared_out(trust: tuple[float, ...], weights: tuple[float, ...]) -> None:
    at = a_small_world()
    first = proposals_of(at)[0]
    proposals = tuple(replace(first, need=np.full_like(first.need, 10.0**k)) for k in range(BLENDED))
    need = blend(proposals, np.array(trust), at.cluster).need
    assert np.allclose(need, np.dot(weights, 10.0 ** np.arange(BLENDED)))


def test_what_a_rule_holds_on_top_of_its_need_is_blended_in_whole_replicas() -> None:
    at = a_small_world()
    first = proposals_of(at)[0]
    holding = replace(first, action=replace(first.action, replicas=first.action.replicas + 3.0))
    for trust, more in ((0.0, 0.0), (0.28, 0.0), (0.44, 1.0), (0.68, 2.0), (1.0, 3.0)):
        mixed = blend((first, holding, first, first), np.array([trust, 0.0, 0.0]), at.cluster)
        assert (mixed.action.replicas == first.action.replicas + more).all(), trust


def test_a_rule_that_is_at_a_loss_does_not_spoil_the_blend() -> None:
    at = a_small_world()
    first = proposals_of(at)[0]
    lost = Proposal(replace(first.action, route=np.full_like(first.action.route, np.nan)), first.need * np.inf)
    mixed = blend((first, lost, first, first), np.array([0.5, 0.0, 0.0]), at.cluster)
    assert np.allclose(mixed.need, first.need)
    assert np.allclose(mixed.action.route, first.action.route)


def test_an_answer_that_is_no_number_stays_none_for_the_guard_to_see() -> None:
    at = a_small_world()
    asked = neutral(at)
    asked.whole[:] = np.nan
    assert np.isnan(acted(at, asked, proposals_of(at)).replicas).all()


@settings(max_examples=80, deadline=None)
@given(situations(), SEEDS, SEEDS)
def test_bends_stay_within_their_bounds(at: Situation, seed: int, drawn: int) -> None:
    cluster, asked = at.cluster, outputs(at, seed)
    asked.pools[..., 3] = np.minimum(asked.pools[..., 3], 0.0)  # holding is for another test
    proposal = unlike_proposals(at, drawn)[0]
    base, action = proposal.action, bend(asked, proposal, at.snapshot, at.plan, cluster)
    assert ((action.replicas >= 0) & (action.replicas <= cluster.max_replicas)).all()
    assert (action.replicas == np.round(action.replicas)).all()

    assert np.allclose(action.route.sum(axis=-1), base.route.sum(axis=-1), atol=1e-12)
    assert (action.route[base.route == 0] == 0).all()
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = action.route / base.route
    tilt = np.exp(2 * TILT_BEND) * (1 + 1e-9)
    assert (ratio[base.route > 0] <= tilt).all()
    assert (ratio[base.route > 0] >= 1 / tilt).all()

    put_off = cluster.targets.deferrable
    assert (action.admit[~put_off] == base.admit[~put_off]).all()
    assert (np.abs(action.admit - base.admit) <= ADMIT_BEND).all()
    assert ((action.admit >= 0) & (action.admit <= 1)).all()

    most = np.maximum(cluster.max_batch_cap, 1.0)
    assert (action.batch_cap <= np.maximum(np.ceil(base.batch_cap * np.exp(CAP_BEND)), 1.0)).all()
    assert ((action.batch_cap >= 1) & (action.batch_cap <= most)).all()
    assert (action.batch_cap >= np.floor(base.batch_cap * np.exp(-CAP_BEND))).all()
    assert (action.token_budget == base.token_budget).all()


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS, SEEDS)
def test_counts_follow_the_need_within_the_bounds_of_head_room_and_replicas(
    at: Situation, seed: int, drawn: int
) -> None:
    asked = outputs(at, seed)
    asked.pools[..., 1] = asked.pools[..., 3] = 0.0
    proposal = unlike_proposals(at, drawn)[0]
    action = bend(asked, proposal, at.snapshot, at.plan, at.cluster)
    need, spread, most = proposal.need.sum(axis=-2), np.exp(HEADROOM_BEND + REPLICA_BEND), at.cluster.max_replicas
    low = np.minimum(whole_replicas(need / spread), most) + on_top(proposal, at.cluster)
    high = np.minimum(whole_replicas(need * spread * (1 + 1e-12)), most) + on_top(proposal, at.cluster)
    assert (action.replicas >= np.clip(low, 0, most)).all()
    assert (action.replicas <= np.clip(high, 0, most)).all()


@settings(max_examples=40, deadline=None)
@given(situations(), SEEDS, st.floats(0.25, 4.0))
def test_head_room_of_the_user_is_met_in_whole_replicas_of_the_need(at: Situation, drawn: int, headroom: float) -> None:
    proposal = unlike_proposals(at, drawn)[0]
    action = bend(neutral(at), proposal, at.snapshot, at.plan, at.cluster, headroom)
    most = at.cluster.max_replicas
    need = (proposal.need * headroom).sum(axis=-2)
    wanted = np.minimum(whole_replicas(need), most) + on_top(proposal, at.cluster)
    assert (action.replicas == np.clip(wanted, 0.0, most)).all()


def test_a_tilt_moves_work_and_not_replicas() -> None:
    """The pool that is favoured is half as fast, so it needs two replicas for each that the other gives up."""
    at = a_small_world()
    at = replace(at, plan=replace(at.plan, capacity_per_s=np.array([[2.0, 1.0], [2.0, 1.0]])))
    first = proposals_of(at)[0]
    need = np.array([[4.0, 4.0], [0.0, 0.0]])
    route = np.array([[2 / 3, 1 / 3], [0.5, 0.5]])
    proposal = Proposal(replace(first.action, route=route, replicas=np.array([4.0, 4.0])), need)
    asked = neutral(at)
    asked.pools[:, 1] = (0.0, 1.0)
    action = bend(asked, proposal, at.snapshot, at.plan, at.cluster)
    work = np.array([8.0, 4.0 * np.e]) * 12.0 / (8.0 + 4.0 * np.e)
    assert np.allclose(action.route[0], work / 12.0)
    assert action.replicas.tolist() == np.ceil(work / np.array([2.0, 1.0])).tolist() == [3.0, 7.0]


@pytest.mark.parametrize(
    ("hold", "target", "count"),
    [
        (0.0, 9.0, 5.0),
        (-1.0, 9.0, 5.0),
        (0.5 / HOLD_BEND, 9.0, 7.0),
        (0.49 / HOLD_BEND, 6.0, 5.0),
        (0.51 / HOLD_BEND, 6.0, 6.0),
        (1.0, 9.0, 9.0),
        (1.0, 3.0, 5.0),
        (1.0, np.nan, 5.0),
        (1.0, 1e300, 20.0),
    ],
    ids=["neutral", "below", "half", "less than half of one", "more", "all", "scale-up", "unknown", "absurd"],
)
def test_a_share_of_a_scale_down_is_withheld(hold: float, target: float, count: float) -> None:
    at = a_small_world()
    at = replace(at, snapshot=with_columns(at.snapshot, target=target))
    first = proposals_of(at)[0]
    proposal = Proposal(replace(first.action, replicas=np.full(2, 5.0)), np.full((2, 2), 2.5))
    asked = neutral(at)
    asked.pools[:, 3] = hold
    assert (bend(asked, proposal, at.snapshot, at.plan, at.cluster).replicas == count).all()


@pytest.mark.parametrize(
    ("dimension", "value", "changed"),
    [
        (("classes", 0), 1.0, {"replicas"}),
        (("classes", 1), -1.0, {"admit"}),
        (("pools", 0), 1.0, {"replicas"}),
        (("pools", 1), 1.0, {"route", "replicas"}),
        (("pools", 2), -1.0, {"batch_cap"}),
        (("pools", 3), 1.0, {"replicas"}),
    ],
    ids=["head-room", "admission", "replicas", "tilt", "cap", "hold"],
)
def test_each_output_moves_its_own_part_of_the_action(
    dimension: tuple[str, int], value: float, changed: set[str]
) -> None:
    at = a_small_world()
    proposals, asked = proposals_of(at), neutral(at)
    getattr(asked, dimension[0])[1, dimension[1]] = value
    action, base = acted(at, asked, proposals), proposals[0].action
    assert {f.name for f in fields(action) if not same(getattr(action, f.name), getattr(base, f.name))} == changed


def a_small_world() -> Situation:
    """Two classes on two pools that serve both; the second class is deferrable, its need large enough to show."""
    rng = np.random.default_rng(0)
    cluster = row(a_cluster(rng, 1, 2, 2), 0)
    targets = replace(cluster.targets, deadline_s=np.array([np.nan, 300.0]), ttft_s=np.array([1.0, np.nan]))
    cluster = replace(
        cluster,
        serves=np.ones((2, 2), dtype=np.bool_),
        min_replicas=np.zeros(2),
        max_replicas=np.full(2, 20.0),
        max_batch_cap=np.full(2, 64.0),
        targets=targets,
    )
    plan = replace(
        row(a_plan(rng, a_cluster(rng, 1, 2, 2)), 0),
        route=np.array([[0.5, 0.5], [0.25, 0.75]]),
        capacity_per_s=np.ones((2, 2)),
        batch_cap=np.full(2, 64.0),
    )
    snapshot = with_columns(blank_snapshot(0.0, 2, 2), arrival_rate_per_s=[6.0, 6.0], ready=5.0, target=18.0)
    return Situation(cluster, plan, snapshot)


def test_a_need_beyond_the_maximum_is_not_bent_below_it() -> None:
    at = a_small_world()
    small = replace(at.cluster, max_replicas=np.full(2, 3.0))
    proposal = PlanTracking(small).propose(at.snapshot, at.plan, {})[0]
    clipped = Proposal(replace(proposal.action, replicas=np.full(2, 3.0)), np.full((2, 2), 3.0))
    less = Outputs(np.zeros((2, CLASS_OUTPUTS)), np.full((2, POOL_OUTPUTS), -1.0), np.zeros(WHOLE_OUTPUTS))
    assert (clipped.need.sum(axis=0) * np.exp(-REPLICA_BEND) > 3).all()
    assert bend(less, clipped, at.snapshot, at.plan, small).replicas.tolist() == [3.0, 3.0]


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS, SEEDS)
def test_a_batch_is_bent_as_each_cluster_alone(at: Situation, seed: int, drawn: int) -> None:
    asked, proposals = outputs(at, seed), unlike_proposals(at, drawn)
    action = acted(at, asked, proposals)
    for b in range(len(at.cluster.serves)):
        alone = acted(row(at, b), row(asked, b), row(proposals, b))
        for field in fields(alone):
            mine, together = getattr(alone, field.name), getattr(action, field.name)[b]
            assert np.allclose(mine, together, rtol=1e-12, atol=1e-12), field.name


@settings(max_examples=60, deadline=None)
@given(situations(absurdity=True), any_floats(3, 3, CLASS_OUTPUTS), any_floats(3, 4, POOL_OUTPUTS), any_floats(3, 3))
def test_whatever_is_answered_gives_an_action_of_the_right_shapes(
    at: Situation, classes: np.ndarray, pools: np.ndarray, whole: np.ndarray
) -> None:
    b, c, p = at.cluster.serves.shape
    asked = Outputs(classes[:b, :c], pools[:b, :p], whole[:b])
    with np.errstate(all="ignore"):
        proposals = proposals_of(at)
        action = acted(at, asked, proposals)
    for field in fields(action):
        assert getattr(action, field.name).shape == getattr(proposals[0].action, field.name).shape
    assert not (np.isfinite(action.replicas) & (action.replicas < 0)).any()


@pytest.mark.parametrize(
    ("need", "replicas"), [(0.0, 0), (0.01, 0), (0.03, 1), (1.0, 1), (1.02, 1), (1.03, 2), (-1, 0)]
)
def test_a_need_is_met_by_the_next_whole_number_but_for_a_little(need: float, replicas: int) -> None:
    assert whole_replicas(np.array(need)) == replicas
