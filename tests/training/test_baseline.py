"""Rewards measured from what the first rule costs in the same world and minutes."""

from pathlib import Path

import numpy as np
import pytest

from poolpilot.training.baseline import SMOOTH_TICKS, smoothed
from poolpilot.training.config import TrainConfig
from poolpilot.training.curriculum import LevelledWorlds
from poolpilot.training.setting import measure_baselines, training_env, training_sources
from poolpilot.training.vec_env import ClusterVecEnv

from .clusters import tiny


def a_run(folder: Path) -> tuple[TrainConfig, LevelledWorlds]:
    config = TrainConfig(scenarios=(str(tiny(folder)),), clusters=8, bank=8)
    return config, training_sources(config)


def learned(config: TrainConfig, worlds: LevelledWorlds, headroom: float, ticks: int = 48) -> float:
    """Mean of what is handed to a learner that always asks for this head-room."""
    env = ClusterVecEnv(training_env(config, worlds))
    env.reset()
    actions = np.zeros((config.clusters, *(env.action_space.shape or ())), dtype=np.float32)
    actions[:, 0] = headroom
    rewards = []
    for _ in range(ticks):
        env.step_async(actions)
        rewards.append(env.step_wait()[1])
    return float(np.mean(rewards))


def test_the_rule_itself_is_worth_nothing_and_waste_less(tmp_path: Path) -> None:
    config, worlds = a_run(tmp_path)
    bare = learned(config, worlds, 0.0)
    told: list[int] = []
    measure_baselines(config, worlds, told.append)
    assert told[-1] == config.bank
    rule, lavish = learned(config, worlds, 0.0), learned(config, worlds, 1.0)
    assert abs(rule) < 0.3 * abs(bare), "other coin tosses than the baseline's, but the same worlds"
    assert lavish < rule


def test_every_world_of_the_bank_keeps_its_own(tmp_path: Path) -> None:
    config, worlds = a_run(tmp_path)
    measure_baselines(config, worlds)
    costs = [worlds(seed).rule_costs for seed in range(40)]
    assert all(cost is not None and cost.shape[0] == 12 for cost in costs)
    assert len({float(cost[:, 0].sum()) for cost in costs if cost is not None}) > 1
    again_config, again = a_run(tmp_path)
    measure_baselines(again_config, again)
    for seed in range(5):
        np.testing.assert_array_equal(again(seed).rule_costs, worlds(seed).rule_costs)


def test_smoothing_keeps_what_does_not_change_and_spreads_what_does() -> None:
    steady = np.full((100, 2), 3.0)
    np.testing.assert_allclose(smoothed(steady), steady)
    spike = np.zeros((101, 1))
    spike[50] = 1.0
    wide = smoothed(spike)[:, 0]
    assert wide.sum() == pytest.approx(1.0)
    assert np.count_nonzero(wide > 1e-12) == SMOOTH_TICKS
