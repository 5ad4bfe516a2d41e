"""The start that is searched: what its numbers mean to the network, and that the search never ends behind the first rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from poolpilot.agents.ppo.network import SetNetwork
from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES, trust_weights
from poolpilot.training.config import TrainConfig
from poolpilot.training.criterion import Outcome
from poolpilot.training.linear_start import RANGES, put, search_loss, searching
from poolpilot.training.ppo import new_model, policy_of
from poolpilot.training.setting import training_env, training_sources
from poolpilot.training.vec_env import ClusterVecEnv

from .clusters import tiny


def answers_of(network: SetNetwork, deferrable: float, spot: float) -> tuple[list[float], list[float], list[float]]:
    classes, pools = torch.rand(1, 2, len(CLASS_FEATURES)), torch.rand(1, 2, len(POOL_FEATURES))
    for rows, names in ((classes, CLASS_FEATURES), (pools, POOL_FEATURES)):
        rows[..., names.index("there")] = 1.0
    classes[..., CLASS_FEATURES.index("deferrable")] = deferrable
    pools[..., POOL_FEATURES.index("spot")] = spot
    with torch.no_grad():
        parts = network(classes, pools, torch.rand(1, len(WHOLE_FEATURES)), torch.ones(1, 2), torch.ones(1, 2))
    return parts[0][0, 1].tolist(), parts[1][0, 1].tolist(), parts[2][0].tolist()


def test_a_network_answers_by_its_numbers_whatever_else_it_sees() -> None:
    network = SetNetwork()
    numbers = {"headroom": -0.2, "deferrable_headroom": 0.5, "spot_replicas": 0.2, "spot_tilt": -0.4, "trust_2": 0.7}
    put(network, numbers)
    by_class, by_pool, whole = answers_of(network, deferrable=0.0, spot=0.0)
    assert by_class == pytest.approx([np.tanh(-0.2), 0.0], abs=1e-6)
    assert by_pool == pytest.approx([0.0, 0.0, 0.0, 0.0], abs=1e-6)
    assert trust_weights(np.array(whole)) == pytest.approx([0.3, 0.0, 0.7, 0.0], abs=1e-6)
    by_class, by_pool, _ = answers_of(network, deferrable=1.0, spot=1.0)
    assert by_class == pytest.approx([np.tanh(0.3), 0.0], abs=1e-6)
    assert by_pool == pytest.approx([np.tanh(0.2), np.tanh(-0.4), 0.0, 0.0], abs=1e-6)


def test_no_numbers_are_the_first_rule() -> None:
    network = SetNetwork()
    put(network, {})
    assert all(value == 0.0 for part in answers_of(network, 1.0, 1.0) for value in part)
    with pytest.raises(KeyError, match="hedroom: wanted headroom"):
        put(network, {"hedroom": 0.1})


def test_a_world_that_nobody_can_hold_decides_nothing() -> None:
    easy, lost, worse = Outcome(1.0, 0.0), Outcome(1.0, 0.3), Outcome(1.0, 0.9)
    assert search_loss([easy, lost]) == search_loss([easy, worse]) > search_loss([easy, Outcome(1.0, 0.02)])
    assert search_loss([easy, easy]) == 1.0


def test_a_run_starts_from_the_best_setting_tried_and_others_take_it_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolpilot.training.linear_start.WORLDS", 2)
    config = TrainConfig(scenarios=(str(tiny(tmp_path)),), clusters=2, bank=4, search=3, steps_per_update=4)
    model = new_model(config, ClusterVecEnv(training_env(config, training_sources(config))))
    kept: list[dict[str, object]] = []
    tried: list[int] = []
    searching(config, tmp_path, kept.append, tmp_path / "cache", lambda: tried.append(1))(policy_of(model))
    found = json.loads((tmp_path / "linear_start.json").read_text())
    assert kept == [found]
    assert len(tried) == 3
    assert set(found["numbers"]) == set(RANGES)
    assert found["loss"] <= found["neutral_loss"]
    network = policy_of(model).network
    trusted = trust_weights(np.tanh(network.whole_head.bias.detach().numpy()))[2]
    assert trusted == pytest.approx(found["numbers"]["trust_2"], abs=0.03)
    again = new_model(config, ClusterVecEnv(training_env(config, training_sources(config))))
    searching(config, tmp_path, kept.append, tmp_path / "cache")(policy_of(again))
    assert kept[1] == found
