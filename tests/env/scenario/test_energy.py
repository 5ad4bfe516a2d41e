"""Room temperatures and thermal figures of a scenario: what is understood, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poolpilot.env.plain_yaml import plain_yaml
from poolpilot.env.scenario import SHIPPED, Scenario, ScenarioError, parse_scenario
from poolpilot.env.scenario.energy import Energy
from poolpilot.env.sim.clusters import SimulatedClusters
from poolpilot.env.sim.world import world_from_scenario
from poolpilot.tests.env.sim.worlds import an_action, run_ticks


def a_scenario(energy: dict[str, Any], thermal: dict[str, Any] | None = None) -> Scenario:
    document = plain_yaml((SHIPPED / "mixed-chat.yaml").read_text())
    document["energy"] = energy
    for pool in document["pools"].values():
        pool["thermal"] = thermal or {}
    return parse_scenario(document, Path("mine.yaml"))


def test_steps_change_the_room_of_the_pools_they_name() -> None:
    energy = Energy.model_validate(
        {
            "room_c": 22,
            "room_steps": [
                {"at_s": 100, "room_c": 45, "pools": ["b"]},
                {"at_s": 100, "room_c": 30, "pools": ["a"]},
                {"at_s": 300, "room_c": 22},
            ],
        }
    )
    from_s, room_c = energy.room(["a", "b"])
    assert from_s.tolist() == [0.0, 100.0, 300.0]
    assert room_c.tolist() == [[22.0, 22.0], [30.0, 45.0], [22.0, 22.0]]


@pytest.mark.parametrize(
    ("energy", "thermal", "problem"),
    [
        ({"room_steps": [{"at_s": 9, "room_c": 30}, {"at_s": 5, "room_c": 30}]}, {}, "energy: room_steps: at_s"),
        ({"room_steps": [{"at_s": 9, "room_c": 300}]}, {}, r"energy.room_steps.*room_c"),
        ({"room_steps": [{"at_s": 9, "room_c": 30, "pools": ["x"]}]}, {}, r"room_steps\[0\].pools: unknown pool 'x'"),
        ({"room_c": -273}, {}, "energy.room_c"),
        ({}, {"time_constant_s": 0}, "thermal.time_constant_s"),
        ({}, {"slow_factor": 0.5}, "thermal.slow_factor"),
        ({}, {"fan": 1}, "thermal.fan"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(energy: dict[str, Any], thermal: dict[str, Any], problem: str) -> None:
    with pytest.raises(ScenarioError, match=problem):
        a_scenario(energy, thermal)


def test_a_hot_room_of_the_scenario_reaches_the_gpus() -> None:
    hot = a_scenario(
        {"room_c": 25, "room_steps": [{"at_s": 60, "room_c": 60}]},
        {"time_constant_s": 5, "slow_above_c": 70, "slow_factor": 1.5},
    )
    clusters = SimulatedClusters([world_from_scenario(hot, seed=1)], hot.tick_s)
    run_ticks(clusters, an_action(clusters, replicas=2), 5)
    before = clusters.snapshot()
    run_ticks(clusters, an_action(clusters, replicas=2), 12)
    after = clusters.snapshot()
    used = before.power_w[0] > 0
    assert (after.gpu_temp_c[0, used] > before.gpu_temp_c[0, used] + 20).all()
    assert before.throttled[0].max() == 0.0
    assert after.throttled[0].max() > 0.0
