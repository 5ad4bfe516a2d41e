"""Whatever is proposed and whatever is seen, what the guard lets through obeys every limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.contract import Action, Cluster, FloatArray, Plan, ReasonCode, Snapshot, Targets, blank_snapshot
from poolpilot.env.guard import (
    FLOOR_FRAC,
    HOT_CAP_FRAC,
    LEAST_TOKEN_BUDGET,
    Change,
    Guarded,
    GuardState,
    Limits,
    first_state,
    guard,
    reasons,
)

from .clusters import NOW_S, SEEDS, Situation, proposals, row, same, situations, with_columns

MASKS = (ReasonCode.STALE_TELEMETRY, ReasonCode.IMPOSSIBLE_TELEMETRY)


@dataclass(frozen=True)
class Case:
    """A batch of clusters with limits, a guard that remembers, and a proposal."""

    at: Situation
    limits: Limits
    state: GuardState
    proposed: Action

    def guarded(self) -> Guarded:
        at = self.at
        return guard(self.proposed, at.snapshot, at.plan, at.cluster, self.limits, self.state)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    at = draw(situations(absurdity=True))
    b, c, p = at.cluster.serves.shape
    rng = np.random.default_rng(draw(SEEDS))
    limits = Limits(
        budget_usd_per_hr=np.where(rng.random(b) < 0.5, np.inf, rng.uniform(0.1, 60.0, b)),
        scale_up_step=rng.integers(1, 5, b).astype(float),
        scale_down_step=rng.integers(1, 3, b).astype(float),
        scale_down_cooldown_s=rng.choice([0.0, 60.0], b),
        stale_after_s=np.full(b, 30.0),
        hot_gpu_c=np.full(b, 88.0),
        min_admit_frac=rng.choice([0.0, 0.5, 1.0], b),
    )
    first = first_state(at.plan, at.cluster)
    state = replace(first, changed_at_s=rng.choice([-np.inf, NOW_S - 200.0, NOW_S - 20.0], (b, p)))
    return Case(at, limits, state, draw(proposals(b, c, p)))


def of_pools(values: FloatArray) -> FloatArray:
    """`[B]` limits beside `[B, P]` pools."""
    return values[:, None]


def plausible(snapshot: Snapshot, name: str, instead: FloatArray) -> FloatArray:
    values = getattr(snapshot, name)
    return np.where((values >= 0) & (values <= vars(Snapshot)[name].high), values, instead)


def masked(case: Case) -> Any:
    """`[B, P]` pools that must stay as they are: something runs there, and their telemetry is old or cannot be."""
    snapshot = case.at.snapshot
    hold = snapshot.telemetry_age_s > of_pools(case.limits.stale_after_s)
    for name in ("ready", "starting", "draining", "target", "telemetry_age_s", "usd_per_hr", "gpu_temp_c"):
        values = getattr(snapshot, name)
        hold = hold | (values < 0) | (values > vars(Snapshot)[name].high)
    return hold & (np.round(plausible(snapshot, "target", case.state.applied.replicas)) > 0)


def cut_by_budget(changes: tuple[Change, ...], like: FloatArray) -> Any:
    """`[B, P]` pools from which the budget took replicas."""
    cut = [change.mask for change in changes if change.code is ReasonCode.BUDGET]
    return np.logical_or.reduce(cut) if cut else np.zeros(like.shape, dtype=np.bool_)


@settings(max_examples=120, deadline=None)
@given(cases())
def test_routes_admission_and_caps_obey_every_limit(case: Case) -> None:
    cluster, limits, action = case.at.cluster, case.limits, case.guarded().action
    for name in ("route", "admit", "batch_cap", "token_budget", "replicas"):
        assert np.isfinite(getattr(action, name)).all(), name
    assert (action.route >= 0).all()
    assert (action.route[~cluster.serves] == 0).all()
    real = cluster.serves.any(axis=-1)
    assert np.allclose(action.route.sum(axis=-1), real, rtol=0, atol=1e-8)
    assert ((action.admit >= 0) & (action.admit <= 1)).all()
    interactive = ~cluster.targets.deferrable
    assert (action.admit >= np.where(interactive, of_pools(limits.min_admit_frac), 0.0)).all()
    most = np.maximum(cluster.max_batch_cap, 1.0)
    assert (action.batch_cap == np.round(action.batch_cap)).all()
    assert ((action.batch_cap >= 1) & (action.batch_cap <= most)).all()
    hot = case.at.snapshot.gpu_temp_c > of_pools(limits.hot_gpu_c)
    assert (action.batch_cap[hot] <= np.maximum(most * HOT_CAP_FRAC, 1.0)[hot]).all()
    assert (action.token_budget == np.round(action.token_budget)).all()
    assert (action.token_budget <= cluster.max_token_budget).all()
    alive = np.minimum(np.maximum(LEAST_TOKEN_BUDGET, action.batch_cap), cluster.max_token_budget)
    assert (action.token_budget >= alive).all()

    # A masked pool runs as it did, but that a hot one is derated; and no class sends it more than before.
    hold, last = masked(case), case.state.applied
    kept = np.clip(np.round(last.batch_cap), 1.0, most)
    assert (action.batch_cap[hold & ~hot] == kept[hold & ~hot]).all()
    assert (action.batch_cap[hold] <= kept[hold]).all()
    calm = hold & ~hot
    assert (
        action.token_budget[calm] == np.clip(np.round(last.token_budget), alive, cluster.max_token_budget)[calm]
    ).all()
    growth = np.where(hold[:, None, :], action.route - last.route, 0.0).max(axis=-1)
    elsewhere = np.where(hold[:, None, :], 0.0, action.route).sum(axis=-1)
    assert (growth[elsewhere > 1e-9] <= 1e-9).all()
    stayed = real & (elsewhere <= 1e-9) & (growth > 1e-9)
    assert not stayed.any()


@settings(max_examples=120, deadline=None)
@given(cases())
def test_replicas_obey_every_limit_in_the_order_of_precedence(case: Case) -> None:
    cluster, snapshot, limits, state = case.at.cluster, case.at.snapshot, case.limits, case.state
    guarded = case.guarded()
    count, low, high = guarded.action.replicas, cluster.min_replicas, cluster.max_replicas
    current = np.round(plausible(snapshot, "target", state.applied.replicas))
    ready = np.round(plausible(snapshot, "ready", current))

    # Minimum and maximum replicas come before everything.
    assert (count == np.round(count)).all()
    assert ((count >= low) & (count <= high)).all()

    # The budget comes next: over it only if nothing but minimum replicas is left.
    price = plausible(snapshot, "usd_per_hr", cluster.usd_per_hr)
    over = (count * price).sum(axis=-1) > limits.budget_usd_per_hr * (1 + 1e-6)
    assert ((count == low) | (price <= 0))[over].all()
    cut = cut_by_budget(guarded.changes, count)
    assert not cut[np.isinf(limits.budget_usd_per_hr)].any()

    # What is rented stays within it too, unless nothing grew.
    leaving, starting = (np.round(plausible(snapshot, name, np.zeros(()))) for name in ("draining", "starting"))
    rent = np.maximum(count, leaving + np.maximum(ready, np.minimum(count, ready + starting)))
    over = (rent * price).sum(axis=-1) > limits.budget_usd_per_hr * (1 + 1e-6)
    free = np.maximum(np.maximum(current, ready + starting + leaving), low)
    assert ((count <= free) | (price <= 0))[over].all()

    # A pool with stale or impossible telemetry stays as it is.
    stale = masked(case)
    held = np.clip(current, low, high)
    assert (count[stale & ~cut] == held[stale & ~cut]).all()
    assert (count[stale] <= held[stale]).all()

    # A class that something ready serves goes on being served.
    serves = cluster.serves & cluster.pool_mask[..., None, :] & cluster.class_mask[..., :, None]
    now = np.where(serves, np.minimum(ready, high)[..., None, :], 0.0).sum(axis=-1) >= 1.0
    then = np.where(serves, np.minimum(count, ready)[..., None, :], 0.0).sum(axis=-1) >= 1.0
    blind = (stale | cut).any(axis=-1, keepdims=True)
    assert (then | ~now | blind).all()

    # Steps and pending starts.
    assert (count <= np.maximum(current + of_pools(limits.scale_up_step), low)).all()
    assert (count <= np.maximum(np.maximum(current, ready + of_pools(limits.scale_up_step)), low)).all()
    step_down = np.minimum(current - of_pools(limits.scale_down_step), high)
    assert (count >= step_down)[~cut].all()

    # Those that leave count against the step down.
    drained = np.minimum(current - np.clip(of_pools(limits.scale_down_step) - leaving, 0.0, current), high)
    assert (count >= drained)[~cut].all()

    # The floor for the present load, as far as one step reaches.
    rate = plausible(snapshot, "arrival_rate_per_s", np.zeros(()))
    work = rate[..., None] * guarded.action.route
    capacity = case.at.plan.capacity_per_s
    need = np.divide(work, capacity, out=np.zeros_like(work), where=capacity > 0).sum(axis=-2)
    reach = np.minimum(current + of_pools(limits.scale_up_step), high)
    reach = np.minimum(reach, np.maximum(current, ready + of_pools(limits.scale_up_step)))
    floor = np.minimum(np.floor(need * FLOOR_FRAC), reach)
    assert (count >= floor)[~cut & ~stale].all()

    # No replica goes during the cooldown, unless a limit above says so.
    cooling = NOW_S - state.changed_at_s < of_pools(limits.scale_down_cooldown_s)
    assert (count >= np.minimum(current, high))[cooling & ~cut].all()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_batch_is_guarded_as_each_cluster_alone(case: Case) -> None:
    together = case.guarded()
    for b in range(len(case.at.cluster.serves)):
        alone = Case(row(case.at, b), row(case.limits, b), row(case.state, b), row(case.proposed, b)).guarded()
        assert same(row(together.action, b), alone.action)
        assert same(row(together.state, b), alone.state)
        touched = {(c.code, c.subject, i) for c in together.changes for i in np.flatnonzero(c.mask[b])}
        assert touched == {(c.code, c.subject, i) for c in alone.changes for i in np.flatnonzero(c.mask)}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_what_was_let_through_comes_through_unchanged(case: Case) -> None:
    once = case.guarded().action
    again = replace(case, proposed=once).guarded().action
    assert same(again, once)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_whatever_was_changed_has_its_reason(case: Case) -> None:
    guarded = case.guarded()
    proposed, action = case.proposed, guarded.action
    codes = {
        "admit": {ReasonCode.ADMIT_RANGE, ReasonCode.ADMIT_INTERACTIVE},
        "batch_cap": {ReasonCode.CAP_RANGE, ReasonCode.HOT_GPU, *MASKS},
        "token_budget": {ReasonCode.CAP_RANGE, *MASKS},
        "replicas": set(ReasonCode) - {ReasonCode.CAP_RANGE, ReasonCode.HOT_GPU},
    }
    for name, told_by in codes.items():
        told = [c for c in guarded.changes if c.code in told_by | {ReasonCode.NOT_FINITE} and c.detail in ("", name)]
        wanted, applied = getattr(proposed, name), getattr(action, name)
        rounding = 0.0 if name == "admit" else 0.5
        changed = ~(np.abs(applied - wanted) <= rounding + 1e-9 * np.abs(applied) + 1e-9)
        explained = np.zeros(changed.shape, dtype=np.bool_)
        for change in told:
            if change.subject == ("class" if name == "admit" else "pool"):
                explained |= change.mask
        assert (explained | ~changed).all(), name
    weights = np.where(np.isfinite(proposed.route).all(axis=-1, keepdims=True), proposed.route, 0.0)
    misplaced = (weights < -1e-6).any(axis=-1) | (~case.at.cluster.serves & (np.abs(weights) > 1e-6)).any(axis=-1)
    told_of = np.zeros(misplaced.shape, dtype=np.bool_)
    for change in guarded.changes:
        if change.code is ReasonCode.ROUTE_UNSERVABLE:
            told_of |= change.mask
    assert (told_of | ~misplaced).all()


POOLS = ("cheap", "mid", "dear")
CLUSTER = Cluster(
    class_names=("chat", "batch"),
    pool_names=POOLS,
    class_mask=np.ones(2, dtype=np.bool_),
    pool_mask=np.ones(3, dtype=np.bool_),
    serves=np.array([[True, True, True], [True, True, False]]),
    spot=np.zeros(3, dtype=np.bool_),
    min_replicas=np.array([1.0, 0.0, 0.0]),
    max_replicas=np.array([6.0, 6.0, 6.0]),
    max_batch_cap=np.array([64.0, 64.0, 9.0]),
    max_token_budget=np.array([2048.0, 2048.0, 2048.0]),
    usd_per_hr=np.array([1.0, 2.0, 4.0]),
    cold_start_s=np.full(3, 90.0),
    targets=Targets(
        ttft_s=np.array([1.0, np.nan]),
        tpot_s=np.array([0.1, np.nan]),
        e2e_s=np.full(2, np.nan),
        deadline_s=np.array([np.nan, 300.0]),
        attainment=np.full(2, 0.99),
        budget_usd_per_hr=np.array(np.inf),
    ),
)
PLAN = Plan(
    replicas=np.array([3.0, 2.0, 1.0]),
    route=np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]),
    batch_cap=CLUSTER.max_batch_cap,
    capacity_per_s=np.where(CLUSTER.serves, 1.0, 0.0),
    load_per_s=np.array([2.0, 1.0]),
    usd_per_hr=np.array(11.0),
    attainment=np.full(2, 0.99),
)
LIMITS = Limits(
    budget_usd_per_hr=np.array(np.inf),
    scale_up_step=np.array(2.0),
    scale_down_step=np.array(1.0),
    scale_down_cooldown_s=np.array(60.0),
    stale_after_s=np.array(30.0),
    hot_gpu_c=np.array(88.0),
    min_admit_frac=np.array(0.9),
)
CALM = with_columns(
    blank_snapshot(NOW_S, 2, 3),
    arrival_rate_per_s=[1.0, 0.5],
    ready=[3.0, 2.0, 1.0],
    starting=0.0,
    target=[3.0, 2.0, 1.0],
    gpu_temp_c=60.0,
    telemetry_age_s=1.0,
)
AS_IT_IS = Action(
    route=PLAN.route,
    admit=np.ones(2),
    batch_cap=CLUSTER.max_batch_cap,
    token_budget=CLUSTER.max_token_budget,
    replicas=np.array([3.0, 2.0, 1.0]),
)
LONG_AGO = replace(first_state(PLAN, CLUSTER), changed_at_s=np.full(3, NOW_S - 600.0))
JUST_NOW = replace(LONG_AGO, changed_at_s=np.full(3, NOW_S - 10.0))
NAN = np.nan


def array(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float64)


# Each case: what is proposed, seen and limited otherwise than above; the reasons as (code, subject, wanted, applied).
VETOES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, float], GuardState, list[tuple[str, str, float, float]]]] = [
    ("no limit is broken", {}, {}, {}, LONG_AGO, []),
    ("a step up and a step down", {"replicas": array(5, 1, 1)}, {}, {}, LONG_AGO, []),
    ("a deferrable class may be put off", {"admit": array(0.95, 0.0)}, {}, {}, LONG_AGO, []),
    ("no count", {"replicas": array(3, NAN, 1)}, {}, {}, LONG_AGO, [("not_finite", "mid", NAN, 2)]),
    ("an infinite cap", {"batch_cap": array(np.inf, 64, 9)}, {}, {}, LONG_AGO, [("not_finite", "cheap", np.inf, 64)]),
    ("no route", {"route": np.array([[NAN, 0, 1], [1, 0, 0]])}, {}, {}, LONG_AGO, [("not_finite", "chat", NAN, 0)]),
    ("no admission", {"admit": array(1, NAN)}, {}, {}, LONG_AGO, [("not_finite", "batch", NAN, 1)]),
    (
        "a pool that cannot serve",
        {"route": np.array([[0.5, 0.25, 0.25], [0.75, 0, 0.25]])},
        {},
        {},
        LONG_AGO,
        [("route_unservable", "batch", 0.25, 0)],
    ),
    (
        "a negative weight",
        {"route": np.array([[0.5, 0.5, -0.5], [1, 0, 0]])},
        {},
        {},
        LONG_AGO,
        [("route_unservable", "chat", 0.5, 0)],
    ),
    (
        "no weight at all",
        {"route": np.array([[0.5, 0.25, 0.25], [0, 0, 0]])},
        {},
        {},
        LONG_AGO,
        [("route_unservable", "batch", 1, 0)],
    ),
    ("more than all let in", {"admit": array(1, 1.5)}, {}, {}, LONG_AGO, [("admit_range", "batch", 1.5, 1)]),
    ("an interactive class shed", {"admit": array(0.5, 1)}, {}, {}, LONG_AGO, [("admit_interactive", "chat", 0.5, 0.9)]),
    ("a cap of none", {"batch_cap": array(0, 64, 9)}, {}, {}, LONG_AGO, [("cap_range", "cheap", 0, 1)]),
    ("a cap too large", {"batch_cap": array(64, 64, 10)}, {}, {}, LONG_AGO, [("cap_range", "dear", 10, 9)]),
    ("a starving budget", {"token_budget": array(1, 2048, 2048)}, {}, {}, LONG_AGO, [("cap_range", "cheap", 1, 64)]),  # never below what its cap needs
    ("a hot GPU", {}, {"gpu_temp_c": array(60, 88.5, NAN)}, {}, LONG_AGO, [("hot_gpu", "mid", 64, 32)]),
    ("a hot GPU of odd cap", {}, {"gpu_temp_c": array(60, 60, 99)}, {}, LONG_AGO, [("hot_gpu", "dear", 9, 4)]),
    ("below the minimum", {"replicas": array(0, 2, 1)}, {"target": array(1, 2, 1), "arrival_rate_per_s": 0.0}, {}, LONG_AGO,
     [("min_replicas", "cheap", 0, 1)]),
    ("a negative count", {"replicas": array(3, -4, 1)}, {"target": array(3, 0, 1)}, {}, LONG_AGO, [("min_replicas", "mid", -4, 0)]),
    ("above the maximum", {"replicas": array(3, 7, 1)}, {"target": array(3, 5, 1), "ready": array(3, 5, 1)}, {}, LONG_AGO,
     [("max_replicas", "mid", 7, 6)]),
    ("too many at once", {"replicas": array(3, 2, 5)}, {}, {}, LONG_AGO, [("scale_step", "dear", 5, 3)]),
    ("too few at once", {"replicas": array(1, 2, 1)}, {}, {}, LONG_AGO, [("scale_step", "cheap", 1, 2)]),
    ("soon after a change", {"replicas": array(2, 2, 1)}, {}, {}, JUST_NOW, [("scale_down_cooldown", "cheap", 2, 3)]),
    ("up soon after a change", {"replicas": array(4, 2, 1)}, {}, {}, JUST_NOW, []),
    ("on top of starts under way", {"replicas": array(3, 4, 1)}, {"ready": array(3, 0, 1), "target": array(3, 3, 1)}, {},
     LONG_AGO, [("pending_starts", "mid", 4, 3)]),
    ("below the present load", {"replicas": array(2, 2, 1)}, {"arrival_rate_per_s": array(6, 1)}, {}, LONG_AGO,
     [("plan_floor", "cheap", 2, 3)]),
    ("blind", {"replicas": array(3, 4, 1)}, {"telemetry_age_s": array(1, 31, 1)}, {}, LONG_AGO,
     [("stale_telemetry", "mid", 4, 2)]),
    ("blind, other caps", {"batch_cap": array(64, 32, 9), "token_budget": array(2048, 1024, 2048)},
     {"telemetry_age_s": array(1, 31, 1)}, {}, LONG_AGO,
     [("stale_telemetry", "mid", 32, 64), ("stale_telemetry", "mid", 1024, 2048)]),
    ("blind and hot", {}, {"telemetry_age_s": array(1, 31, 1), "gpu_temp_c": array(60, 99, 60)}, {}, LONG_AGO,
     [("hot_gpu", "mid", 64, 32)]),
    ("more requests to where nothing is seen", {"route": np.array([[0.2, 0.75, 0.05], [1, 0, 0]])},
     {"telemetry_age_s": array(1, 31, 1)}, {}, LONG_AGO, [("stale_telemetry", "chat", 0.5, 0)]),
    ("fewer requests to where nothing is seen", {"route": np.array([[0.75, 0, 0.25], [1, 0, 0]])},
     {"telemetry_age_s": array(1, 31, 1)}, {}, LONG_AGO, []),
    ("everything to where nothing is seen", {"route": np.array([[0, 1, 0], [1, 0, 0]])},
     {"telemetry_age_s": array(1, 31, 1)}, {}, LONG_AGO, [("stale_telemetry", "chat", 0.75, 0)]),
    ("a count that cannot be", {"replicas": array(3, 4, 1)}, {"ready": array(3, -2, 1)}, {}, LONG_AGO,
     [("impossible_telemetry", "mid", 4, 2)]),
    ("an age that cannot be", {"replicas": array(3, 1, 1)}, {"telemetry_age_s": array(1, -5, 1)}, {}, LONG_AGO,
     [("impossible_telemetry", "mid", 1, 2)]),
    ("a heat that cannot be", {"replicas": array(3, 1, 1)}, {"gpu_temp_c": array(60, np.inf, 60)}, {}, LONG_AGO,
     [("hot_gpu", "mid", 64, 32), ("impossible_telemetry", "mid", 1, 2)]),
    ("a second one before the first has drained", {"replicas": array(2, 2, 1)}, {"draining": array(1, 0, 0)}, {}, LONG_AGO,
     [("drain_first", "cheap", 2, 3)]),
    ("one where another pool drains", {"replicas": array(2, 2, 1)}, {"draining": array(0, 1, 0)}, {}, LONG_AGO, []),
    ("one that drains is called back", {"replicas": array(4, 2, 1)}, {"draining": array(1, 0, 0)}, {}, LONG_AGO, []),
    ("blind, but nothing runs there", {"replicas": array(3, 1, 1)},
     {"telemetry_age_s": array(1, 31, 1), "target": array(3, 0, 1), "ready": array(3, 0, 1)}, {}, LONG_AGO, []),
    ("the last one that serves", {"replicas": array(1, 0, 0)},
     {"ready": array(0, 1, 0), "starting": array(1, 0, 0), "target": array(1, 1, 0), "arrival_rate_per_s": 0.0}, {}, LONG_AGO,
     [("last_replica", "mid", 0, 1)]),
    ("one that others can stand in for", {"replicas": array(1, 0, 0)},
     {"ready": array(1, 1, 0), "target": array(1, 1, 0), "arrival_rate_per_s": 0.0}, {}, LONG_AGO, []),
    ("growth above the budget", {"replicas": array(4, 2, 1)}, {}, {"budget_usd_per_hr": 11.0}, LONG_AGO,
     [("budget", "cheap", 4, 3)]),
    ("above the budget", {}, {}, {"budget_usd_per_hr": 10.0}, LONG_AGO, [("budget", "dear", 1, 0)]),
    ("above the budget at spot prices", {"replicas": array(4, 2, 1)}, {"usd_per_hr": array(9, 2, 1)},
     {"budget_usd_per_hr": 36.0}, LONG_AGO, [("budget", "cheap", 4, 3)]),
    ("budget before cooldown", {}, {}, {"budget_usd_per_hr": 9.0}, JUST_NOW, [("budget", "dear", 1, 0)]),
    ("budget before staleness", {}, {"telemetry_age_s": 99.0}, {"budget_usd_per_hr": 9.0}, JUST_NOW, [("budget", "dear", 1, 0)]),
    ("into the place of what drains", {"replicas": array(4, 2, 1)}, {"draining": array(0, 0, 1)},
     {"budget_usd_per_hr": 12.0}, LONG_AGO, [("budget", "cheap", 4, 3)]),
    ("into the place of what goes", {"replicas": array(5, 2, 0)}, {}, {"budget_usd_per_hr": 11.0}, LONG_AGO,
     [("budget", "cheap", 5, 3)]),
    ("what drains called back within budget", {"replicas": array(4, 2, 1)}, {"draining": array(1, 0, 0)},
     {"budget_usd_per_hr": 12.0}, LONG_AGO, []),
    ("minimum before budget", {}, {}, {"budget_usd_per_hr": 0.5}, LONG_AGO,
     [("budget", "cheap", 3, 1), ("budget", "mid", 2, 0), ("budget", "dear", 1, 0)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("proposed", "seen", "limits", "state", "expected"), [v[1:] for v in VETOES], ids=[v[0] for v in VETOES]
)
def test_each_veto_has_its_reason(
    proposed: dict[str, Any],
    seen: dict[str, Any],
    limits: dict[str, float],
    state: GuardState,
    expected: list[tuple[str, str, float, float]],
) -> None:
    wanted = replace(AS_IT_IS, **proposed)
    strict = replace(LIMITS, **{name: np.array(value) for name, value in limits.items()})
    guarded = guard(wanted, with_columns(CALM, **seen), PLAN, CLUSTER, strict, state)
    found = [(r.code.value, r.subject, r.wanted, r.applied) for r in reasons(guarded.changes, CLUSTER)]
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    assert np.allclose([f[2:] for f in found], [e[2:] for e in expected], equal_nan=True)
    if not expected:
        assert same(guarded.action, wanted)


def test_growth_goes_first_then_the_dearest_and_no_more_than_needed() -> None:
    current, most = array(3.0, 2.0, 1.0), array(5.0, 4.0, 3.0)
    wanted = replace(AS_IT_IS, replicas=most)
    for budget in np.arange(1.0, 27.0, 0.5):
        limits = replace(LIMITS, budget_usd_per_hr=np.array(budget))
        count = guard(wanted, CALM, PLAN, CLUSTER, limits, LONG_AGO).action.replicas
        rent = float((count * CLUSTER.usd_per_hr).sum())
        assert rent <= budget
        if (count > current).any():
            assert (count >= current).all()
        for before, after in ((most, np.maximum(count, current)), (current, np.minimum(count, current))):
            gone, left = before - after, after - np.minimum(before, np.where(before is most, current, 0.0))
            for p in (0, 1):  # the dearer ones are gone by then
                if gone[p] > 0:
                    assert (left[p + 1 :] == 0).all()
        taken_from = current if (count < current).any() else most
        dearest = [p for p in range(3) if count[p] < taken_from[p]]
        if dearest:  # the last one taken would not have fitted
            assert rent + CLUSTER.usd_per_hr[dearest[0]] > budget


def test_a_change_starts_the_cooldown_and_holding_does_not() -> None:
    guarded = guard(replace(AS_IT_IS, replicas=array(4.0, 2.0, 1.0)), CALM, PLAN, CLUSTER, LIMITS, LONG_AGO)
    assert guarded.state.changed_at_s.tolist() == [NOW_S, NOW_S - 600.0, NOW_S - 600.0]
    assert guarded.state.applied is guarded.action


@pytest.mark.parametrize(("since_s", "expected"), [(59.9, 3.0), (60.0, 2.0)], ids=["cooling down", "cooled down"])
def test_the_cooldown_ends(since_s: float, expected: float) -> None:
    state = replace(LONG_AGO, changed_at_s=np.full(3, NOW_S - since_s))
    guarded = guard(replace(AS_IT_IS, replicas=array(2.0, 2.0, 1.0)), CALM, PLAN, CLUSTER, LIMITS, state)
    assert guarded.action.replicas[0] == expected


def test_without_telemetry_the_last_applied_counts_are_the_present_ones() -> None:
    blind = blank_snapshot(NOW_S, 2, 3)
    wanted = replace(AS_IT_IS, replicas=array(6.0, 0.0, 1.0))
    count = guard(wanted, blind, PLAN, CLUSTER, LIMITS, LONG_AGO).action.replicas
    assert count.tolist() == [5.0, 1.0, 1.0]
