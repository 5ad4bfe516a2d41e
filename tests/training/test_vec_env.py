"""The clusters as stable-baselines3 sees them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.batch import Episode
from poolpilot.training.config import TrainConfig
from poolpilot.training.curriculum import LevelledWorlds
from poolpilot.training.multipliers import Multipliers
from poolpilot.training.setting import training_env, training_sources
from poolpilot.training.vec_env import PRICE_WEIGHT, REWARD_SCALE, ClusterVecEnv

from .clusters import tiny


def an_env(folder: Path, price: float, multipliers: Multipliers | None = None) -> ClusterVecEnv:
    config = TrainConfig(scenarios=(str(tiny(folder)),), clusters=3, bank=3)
    worlds = training_sources(config)

    def priced(seed: int) -> Episode:
        return replace(worlds(seed), miss_price=price)

    return ClusterVecEnv(training_env(config, LevelledWorlds({1.0: priced}, worlds.tick_s)), multipliers)


def test_multipliers_price_misses_as_the_episodes_own_price_would(tmp_path: Path) -> None:
    """Across the ends of episodes too, when other clusters take their places in the same step."""
    own = an_env(tmp_path, price=0.7)
    by_kind = an_env(tmp_path, price=0.1, multipliers=Multipliers(values=np.array([0.7, 0.7])))
    nothing = np.zeros((3, *own.action_space.shape))  # type: ignore[misc]
    own.reset()
    by_kind.reset()
    missed = 0.0
    for _ in range(30):
        rewards = []
        for env in (own, by_kind):
            env.step_async(nothing)
            rewards.append(env.step_wait()[1])
        np.testing.assert_allclose(own.rewards, by_kind.rewards, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rewards[0] * (1.0 + 0.7 * PRICE_WEIGHT), rewards[1], rtol=1e-4, atol=1e-6)
        missed += float(by_kind.last.charged.sum())
    assert missed > 0.0, "nothing was missed: the test says nothing"


def test_a_usual_tick_without_misses_is_worth_nothing(tmp_path: Path) -> None:
    """So that the critic, which begins at 0, begins about right."""
    env = an_env(tmp_path, price=0.5)
    env.reset()
    env.step_async(np.zeros((3, *env.action_space.shape)))  # type: ignore[misc]
    rewards = env.step_wait()[1]
    np.testing.assert_allclose(rewards, (env.rewards + 1.0) * REWARD_SCALE / (1.0 + 0.5 * PRICE_WEIGHT), rtol=1e-5)
    usual = env.last.bill_usd / env.last.reference_usd
    np.testing.assert_allclose(env.rewards, -usual - 0.5 * env.last.charged.sum(axis=-1), rtol=1e-5)


def test_seeding_starts_the_stream_of_episodes_again(tmp_path: Path) -> None:
    env = an_env(tmp_path, price=0.5)
    first = env.reset().copy()
    env.seed(0)
    assert np.array_equal(env.reset(), first)
    with pytest.raises(AttributeError, match="single clusters"):
        env.set_attr("n_clusters", 5)


def test_a_step_is_so_many_ticks_under_the_same_outputs(tmp_path: Path) -> None:
    config = TrainConfig(scenarios=(str(tiny(tmp_path)),), clusters=3, bank=3)
    worlds = training_sources(config)
    one, held = (ClusterVecEnv(training_env(config, worlds), hold=hold) for hold in (1, 4))
    rng = np.random.default_rng(0)
    last = held.reset()
    assert np.array_equal(one.reset(), last)
    ticks = []
    held.on_tick = lambda env: ticks.append(env.last.bill_usd.copy())
    ended = 0
    for _ in range(12):
        action = rng.uniform(-1.0, 1.0, (3, *one.action_space.shape))  # type: ignore[misc]
        worth, over = np.zeros(3), np.zeros(3, dtype=bool)
        for _ in range(4):
            seen, learned, done, _ = one.step(action)
            worth += np.where(over, 0.0, learned)
            over |= done
        before, kept = last, last.copy()
        last, rewards, dones, infos = held.step(action)
        assert np.array_equal(before, kept), "a step must not write over what was seen before it"
        assert np.array_equal(seen, last)
        np.testing.assert_allclose(rewards, worth, rtol=1e-5, atol=1e-7)
        assert np.array_equal(dones, over)
        for b in np.flatnonzero(dones):
            assert "terminal_observation" in infos[b]
        ended += int(dones.sum())
    assert len(ticks) == 48
    assert ended > 0, "no episode ended: the test says too little"
