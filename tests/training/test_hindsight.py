"""Worlds lived through under every constant output, and what a policy learns from that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from poolpilot.agents.blend import Member
from poolpilot.env.codec import BLENDED
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.config import TrainConfig
from poolpilot.training.hindsight import HEADROOMS, Hindsight, in_turn, look_back
from poolpilot.training.ppo import new_model, policy_of
from poolpilot.training.priced import at_price
from poolpilot.training.setting import still_env, training_env, training_sources
from poolpilot.training.vec_env import ClusterVecEnv
from poolpilot.training.warm_start import IMITATION_SEED, constant_output, warm_start

from .clusters import tiny

LAYOUT = SpaceLayout()


def a_config(folder: Path) -> TrainConfig:
    """The second rule holds three times the head-room of the first; the others are the first again."""
    usual = Member("plan-tracking", {"headroom": 1.3, "burst": 0.5, "hold_s": 120.0})
    lavish = Member("plan-tracking", {"headroom": 3.0, "burst": 1.5, "hold_s": 120.0})
    return TrainConfig(
        scenarios=(str(tiny(folder)),),
        portfolio=(usual, lavish, usual, usual),
        clusters=2,
        steps_per_update=2,
        width=8,
        bank=16,
        imitate=8,
    )


def looked_back(config: TrainConfig, n_worlds: int = 2) -> Hindsight:
    worlds = training_sources(config)
    episodes = [worlds(IMITATION_SEED + i) for i in range(n_worlds)]
    return look_back(
        episodes,
        BLENDED,
        lambda rule, headroom: constant_output(LAYOUT, rule, headroom),
        lambda draw, n: still_env(draw, n, worlds.tick_s, config.portfolio),
    )


def test_a_constant_output_trusts_one_rule_alone_at_one_head_room() -> None:
    outputs = LAYOUT.outputs(constant_output(LAYOUT, 2, 0.5)[None])
    assert (outputs.classes[..., 0] == 0.5).all()
    assert (outputs.classes[..., 1] == 0.0).all()
    assert (outputs.pools == 0.0).all()
    assert outputs.whole.tolist() == [[0.0, 1.0, 0.0]]
    assert not constant_output(LAYOUT, 0, 0.0).any()


def test_the_price_of_a_miss_is_all_that_changes_in_an_observation(tmp_path: Path) -> None:
    """What the environment shows at another price is what hindsight makes of the one that was kept."""
    config = a_config(tmp_path)
    worlds = training_sources(config)
    episode = worlds(IMITATION_SEED)
    cheap, dear = (
        still_env(in_turn([replace(episode, miss_price=price)]), 1, worlds.tick_s, config.portfolio).reset().copy()
        for price in (0.05, 1.5)
    )
    assert not np.array_equal(cheap, dear)
    np.testing.assert_array_equal(at_price(cheap, np.array([1.5]), LAYOUT), dear)


def test_every_rule_and_head_room_is_lived_through_in_the_same_world(tmp_path: Path) -> None:
    table = looked_back(a_config(tmp_path))
    assert table.bill.shape == table.missed.shape == (2, BLENDED, len(HEADROOMS))
    assert table.seen.shape[0] == 2
    np.testing.assert_array_equal(table.bill[:, 2], table.bill[:, 0])  # the same rule, the same coin tosses
    assert (table.bill[:, 1, 2] >= table.bill[:, 0, 2]).all()
    assert table.bill[:, 1, 2].sum() > table.bill[:, 0, 2].sum()
    assert table.bill[:, 0, -1].sum() > table.bill[:, 0, 0].sum()
    again = looked_back(a_config(tmp_path))
    np.testing.assert_array_equal(again.bill, table.bill)
    np.testing.assert_array_equal(again.seen, table.seen)


def test_worlds_of_different_lengths_are_refused(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    episode = training_sources(config)(1)
    shorter = replace(episode, world=replace(episode.world, duration_s=60.0))
    with pytest.raises(ValueError, match="one length"):
        look_back([episode, shorter], BLENDED, lambda r, h: constant_output(LAYOUT, r, h), lambda d, n: None)  # type: ignore[arg-type,return-value]


def test_a_warm_start_is_told_beside_its_rivals_and_kept_for_other_runs(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    policies = [
        policy_of(new_model(config, ClusterVecEnv(training_env(config, training_sources(config))))) for _ in range(2)
    ]
    looked: list[int] = []
    results = [
        warm_start(policy, config, training_sources(config), tmp_path / "cache", looked.append) for policy in policies
    ]
    assert looked[-1] == config.imitate
    assert len(looked) == len(set(looked)), "the second looked back again"
    assert results[0] == results[1]
    assert results[0]["held_out_loss"] <= results[0]["neutral_loss"]
    for row in results[0]["lived_again"]:
        assert row["hindsight"] <= min(row["neutral"], row["best_constant"])
        assert np.isfinite(row["imitated"])
