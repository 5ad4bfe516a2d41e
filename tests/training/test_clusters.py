"""Random clusters: one a seed, within their bounds, never what is held out, and such that their targets can be held."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.agents.opponents.static_round_robin import StaticRoundRobin
from poolpilot.env.catalog.gpus import GPUS, gpu
from poolpilot.env.catalog.models import MODELS
from poolpilot.env.market.price_list import read_price_list
from poolpilot.env.market.rentable import SHIPPED_PRICES
from poolpilot.env.scenario import Scenario
from poolpilot.env.spaces import MAX_CLASSES, MAX_POOLS
from poolpilot.env.workload.spec import ClassLoad, GeneratedSpec, JobLoad
from poolpilot.training import drawn_pools, held_out
from poolpilot.training.clusters import HARDEST, ClusterError, random_scenario
from poolpilot.training.rollout import attainment_of, rollout
from poolpilot.training.worlds import episode_of

SEEDS = st.integers(0, 2**62)


def requests_per_s(scenario: Scenario) -> float:
    """Mean rate over the run."""
    assert isinstance(scenario.workload, GeneratedSpec)
    rate = 0.0
    for load in scenario.workload.classes.values():
        if isinstance(load, ClassLoad):
            rate += load.rate_per_s
        if isinstance(load, JobLoad):
            rate += load.requests_mean * len(load.at_s) / scenario.duration_s
    return rate


@settings(max_examples=25)
@given(seed=SEEDS, difficulty=st.sampled_from([0.0, 0.4, 1.0, HARDEST]))
def test_a_cluster_fits_into_training_and_is_its_seeds_alone(seed: int, difficulty: float) -> None:
    scenario = random_scenario(seed, difficulty)
    assert scenario == random_scenario(seed, difficulty)
    assert 1 <= len(scenario.classes) <= MAX_CLASSES
    assert 2 <= len(scenario.pools) <= MAX_POOLS
    assert (scenario.duration_s, scenario.tick_s) == (3600.0, 10.0)
    assert 0.5 <= requests_per_s(scenario) <= 60_000 / 3600.0


@settings(max_examples=25)
@given(seed=SEEDS)
def test_what_is_held_out_is_never_drawn(seed: int) -> None:
    scenario = random_scenario(seed)
    assert not held_out.GPUS & {gpu(pool.gpu).name for pool in scenario.pools.values()}
    assert not held_out.MODELS & {scenario.pool_model(name).name for name in scenario.pools}
    assert not held_out.CLASSES & {name.rstrip("-0123456789") for name in scenario.classes}
    sources = " ".join(pool.price.source for pool in scenario.pools.values())
    assert not any(f"about {provider} " in sources for provider in held_out.PROVIDERS)


def test_what_is_held_out_is_known() -> None:
    assert set(GPUS) >= held_out.GPUS
    assert set(MODELS) >= held_out.MODELS
    assert not held_out.MODELS & set(drawn_pools.MODELS)
    assert {offer.provider for offer in read_price_list(SHIPPED_PRICES).offers} >= held_out.PROVIDERS


@settings(max_examples=25)
@given(seed=SEEDS)
def test_every_class_can_be_served_by_machines_that_nobody_takes_away(seed: int) -> None:
    scenario = random_scenario(seed)
    lasting = np.array([pool.price.kind == "on_demand" for pool in scenario.pools.values()])
    assert (scenario.serves() & lasting).any(axis=1).all()
    assert sum(pool.replicas.start for pool in scenario.pools.values()) >= 1


@settings(max_examples=15)
@given(seed=SEEDS)
def test_at_difficulty_0_the_load_is_steady_and_nothing_goes_wrong(seed: int) -> None:
    scenario = random_scenario(seed, 0.0)
    assert not scenario.faults
    assert not scenario.energy.room_steps
    assert scenario.telemetry is None
    for pool in scenario.pools.values():
        assert pool.price.kind == "on_demand"
        assert pool.price.series is pool.stock_outs is pool.spot is pool.sleep is None
        assert pool.crashes_per_hr == pool.cold_start.stuck_start_frac == 0.0
        assert pool.cold_start.delays(0.0).mean_s <= 20.0 * 12.0**0.4 * np.exp(0.3) + 0.1
    assert isinstance(scenario.workload, GeneratedSpec)
    for load in scenario.workload.classes.values():
        if isinstance(load, ClassLoad):
            assert (load.shape, load.cv, load.clients) == ((), 1.0, None)


def test_difficulty_brings_spot_machines_moving_loads_and_faults() -> None:
    drawn = [random_scenario(seed) for seed in range(40)]
    share = {
        "spot": np.mean([any(p.spot for p in s.pools.values()) for s in drawn]),
        "zones": np.mean([sum(p.spot is not None for p in s.pools.values()) > 1 for s in drawn]),
        "faults": np.mean([bool(s.faults) for s in drawn]),
        "stock": np.mean([any(p.stock_outs for p in s.pools.values()) for s in drawn]),
        "two models": np.mean([len({s.pool_model(n).name for n in s.pools}) > 1 for s in drawn]),
        "deferrable": np.mean([bool(s.targets().deferrable.any()) for s in drawn]),
        "telemetry": np.mean([s.telemetry is not None for s in drawn]),
        "heat": np.mean([bool(s.energy.room_steps) for s in drawn]),
    }
    assert all(0.02 <= value <= 0.9 for value in share.values()), share


@pytest.mark.parametrize("seed", [4, 12, 21])
def test_the_whole_fleet_holds_the_targets_and_a_part_of_it_does_not_cost_as_much(seed: int) -> None:
    scenario = random_scenario(seed)
    episode = episode_of(scenario, 77, 0.3, quickly=True)
    results = rollout([episode], lambda cluster: StaticRoundRobin(cluster, cluster.max_replicas), scenario.tick_s)
    reached = attainment_of(results[0].tally)
    short = np.maximum(results[0].attainment_wanted - reached, 0.0).mean()
    assert short <= 0.005, reached
    assert results[0].usd_per_hr > 2.0 * episode.reference_usd * 3600.0 / scenario.tick_s


@pytest.mark.parametrize("difficulty", [-0.1, HARDEST + 0.1, float("nan")])
def test_a_difficulty_is_a_share(difficulty: float) -> None:
    with pytest.raises(ClusterError, match=rf"difficulty: .*, wanted 0 to {HARDEST:g}"):
        random_scenario(0, difficulty)
