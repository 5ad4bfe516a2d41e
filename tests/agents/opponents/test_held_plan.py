"""A plan that is held: its counts and shares at every tick, whatever is seen; and scenarios that carry one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings

from poolpilot.agents.opponents.held_plan import HeldPlan
from poolpilot.agents.portfolio import HELD_PLAN, SettingError, held_setting, policy_factory
from poolpilot.env.contract import Cluster, blank_snapshot
from poolpilot.env.scenario import Scenario, ScenarioError, load_scenario, shipped_scenarios
from poolpilot.tests.env.clusters import SEEDS, Situation, situations
from poolpilot.training.contenders import contender
from poolpilot.training.rollout import rollout
from poolpilot.training.worlds import episode_of

from .decisions import check_actions_of_some_ticks

Change = Callable[[dict[str, Any]], None]


def held(cluster: Cluster) -> HeldPlan:
    """One replica everywhere if it may be, classes dealt out evenly; padding is asked for nothing."""
    serves = cluster.serves & cluster.pool_mask[..., None, :] & cluster.class_mask[..., :, None]
    total = np.maximum(serves.sum(axis=-1, keepdims=True), 1)
    return HeldPlan(cluster, np.clip(1.0, cluster.min_replicas, cluster.max_replicas), serves / total)


@settings(max_examples=40, deadline=None)
@given(situations(), SEEDS)
def test_every_action_is_within_limits(at: Situation, seed: int) -> None:
    check_actions_of_some_ticks(at, held, seed)


def a_scenario(tmp_path: Path, change: Change | None = None) -> Scenario:
    """The demo's pools with a plan: two replicas of each, chat on two pools, batch half let in."""
    document = yaml.safe_load(shipped_scenarios()["mixed-chat"].read_text())
    for pool in document["pools"].values():
        pool["replicas"] = {"min": 0, "max": 2, "start": 2}
    document["classes"]["chat"]["shares"] = {"h100": 0.75, "l40s": 0.25}
    document["classes"]["summarisation"]["shares"] = {"a100-spot": 1.0}
    document["classes"]["batch"]["shares"] = {"l40s": 0.5}
    if change:
        change(document)
    path = tmp_path / "held.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_scenario(path)


def test_counts_and_shares_are_those_of_the_scenario_and_the_rest_is_turned_away(tmp_path: Path) -> None:
    scenario = a_scenario(tmp_path)
    policy = policy_factory(HELD_PLAN, held_setting(scenario))(scenario.cluster())
    plan = episode_of(scenario, 0, miss_price=1.0).planner.first(np.ones(3))
    action, _ = policy.decide(blank_snapshot(0.0, 3, 3), plan, {})
    assert action.replicas.tolist() == [2.0, 2.0, 2.0]
    assert action.route.tolist() == [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    assert action.admit.tolist() == [1.0, 1.0, 0.5]


def test_simulated_it_never_scales_and_routes_as_told(tmp_path: Path) -> None:
    def calm(document: dict[str, Any]) -> None:
        document["duration_s"] = 120
        document["classes"]["batch"]["shares"] = {"l40s": 1.0}

    scenario = a_scenario(tmp_path, calm)
    entry = contender(HELD_PLAN, scenario)
    (result,) = rollout([episode_of(scenario, 0, miss_price=1.0)], entry.make, scenario.tick_s)
    assert result.replica_changes == 0
    assert (result.replicas == 2.0).all()
    work = result.bill.usd[:, :, 0]  # useful compute goes to whoever's tokens were processed
    names = list(result.class_names)
    assert work[0, names.index("chat")] > 0
    assert work[0, names.index("summarisation")] == work[0, names.index("batch")] == 0.0
    assert work[2, names.index("chat")] == work[2, names.index("batch")] == 0.0


def test_a_scenario_without_a_plan_is_refused_by_a_line_that_says_what_to_do() -> None:
    with pytest.raises(SettingError, match=r"mixed-chat has no classes\.chat\.shares; `poolpilot plan .*--write FILE`"):
        contender(HELD_PLAN, load_scenario("mixed-chat"))


@pytest.mark.parametrize("setting", [(), (1.0,) * 11, (-1.0,) + (0.1,) * 11], ids=["none", "too few", "negative"])
def test_a_setting_that_does_not_fit_is_refused(setting: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="12 of 0 or more"):
        policy_factory(HELD_PLAN, setting)(load_scenario("mixed-chat").cluster())


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"nowhere": 1.0}, "classes.chat.shares: unknown pool 'nowhere'; pools are h100"),
        ({"h100": 0.7, "l40s": 0.4}, "classes.chat.shares: they sum to 1.1, wanted at most 1"),
        ({"h100": -0.1}, "greater than or equal to 0"),
        ({"h100": float("nan")}, "classes.chat.shares.h100"),
    ],
    ids=["unknown pool", "too much", "negative", "no number"],
)
def test_shares_that_cannot_be_are_refused(tmp_path: Path, shares: dict[str, float], said: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["classes"]["chat"]["shares"] = shares

    with pytest.raises(ScenarioError) as caught:
        a_scenario(tmp_path, change)
    assert said in str(caught.value)


def test_a_share_of_a_pool_that_may_not_serve_the_class_is_refused(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["classes"]["chat"]["pools"] = ["l40s"]

    with pytest.raises(ScenarioError, match=r"classes\.chat\.shares\.h100: this pool cannot serve the class"):
        a_scenario(tmp_path, change)
