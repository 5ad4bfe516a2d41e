"""What holds for every rule with a `SPEC`, those that are yet to be written included."""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents import opponents
from poolpilot.agents.rules import KnobError, Rule, RuleSpec
from poolpilot.env.codec import Proposal, whole_replicas
from poolpilot.env.contract import Action, Cluster, FloatArray, Memory, Plan, Snapshot, Targets
from poolpilot.env.wire import memory_from_json, memory_to_json
from poolpilot.tests.env.clusters import SEEDS, Situation, a_snapshot, row, same, situations, with_columns

from .decisions import check_actions_of_some_ticks


def all_specs() -> list[RuleSpec]:
    """Every `SPEC` of a module in `agents.opponents`."""
    modules = [
        importlib.import_module(f"{opponents.__name__}.{m.name}") for m in pkgutil.iter_modules(opponents.__path__)
    ]
    return [module.SPEC for module in modules if hasattr(module, "SPEC")]


SPECS = all_specs()
every_rule = pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])


def made(spec: RuleSpec, cluster: Cluster, headroom: float = 1.0) -> Rule:
    return spec.make(cluster, spec.settled(headroom=headroom))


def some_ticks(rule: Rule, at: Situation, seed: int, ticks: int = 3) -> Memory:
    rng, memory = np.random.default_rng(seed), {}
    for tick in range(ticks):
        snapshot = replace(a_snapshot(rng, at.cluster), time_s=at.snapshot.time_s + 15.0 * (tick - ticks))
        _, memory = rule.propose(snapshot, at.plan, memory)
    return memory


def test_rules_have_names_of_their_own() -> None:
    assert len({spec.name for spec in SPECS}) == len(SPECS)
    assert {"threshold", "saturation"} <= {spec.name for spec in SPECS}


@every_rule
def test_knobs_say_what_they_are(spec: RuleSpec) -> None:
    assert spec.summary
    assert spec.source
    assert spec.headroom in spec.defaults
    for knob in spec.knobs:
        assert knob.low <= knob.default <= knob.high, knob.name
        assert knob.low > 0 or not knob.log, knob.name
        assert knob.doc, knob.name
    with pytest.raises(KnobError, match="no knob 'nonsense'"):
        spec.settled({"nonsense": 1.0})


@every_rule
@settings(max_examples=25, deadline=None)
@given(at=situations(), seed=SEEDS)
def test_every_action_is_within_limits_and_each_cluster_is_decided_alone(
    spec: RuleSpec, at: Situation, seed: int
) -> None:
    check_actions_of_some_ticks(at, lambda cluster: made(spec, cluster), seed)


@every_rule
@settings(max_examples=25, deadline=None)
@given(at=situations(absurdity=True), seed=SEEDS, extreme=st.sampled_from(["low", "high"]))
def test_proposals_are_finite_whatever_is_seen(spec: RuleSpec, at: Situation, seed: int, extreme: str) -> None:
    rule = spec.make(at.cluster, {knob.name: getattr(knob, extreme) for knob in spec.knobs})
    proposal, memory = rule.propose(at.snapshot, at.plan, some_ticks(rule, at, seed))
    assert proposal.need.shape == at.cluster.serves.shape
    assert np.isfinite(proposal.need).all()
    assert (proposal.need >= 0).all()
    assert (proposal.need[~at.cluster.serves] == 0).all()
    assert all(np.isfinite(getattr(proposal.action, f.name)).all() for f in fields(Action))
    assert all(value.dtype == np.float64 for value in memory.values())
    assert same(rule.decide(at.snapshot, at.plan, some_ticks(rule, at, seed))[0], proposal.action)


@every_rule
@settings(max_examples=25, deadline=None)
@given(at=situations(), seed=SEEDS)
def test_rows_of_zeros_in_the_memory_mean_a_fresh_start(spec: RuleSpec, at: Situation, seed: int) -> None:
    rule = made(spec, at.cluster)
    kept = some_ticks(rule, at, seed)
    memory = {name: np.concatenate([np.zeros_like(value[:1]), value[1:]]) for name, value in kept.items()}
    proposal, after = rule.propose(at.snapshot, at.plan, memory)
    fresh, fresh_after = rule.propose(at.snapshot, at.plan, {})
    assert same(row(proposal, 0), row(fresh, 0))
    assert all(same(after[name][0], value[0]) for name, value in fresh_after.items())


@every_rule
@settings(max_examples=15, deadline=None)
@given(at=situations(), seed=SEEDS)
def test_its_memory_survives_json(spec: RuleSpec, at: Situation, seed: int) -> None:
    rule = made(spec, at.cluster)
    memory = some_ticks(rule, at, seed)
    back = memory_from_json(json.loads(json.dumps(memory_to_json(memory), allow_nan=False)))
    assert same(rule.decide(at.snapshot, at.plan, back)[0], rule.decide(at.snapshot, at.plan, memory)[0])


CLASS_AXIS: dict[type, dict[str, int]] = {
    Cluster: {"class_mask": -1, "serves": -2},
    Targets: {"ttft_s": -1, "tpot_s": -1, "e2e_s": -1, "deadline_s": -1, "attainment": -1},
    Plan: {"route": -2, "capacity_per_s": -2, "load_per_s": -1, "attainment": -1},
    Snapshot: {"classes": -2, "forecast_per_s": -2},
    Action: {"route": -2, "admit": -1},
    Proposal: {"need": -2},
}
POOL_AXIS: dict[type, dict[str, int]] = {
    Cluster: {"pool_mask": -1, "serves": -1, "spot": -1, "min_replicas": -1, "max_replicas": -1, "max_batch_cap": -1,
              "max_token_budget": -1, "usd_per_hr": -1, "cold_start_s": -1},
    Targets: {},
    Plan: {"replicas": -1, "route": -1, "batch_cap": -1, "capacity_per_s": -1},
    Snapshot: {"pools": -2},
    Action: {"route": -1, "batch_cap": -1, "token_budget": -1, "replicas": -1},
    Proposal: {"need": -1},
}  # fmt: skip


def reordered(value: Any, order: FloatArray, axes: dict[type, dict[str, int]]) -> Any:
    """A contract value with its pools or classes in another order."""
    changed = {name: np.take(getattr(value, name), order, axis=axis) for name, axis in axes[type(value)].items()}
    if isinstance(value, Cluster):
        changed["targets"] = reordered(value.targets, order, axes)
    if isinstance(value, Proposal):
        changed["action"] = reordered(value.action, order, axes)
    return replace(value, **changed)


@every_rule
@pytest.mark.parametrize(("axes", "axis"), [(POOL_AXIS, -1), (CLASS_AXIS, -2)], ids=["pools", "classes"])
@settings(max_examples=25, deadline=None)
@given(at=situations(padding=False), seed=SEEDS)
def test_reordering_reorders_the_proposal(
    spec: RuleSpec, axes: dict[type, dict[str, int]], axis: int, at: Situation, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(at.cluster.serves.shape[axis])
    price = at.cluster.usd_per_hr * rng.uniform(0.9, 1.1, at.cluster.usd_per_hr.shape)  # no two pools alike
    cluster = replace(at.cluster, usd_per_hr=price)
    other = reordered(cluster, order, axes)
    plan, again = at.plan, reordered(at.plan, order, axes)
    mine, theirs = made(spec, cluster), made(spec, other)
    memory: Memory = {}
    their_memory: Memory = {}
    for tick in range(3):
        snapshot = replace(a_snapshot(rng, cluster), time_s=at.snapshot.time_s + 40.0 * tick)
        proposal, memory = mine.propose(snapshot, plan, memory)
        same_again, their_memory = theirs.propose(reordered(snapshot, order, axes), again, their_memory)
        expected = reordered(proposal, order, axes)
        np.testing.assert_allclose(same_again.need, expected.need, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(same_again.action.route, expected.action.route, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(same_again.action.replicas, expected.action.replicas)


@every_rule
@settings(max_examples=25, deadline=None)
@given(at=situations(padding=False), seed=SEEDS)
def test_nothing_is_sent_where_nothing_is_ready_while_others_are(spec: RuleSpec, at: Situation, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rule, ready = made(spec, at.cluster), rng.integers(0, 3, at.cluster.max_replicas.shape).astype(float)
    capacity = np.where(at.cluster.serves, np.maximum(at.plan.capacity_per_s, 0.1), 0.0)
    snapshot = with_columns(at.snapshot, ready=ready)
    action, _ = rule.decide(snapshot, replace(at.plan, capacity_per_s=capacity), some_ticks(rule, at, seed))
    somewhere = (at.cluster.serves & (ready > 0)[..., None, :]).any(axis=-1)
    sent = np.where(somewhere[..., None] & (ready == 0)[..., None, :], action.route, 0.0)
    assert (sent == 0).all()


@every_rule
@settings(max_examples=25, deadline=None)
@given(at=situations(padding=False), seed=SEEDS)
def test_a_steady_load_ends_in_counts_that_its_need_explains(spec: RuleSpec, at: Situation, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = replace(at.cluster, min_replicas=np.zeros(at.cluster.min_replicas.shape))
    capacity = np.where(cluster.serves, rng.uniform(0.5, 4.0, cluster.serves.shape), 0.0)
    plan = replace(at.plan, capacity_per_s=capacity)
    rate = rng.uniform(0.1, 2.0, cluster.class_mask.shape)
    replicas = plan.replicas
    rule, memory = made(spec, cluster), {}
    for tick in range(40):
        snapshot = with_columns(
            replace(at.snapshot, time_s=np.full(len(rate), 60.0 * tick), forecast_per_s=np.repeat(rate[..., None], 5, -1)),
            arrival_rate_per_s=rate, shed_per_s=0.0, attainment=1.0, ready=replicas, target=replicas, starting=0.0,
            draining=0.0, asleep=0.0, running=0.0, waiting=0.0, kv_used_frac=0.0, usd_per_hr=cluster.usd_per_hr,
            gpu_util_frac=0.3, preemptions_per_hr=0.0, telemetry_age_s=1.0, output_tokens_mean=100.0,
            prompt_tokens_mean=300.0, ttft_p95_s=0.1, tpot_p95_s=0.01, cold_start_s=cluster.cold_start_s,
        )  # fmt: skip
        proposal, memory = rule.propose(snapshot, plan, memory)
        replicas = proposal.action.replicas
    need = proposal.need.sum(axis=-2)
    assert (replicas >= np.minimum(whole_replicas(need), cluster.max_replicas)).all()
    rent, explained = ((counts * cluster.usd_per_hr).sum(axis=-1) for counts in (replicas, whole_replicas(2.0 * need)))
    # Whole replicas, and a fleet that is kept while another mix would not earn its cold starts: up to two of each pool.
    assert (rent <= explained + 2.0 * cluster.usd_per_hr.sum(axis=-1)).all()
    assert (need.sum(axis=-1) > 0).all()
