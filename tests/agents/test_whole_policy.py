"""The whole policy, rules, codec and network, knows no order of pools and classes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from poolpilot.agents.checkpoint import load_checkpoint
from poolpilot.agents.learned import LearnedPolicy, learned_policy
from poolpilot.agents.portfolio import make_rule
from poolpilot.env.contract import Action, Cluster, Memory, Plan, Snapshot, Targets
from poolpilot.tests.env.clusters import SEEDS, Situation, a_cluster, a_plan, a_snapshot, row

from .ppo.networks import a_folder, a_network

C, P = 3, 5
BY_CLASS_AND_POOL = ("serves", "route", "capacity_per_s")
BY_CLASS = ("class_mask", "load_per_s", "attainment", "ttft_s", "tpot_s", "e2e_s", "deadline_s", "admit", "classes")
ALSO_BY_CLASS = ("forecast_per_s",)
BY_POOL = (
    *("pool_mask", "spot", "min_replicas", "max_replicas", "max_batch_cap", "max_token_budget", "usd_per_hr"),
    *("cold_start_s", "replicas", "batch_cap", "token_budget", "pools"),
)


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_folder(tmp_path_factory.mktemp("lively"), a_network())


def days(seed: int) -> list[Situation]:
    """Three ticks of one cluster in which no two pools are alike: a tie is broken by order, and may be."""
    rng = np.random.default_rng(seed)
    batch = a_cluster(rng, 1, C, P)
    cluster = replace(batch, usd_per_hr=rng.uniform(0.5, 7.0, (1, P)))
    plan = a_plan(rng, cluster)
    seen = [replace(a_snapshot(rng, cluster), time_s=np.full(1, 10.0 * tick)) for tick in range(3)]
    return [row(Situation(cluster, plan, snapshot), 0) for snapshot in seen]


def permuted(value: Any, classes: np.ndarray, pools: np.ndarray) -> Any:
    """Every axis of classes and of pools in another order."""
    if isinstance(value, Situation | Cluster | Targets):
        nested = {f.name: permuted(getattr(value, f.name), classes, pools) for f in fields(value)}
        value = replace(
            value, **{k: v for k, v in nested.items() if isinstance(v, Cluster | Targets | Plan | Snapshot)}
        )
    if not isinstance(value, Cluster | Targets | Plan | Snapshot | Action):
        return value
    changed = {}
    for field in fields(value):
        name, array = field.name, getattr(value, field.name)
        scalar = not isinstance(array, np.ndarray) or array.ndim == 0
        if scalar:
            continue
        if name in BY_CLASS_AND_POOL:
            changed[name] = array[classes][:, pools]
        elif name in (*BY_CLASS, *ALSO_BY_CLASS):
            changed[name] = array[classes]
        elif name in BY_POOL:
            changed[name] = array[pools]
    return replace(value, **changed)


def last_action(folder: Path, ticks: list[Situation]) -> Action:
    policy: LearnedPolicy = learned_policy(load_checkpoint(folder), ticks[0].cluster, make_rule)
    memory: Memory = {}
    for at in ticks:
        action, memory = policy.decide(at.snapshot, at.plan, memory)
    return action


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_permuting_pools_and_classes_permutes_the_action(lively: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, pools = rng.permutation(C), rng.permutation(P)
    plain = days(seed)
    mixed = [permuted(at, classes, pools) for at in plain]
    assert not np.array_equal(mixed[0].cluster.usd_per_hr, plain[0].cluster.usd_per_hr) or (pools == np.arange(P)).all()
    expected = permuted(last_action(lively, plain), classes, pools)
    action = last_action(lively, mixed)
    for field in fields(action):
        # A network of single precision adds up in another order.
        close = np.isclose(getattr(action, field.name), getattr(expected, field.name), atol=1e-4, equal_nan=True)
        assert close.all(), field.name
