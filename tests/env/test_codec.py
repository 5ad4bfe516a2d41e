"""A neutral output is the rule itself, a bend stays within its bounds, and what the network sees is always finite."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.env import codec, contract
from poolpilot.env.codec import (
    ADMIT_BEND,
    BUDGET_WINDOW_S,
    CAP_BEND,
    CLASS_FEATURES,
    CLASS_OUTPUTS,
    HEADROOM_BEND,
    POOL_FEATURES,
    POOL_OUTPUTS,
    REPLICA_BEND,
    TILT_BEND,
    WHOLE_FEATURES,
    Observation,
    Proposal,
    decode,
    encode,
    observation_schema,
    track_budget,
    whole_replicas,
)
from poolpilot.env.contract import Cluster, Memory, Plan, Snapshot, blank_snapshot

from .clusters import SEEDS, Situation, a_cluster, a_plan, a_snapshot, any_floats, row, same, situations, with_columns


def proposal_of(at: Situation) -> Proposal:
    return PlanTracking(at.cluster).propose(at.snapshot, at.plan, {})[0]


def seen_in(at: Situation, proposal: Proposal) -> Observation:
    b, c, _ = at.cluster.serves.shape
    return encode(at.snapshot, at.plan, proposal, at.cluster, np.full(b, 0.7), np.full((b, c), 0.5))


def outputs(at: Situation, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Neutral ones, or any in [-1.5, 1.5]."""
    b, c, p = at.cluster.serves.shape
    shapes = ((b, c, CLASS_OUTPUTS), (b, p, POOL_OUTPUTS))
    if seed is None:
        return np.zeros(shapes[0]), np.zeros(shapes[1])
    rng = np.random.default_rng(seed)
    return rng.uniform(-1.5, 1.5, shapes[0]), rng.uniform(-1.5, 1.5, shapes[1])


@settings(max_examples=80, deadline=None)
@given(situations())
def test_a_neutral_output_is_the_rule_bit_for_bit(at: Situation) -> None:
    proposal = proposal_of(at)
    action = decode(*outputs(at, None), proposal, at.cluster)
    for field in fields(action):
        ours, its = getattr(action, field.name), getattr(proposal.action, field.name)
        real = np.isfinite(its) if field.name != "batch_cap" else at.cluster.pool_mask
        assert np.array_equal(ours[real], its[real]), field.name
        assert ours.shape == its.shape


@settings(max_examples=80, deadline=None)
@given(situations(), SEEDS)
def test_bends_stay_within_their_bounds(at: Situation, seed: int) -> None:
    proposal, cluster = proposal_of(at), at.cluster
    base, action = proposal.action, decode(*outputs(at, seed), proposal, cluster)

    need = proposal.need.sum(axis=-2)
    spread = np.exp(HEADROOM_BEND + REPLICA_BEND)
    on_top = base.replicas - np.minimum(whole_replicas(need), cluster.max_replicas)
    low = np.minimum(whole_replicas(need / spread), cluster.max_replicas) + on_top
    high = np.minimum(whole_replicas(need * spread * (1 + 1e-12)), cluster.max_replicas) + on_top
    assert (action.replicas >= np.clip(low, 0, cluster.max_replicas)).all()
    assert (action.replicas <= np.clip(high, 0, cluster.max_replicas)).all()
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


@pytest.mark.parametrize(
    ("dimension", "value", "changed"),
    [
        (("class", 0), 1.0, "replicas"),
        (("class", 1), -1.0, "admit"),
        (("pool", 0), 1.0, "replicas"),
        (("pool", 1), 1.0, "route"),
        (("pool", 2), -1.0, "batch_cap"),
    ],
)
def test_each_output_moves_its_own_part_of_the_action(dimension: tuple[str, int], value: float, changed: str) -> None:
    cluster, proposal = a_small_world()
    by_class, by_pool = np.zeros((2, CLASS_OUTPUTS)), np.zeros((2, POOL_OUTPUTS))
    (by_class if dimension[0] == "class" else by_pool)[1, dimension[1]] = value
    action = decode(by_class, by_pool, proposal, cluster)
    differs = {f.name for f in fields(action) if not same(getattr(action, f.name), getattr(proposal.action, f.name))}
    assert differs == {changed}


def a_small_world() -> tuple[Cluster, Proposal]:
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
    snapshot = with_columns(blank_snapshot(0.0, 2, 2), arrival_rate_per_s=[6.0, 6.0], ready=5.0)
    return cluster, PlanTracking(cluster).propose(snapshot, plan, {})[0]


def test_a_need_beyond_the_maximum_is_not_bent_below_it() -> None:
    cluster, proposal = a_small_world()
    small = replace(cluster, max_replicas=np.full(2, 3.0))
    clipped = Proposal(replace(proposal.action, replicas=np.full(2, 3.0)), proposal.need)
    less = np.full((2, POOL_OUTPUTS), -1.0)
    assert (proposal.need.sum(axis=0) * np.exp(-REPLICA_BEND) > 3).all()
    assert decode(np.zeros((2, CLASS_OUTPUTS)), less, clipped, small).replicas.tolist() == [3.0, 3.0]


@settings(max_examples=100, deadline=None)
@given(situations(absurdity=True), any_floats(3, 3), any_floats(3))
def test_the_observation_is_finite_and_bounded_for_any_snapshot(
    at: Situation, left: np.ndarray, price: np.ndarray
) -> None:
    b, c, _ = at.cluster.serves.shape
    with np.errstate(all="ignore"):  # the rule before it may stumble over absurd figures
        proposal = proposal_of(at)
    seen = encode(at.snapshot, at.plan, proposal, at.cluster, price[:b], left[:b, :c])
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
def test_a_batch_is_seen_and_bent_as_each_cluster_alone(at: Situation, seed: int) -> None:
    proposal = proposal_of(at)
    together, bent = seen_in(at, proposal), outputs(at, seed)
    action = decode(*bent, proposal, at.cluster)
    for b in range(len(at.cluster.serves)):
        alone = row(at, b)
        mine = proposal_of(alone)
        assert same(row(proposal, b), mine)
        c = alone.cluster.serves.shape[0]
        seen = encode(alone.snapshot, alone.plan, mine, alone.cluster, np.array(0.7), np.full(c, 0.5))
        for field in fields(seen):
            assert np.allclose(getattr(seen, field.name), getattr(together, field.name)[b], rtol=1e-12, atol=1e-12)
        assert same(decode(bent[0][b], bent[1][b], mine, alone.cluster), row(action, b))


@settings(max_examples=60, deadline=None)
@given(situations(padding=False), SEEDS)
def test_permuting_pools_permutes_their_features_and_nothing_else(at: Situation, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(at.cluster.serves.shape[-1])
    plain = seen_in(at, proposal_of(at))
    mixed_at = Situation(*(permuted(value, order, at.cluster) for value in (at.cluster, at.plan, at.snapshot)))
    mixed = seen_in(mixed_at, proposal_of(mixed_at))
    assert np.allclose(mixed.pools, plain.pools[:, order], atol=1e-9)
    assert np.allclose(mixed.classes, plain.classes, atol=1e-9)
    assert np.allclose(mixed.whole, plain.whole, atol=1e-9)


def permuted(value: object, order: np.ndarray, cluster: Cluster) -> object:
    """Every axis of pools in another order."""
    by_pool = {Cluster: ("pool_mask", "serves", "spot", "min_replicas", "max_replicas", "max_batch_cap",
                         "max_token_budget", "usd_per_hr", "cold_start_s"),
               Plan: ("replicas", "route", "batch_cap", "capacity_per_s")}  # fmt: skip
    if isinstance(value, Snapshot):
        return replace(value, pools=value.pools[:, order])
    return replace(value, **{name: getattr(value, name)[..., order] for name in by_pool[type(value)]})


@pytest.mark.parametrize("names", ["CLASS_FEATURES", "POOL_FEATURES", "WHOLE_FEATURES"])
def test_the_schema_changes_with_the_features(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = observation_schema()
    assert before == observation_schema()
    seen = {before}
    for other in ((*getattr(codec, names), "mood"), getattr(codec, names)[1:], getattr(codec, names)[::-1]):
        monkeypatch.setattr(codec, names, other)
        seen.add(observation_schema())
    assert len(seen) == 4


def test_the_schema_is_of_the_observation_not_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that no feature reads leaves trained networks as good as they were."""
    before = observation_schema()
    monkeypatch.setattr(contract, "SCHEMA_VERSION", contract.SCHEMA_VERSION + 1)
    assert observation_schema() == before
    monkeypatch.setattr(codec, "OBSERVATION_VERSION", codec.OBSERVATION_VERSION + 1)
    assert observation_schema() != before


@pytest.mark.parametrize("name", ["HEADROOM_BEND", "REPLICA_BEND", "TILT_BEND", "CAP_BEND", "ADMIT_BEND"])
def test_the_schema_changes_with_the_bends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = observation_schema()
    monkeypatch.setattr(codec, name, 0.123)
    assert observation_schema() != before


@pytest.mark.parametrize(
    ("need", "replicas"), [(0.0, 0), (0.01, 0), (0.03, 1), (1.0, 1), (1.02, 1), (1.03, 2), (-1, 0)]
)
def test_a_need_is_met_by_the_next_whole_number_but_for_a_little(need: float, replicas: int) -> None:
    assert whole_replicas(np.array(need)) == replicas


# The allowance of misses


def one_class(attainment: float = 0.9) -> Cluster:
    cluster = row(a_cluster(np.random.default_rng(0), 1, 1, 1), 0)
    return replace(cluster, targets=replace(cluster.targets, attainment=np.array([attainment])))


def told(time_s: float, rate_per_s: float, attainment: float) -> Snapshot:
    return with_columns(blank_snapshot(time_s, 1, 1), arrival_rate_per_s=rate_per_s, attainment=attainment)


def left_after(reports: list[tuple[float, float, float]], wanted: float = 0.9) -> list[float]:
    cluster, memory, left = one_class(wanted), {}, []
    for report in reports:
        now, memory = track_budget(told(*report), cluster, memory)
        left.append(float(now[0]))
    return left


@pytest.mark.parametrize(
    ("attained", "expected"),
    [(1.0, 1.0), (0.95, 0.5), (0.9, 0.0), (0.8, -1.0), (np.nan, 1.0)],
    ids=["no miss", "half the allowance", "all of it", "twice the allowance", "unknown counts as met"],
)
def test_the_allowance_left_follows_the_share_missed(attained: float, expected: float) -> None:
    assert left_after([(0.0, 5.0, attained), (10.0, 5.0, attained), (20.0, 5.0, attained)])[1:] == pytest.approx(
        [expected, expected]
    )


def test_nothing_seen_leaves_the_allowance_untouched() -> None:
    assert left_after([(0.0, 5.0, 0.0)]) == [1.0]
    assert left_after([(0.0, np.nan, np.nan), (10.0, np.nan, np.nan)]) == [1.0, 1.0]


def test_old_misses_are_forgotten() -> None:
    reports = [(0.0, 5.0, 0.5), (10.0, 5.0, 0.5)] + [(10.0 + 10.0 * i, 5.0, 1.0) for i in range(1, 400)]
    left = left_after(reports)
    assert left[1] < -3
    assert left[1:] == sorted(left[1:])
    assert left[1 + int(BUDGET_WINDOW_S / 10.0)] > 0.9


def test_a_perfect_target_has_a_small_allowance_all_the_same() -> None:
    assert left_after([(0.0, 5.0, 0.999), (10.0, 5.0, 0.999)], wanted=1.0)[1] == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), any_floats(2)), min_size=1, max_size=5))
def test_absurd_reports_are_not_remembered_for_ever(reports: list[tuple[float, np.ndarray]]) -> None:
    cluster, memory, now_s = one_class(), {}, 0.0
    for step_s, (rate, attained) in reports:
        now_s += step_s
        left, memory = track_budget(told(now_s, rate, attained), cluster, memory)
        assert np.isfinite(left).all()
        assert all(np.isfinite(values).all() for values in memory.values())


def test_batched_allowances_are_those_of_each_cluster() -> None:
    rng = np.random.default_rng(4)
    cluster = a_cluster(rng, 3, 2, 2)
    memory: Memory = {}
    alone: list[Memory] = [{} for _ in range(3)]
    for tick in range(4):
        snapshot = replace(a_snapshot(rng, cluster), time_s=np.full(3, 10.0 * tick))
        left, memory = track_budget(snapshot, cluster, memory)
        for b in range(3):
            mine, alone[b] = track_budget(row(snapshot, b), row(cluster, b), alone[b])
            assert np.array_equal(mine, left[b])
