"""Episodes depend on their seed alone; a bank's worlds are met again under other chances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poolpilot.env.batch import Episode
from poolpilot.env.scenario import load_scenario
from poolpilot.env.scenario.telemetry import Telemetry
from poolpilot.tests.training.clusters import tiny
from poolpilot.training.environments import make_vector_env, vector_env_of
from poolpilot.training.worlds import MISS_PRICE_HIGH, MISS_PRICE_LOW, TrainingWorlds


def worlds(folder: Path, bank: int) -> TrainingWorlds:
    return TrainingWorlds([load_scenario(str(tiny(folder)))], bank=bank, quickly=True)


def same_requests(first: Episode, second: Episode) -> bool:
    return np.array_equal(first.world.workload.arrival_s, second.world.workload.arrival_s)


@pytest.mark.parametrize("bank", [0, 3])
def test_an_episode_is_its_seeds_whatever_was_drawn_before(tmp_path: Path, bank: int) -> None:
    fresh, used = worlds(tmp_path, bank), worlds(tmp_path, bank)
    for seed in (5, 8, 1, 0):
        used(seed)
    first, second = fresh(8), used(8)
    assert same_requests(first, second)
    assert first.world.seed == second.world.seed
    assert first.miss_price == second.miss_price
    np.testing.assert_array_equal(first.world.law_rows, second.world.law_rows)


def test_a_banks_world_is_met_again_under_other_chances(tmp_path: Path) -> None:
    draw = worlds(tmp_path, 3)
    first, again, other = draw(2), draw(5), draw(3)
    assert same_requests(first, again)
    np.testing.assert_array_equal(first.world.law_rows, again.world.law_rows)
    assert first.reference_usd == again.reference_usd
    assert first.world.seed != again.world.seed
    assert first.miss_price != again.miss_price
    assert not same_requests(first, other)
    assert MISS_PRICE_LOW <= again.miss_price <= MISS_PRICE_HIGH
    for seed in range(20):
        draw(seed)
    assert len(draw.drawn) == 3


def test_a_banks_veil_blurs_otherwise_each_time(tmp_path: Path) -> None:
    veiled = load_scenario(str(tiny(tmp_path))).model_copy(
        update={"telemetry": Telemetry(noise_frac=0.1, lacks_frac=0.5)}
    )
    draw = TrainingWorlds([veiled], bank=3, quickly=True)
    first, again = draw(2).world.veil, draw(5).world.veil
    assert first is not None
    assert again is not None
    assert first.seed != again.seed
    np.testing.assert_array_equal(first.lacks_classes, again.lacks_classes)


def test_another_bank_holds_other_worlds(tmp_path: Path) -> None:
    scenarios = [load_scenario(str(tiny(tmp_path)))]
    first, second = (TrainingWorlds(scenarios, bank=3, bank_seed=seed, quickly=True)(2) for seed in (0, 1))
    assert not same_requests(first, second)


def test_without_scenarios_every_cluster_is_drawn_at_random() -> None:
    draw = TrainingWorlds(quickly=True)
    first, again, other = draw(8), TrainingWorlds(quickly=True)(8), draw(9)
    assert first.world.cluster.pool_names == again.world.cluster.pool_names
    assert same_requests(first, again)
    assert not same_requests(first, other)
    assert draw.ticks_s == {10.0}


def test_random_clusters_and_named_ones_mix(tmp_path: Path) -> None:
    draw = TrainingWorlds([load_scenario(str(tiny(tmp_path)))], quickly=True, random_frac=0.5)
    lengths = [draw(seed).world.duration_s for seed in range(12)]
    assert set(lengths) == {120.0, 3600.0}


def test_an_easier_course_has_a_bank_of_its_own() -> None:
    hard = TrainingWorlds(bank=2, quickly=True)
    hard(0)
    easy = hard.at(0.0)
    assert not easy.drawn
    assert not easy(0).world.cluster.spot.any()
    assert len(hard.drawn) == 1


def test_the_name_random_trains_on_random_clusters(tmp_path: Path) -> None:
    env = make_vector_env(("random", str(tiny(tmp_path))), n_clusters=3, seed=1, bank=4, difficulty=0.5)
    observation = env.reset()
    assert observation.shape[0] == 3
    _, rewards, _, _ = env.step(np.zeros((3, env.layout.action_space.shape[0])))
    assert np.isfinite(rewards).all()


def test_scenarios_of_one_batch_have_one_tick(tmp_path: Path) -> None:
    one = load_scenario(str(tiny(tmp_path)))
    mixed = TrainingWorlds([one, one.model_copy(update={"tick_s": 5.0})], quickly=True)
    with pytest.raises(ValueError, match=r"ticks of \[5\.0, 10\.0\] s; wanted one and the same"):
        vector_env_of(mixed, 2, 0)
