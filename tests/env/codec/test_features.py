"""What the network sees is always finite and bounded, says what its names say, and knows no order of pools."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.env.codec import (
    CLASS_FEATURES,
    POOL_FEATURES,
    WHOLE_FEATURES,
    Observation,
    Past,
    Proposal,
    encode,
    look_back,
)
from poolpilot.env.contract import FORECAST_HORIZON_S, Cluster, Plan, Snapshot, blank_snapshot

from ..clusters import SEEDS, Situation, a_cluster, a_plan, any_floats, row, same, situations, with_columns
from ..portfolios import a_past, proposals_of


def seen_in(at: Situation, past: Past) -> Observation:
    price = np.full(at.cluster.serves.shape[:-2], 0.7)
    return encode(at.snapshot, at.plan, proposals_of(at), at.cluster, price, past)


@settings(max_examples=100, deadline=None)
@given(situations(absurdity=True), any_floats(6, 3, 4), any_floats(3))
def test_the_observation_is_finite_and_bounded_for_any_snapshot(
    at: Situation, before: np.ndarray, price: np.ndarray
) -> None:
    b, c, p = at.cluster.serves.shape
    with np.errstate(all="ignore"):  # the rules before it may stumble over absurd figures
        proposals = proposals_of(at)
    past = Past(**{field.name: before[i % 6, :b, : c if i < 5 else p] for i, field in enumerate(fields(Past))})
    seen = encode(at.snapshot, at.plan, proposals, at.cluster, price[:b], past)
    for field in fields(seen):
        values = getattr(seen, field.name)
        assert np.isfinite(values).all(), field.name
        assert (np.abs(values) <= 1.0).all(), field.name
    assert seen.classes.shape == (*at.cluster.class_mask.shape, len(CLASS_FEATURES))
    assert seen.pools.shape == (*at.cluster.pool_mask.shape, len(POOL_FEATURES))
    assert seen.whole.shape == (b, len(WHOLE_FEATURES))
    assert (seen.classes[~at.cluster.class_mask] == 0).all()
    assert (seen.pools[~at.cluster.pool_mask] == 0).all()


@settings(max_examples=60, deadline=None)
@given(situations(), SEEDS)
def test_a_batch_is_seen_as_each_cluster_alone(at: Situation, seed: int) -> None:
    past = a_past(at, seed)
    together = seen_in(at, past)
    for b in range(len(at.cluster.serves)):
        alone = row(at, b)
        assert same(row(proposals_of(at), b), proposals_of(alone))
        seen = seen_in(alone, row(past, b))
        for field in fields(seen):
            assert np.allclose(getattr(seen, field.name), getattr(together, field.name)[b], rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(situations(padding=False), SEEDS)
def test_permuting_pools_permutes_their_features_and_nothing_else(at: Situation, seed: int) -> None:
    order, past = np.random.default_rng(seed).permutation(at.cluster.serves.shape[-1]), a_past(at, seed)
    plain = seen_in(at, past)
    by_pool = ("waiting", "unanswered", "usd_per_hr", "pending_s")
    mixed_past = replace(past, **{name: getattr(past, name)[:, order] for name in by_pool})
    mixed = seen_in(Situation(*(permuted(v, order) for v in (at.cluster, at.plan, at.snapshot))), mixed_past)
    assert np.allclose(mixed.pools, plain.pools[:, order], atol=1e-9)
    assert np.allclose(mixed.classes, plain.classes, atol=1e-9)
    assert np.allclose(mixed.whole, plain.whole, atol=1e-9)


def permuted(value: object, order: np.ndarray) -> object:
    """Every axis of pools in another order."""
    by_pool = {Cluster: ("pool_mask", "serves", "spot", "min_replicas", "max_replicas", "max_batch_cap",
                         "max_token_budget", "usd_per_hr", "cold_start_s"),
               Plan: ("replicas", "route", "batch_cap", "capacity_per_s")}  # fmt: skip
    if isinstance(value, Snapshot):
        return replace(value, pools=value.pools[:, order])
    return replace(value, **{name: getattr(value, name)[..., order] for name in by_pool[type(value)]})


# What single features say


def quiet() -> Situation:
    """One class on two pools, 4 requests/s."""
    rng = np.random.default_rng(0)
    batch = a_cluster(rng, 1, 1, 2)
    cluster = row(batch, 0)
    targets = replace(
        cluster.targets,
        ttft_s=np.array([1.0]),
        deadline_s=np.array([np.nan]),
        attainment=np.array([0.99]),
        budget_usd_per_hr=np.array(np.inf),
    )
    cluster = replace(cluster, serves=np.ones((1, 2), bool), targets=targets, usd_per_hr=np.array([1.0, 2.0]))
    plan = replace(row(a_plan(rng, batch), 0), route=np.array([[0.5, 0.5]]), capacity_per_s=np.ones((1, 2)))
    snapshot = with_columns(
        blank_snapshot(0.0, 1, 2),
        arrival_rate_per_s=4.0,
        in_flight=8.0,
        ready=3.0,
        starting=0.0,
        target=3.0,
        waiting=0.0,
        usd_per_hr=[1.0, 2.0],
    )
    return Situation(cluster, plan, replace(snapshot, forecast_per_s=np.full((1, len(FORECAST_HORIZON_S)), 4.0)))


def of_class(at: Situation, name: str, past: Past | None = None) -> float:
    return float(seen_in(at, past or nothing_before(at)).classes[0, CLASS_FEATURES.index(name)])


def of_pool(at: Situation, name: str, past: Past | None = None) -> list[float]:
    return seen_in(at, past or nothing_before(at)).pools[:, POOL_FEATURES.index(name)].tolist()


def nothing_before(at: Situation) -> Past:
    return look_back(at.snapshot, at.cluster, {})[0]


@pytest.mark.parametrize("name", ["rate_of_minute", "rate_of_20_minutes", "in_flight_rise"])
def test_a_rise_is_above_0_a_fall_below_and_the_unknown_is_0(name: str) -> None:
    at = quiet()
    field = {"rate_of_minute": "rate_soon_per_s", "rate_of_20_minutes": "rate_long_per_s"}.get(name, "in_flight")
    assert of_class(at, name) == 0.0
    for before, sign in ((1.0, 1.0), (40.0, -1.0), (np.nan, 0.0)):
        assert np.sign(of_class(at, name, replace(nothing_before(at), **{field: np.array([before])}))) == sign


def test_pending_replicas_come_nearer_and_are_overdue_at_last() -> None:
    at = quiet()
    at = replace(at, snapshot=with_columns(at.snapshot, starting=[1.0, 0.0], cold_start_s=90.0))
    for waited_s, expected in ((0.0, 0.1), (45.0, 0.05), (90.0, 0.0), (270.0, -0.2)):
        past = replace(nothing_before(at), pending_s=np.array([waited_s, waited_s]))
        assert of_pool(at, "pending_until_ready", past) == pytest.approx([expected, 0.0])


def test_what_cannot_be_had_shows_and_so_does_its_change() -> None:
    at = quiet()
    at = replace(at, snapshot=with_columns(at.snapshot, target=4.0, ready=[1.0, 4.0], starting=[1.0, 0.0]))
    assert of_pool(at, "unanswered") == pytest.approx([0.5, 0.0])
    assert of_pool(at, "unanswered_of_15_minutes") == pytest.approx([0.0, 0.0])
    before = replace(nothing_before(at), unanswered=np.array([0.0, 2.0]))
    assert of_pool(at, "unanswered_of_15_minutes", before) == pytest.approx([0.5, -0.5])


def test_a_price_is_seen_beside_its_last_quarter_of_an_hour() -> None:
    at = quiet()
    cheaper = replace(nothing_before(at), usd_per_hr=np.array([0.8, np.nan]))
    seen = of_pool(at, "price_of_15_minutes", cheaper)
    assert seen == pytest.approx([2 * np.log(1.25), 0.0], abs=0.01)


def test_each_rules_proposal_shows_beside_the_target() -> None:
    at = quiet()
    proposals = proposals_of(at)
    for k, proposal in enumerate(proposals):
        more = Proposal(replace(proposal.action, replicas=np.array([3.0 + k, 2.0])), proposal.need)
        proposals = (*proposals[:k], more, *proposals[k + 1 :])
    seen = encode(at.snapshot, at.plan, proposals, at.cluster, np.array(0.7), nothing_before(at))
    for k, name in enumerate(("proposed", "proposed_by_1", "proposed_by_2", "proposed_by_3")):
        assert seen.pools[:, POOL_FEATURES.index(name)].tolist() == [k / 4.0, -0.25]
    rent = [seen.whole[WHOLE_FEATURES.index(f"rent_proposed_by_{k}")] for k in (1, 2, 3)]
    assert rent == pytest.approx([np.log((7.0 + k) / 7.0) for k in (1, 2, 3)], abs=0.01)


def test_a_backlog_is_seen_against_its_deadline() -> None:
    """8 requests in flight at 4 a second spend 2 s each, a tenth of a deadline of 20 s."""
    at = quiet()
    assert of_class(at, "backlog_of_deadline") == 0.0
    targets = replace(at.cluster.targets, deadline_s=np.array([20.0]))
    at = replace(at, cluster=replace(at.cluster, targets=targets))
    assert of_class(at, "backlog_of_deadline") == pytest.approx(0.1, rel=0.02)


def test_prices_and_wanted_attainment_are_inputs() -> None:
    at = quiet()

    def whole(price: float) -> float:
        seen = encode(at.snapshot, at.plan, proposals_of(at), at.cluster, np.array(price), nothing_before(at))
        return float(seen.whole[WHOLE_FEATURES.index("miss_price")])

    assert whole(0.1) < whole(1.0) < whole(10.0)
    assert of_class(at, "wanted_attainment") == pytest.approx(2 / 3)
    assert of_pool(at, "price_of_mean")[0] < 0 < of_pool(at, "price_of_mean")[1]


def test_a_class_sees_how_busy_the_pools_on_its_routes_are() -> None:
    at = quiet()
    busy = replace(at, snapshot=with_columns(at.snapshot, ready=[1.0, 1.0], waiting=9.0))
    assert of_class(busy, "utilisation") > of_class(at, "utilisation")
    assert of_class(busy, "waiting") > of_class(at, "waiting") == 0.0
