"""The environment: what Gymnasium and stable-baselines3 ask of one, and a batch that is nothing but its clusters."""

import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from poolpilot.env.batch import ClusterBatch, Episode
from poolpilot.env.cluster_env import ClusterEnv, VectorClusterEnv
from poolpilot.env.codec import BLENDED, WHOLE_OUTPUTS
from poolpilot.env.scenario import Scenario, load_scenario
from poolpilot.training.registration import ENV_ID, register_envs
from poolpilot.training.vec_env import PRICE_WEIGHT, REWARD_SCALE, ClusterVecEnv
from poolpilot.training.worlds import TrainingWorlds, Variation, episode_of

from .portfolios import unlike_rules

TICKS = 4
SHORT = load_scenario("mixed-chat").model_copy(update={"duration_s": 10.0 * TICKS})
OTHER = load_scenario("cheap-gpus").model_copy(update={"duration_s": 10.0 * (TICKS + 2)})
STILL = Variation(load=0.0, price=0.0, cold_start=0.0, target=0.0, drop_pool=0.0)


def draw(seed: int) -> Episode:
    """Unlike clusters of unlike length, so that episodes end at unlike times."""
    scenario: Scenario = (SHORT, OTHER)[seed % 2]
    return replace(episode_of(scenario, seed, miss_price=0.3), miss_price=0.1 + (seed % 7) / 10.0)


def vector(n: int, seed: int = 5) -> VectorClusterEnv:
    return VectorClusterEnv(draw, n, SHORT.tick_s, unlike_rules, seed=seed)


def some_actions(env: VectorClusterEnv, steps: int, seed: int = 1) -> np.ndarray:
    """`[T, B, A]`"""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1.0, 1.0, (steps, env.n_clusters, *env.layout.action_space.shape)).astype(np.float32)


def test_the_ticks_of_the_two_scenarios_are_alike() -> None:
    assert SHORT.tick_s == OTHER.tick_s == 10.0


@pytest.mark.parametrize("check", [gymnasium_check, sb3_check], ids=["gymnasium", "stable-baselines3"])
def test_the_checkers_find_nothing_to_complain_of(check) -> None:  # type: ignore[no-untyped-def]
    register_envs()
    env = gymnasium.make(ENV_ID, scenario="mixed-chat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(env.unwrapped)


def test_registering_twice_is_no_error_and_the_id_says_which_version() -> None:
    register_envs()
    register_envs()
    spec = gymnasium.spec(ENV_ID)
    assert (spec.namespace, spec.name, spec.version) == ("poolpilot", "Cluster", 1)
    assert isinstance(gymnasium.make(ENV_ID).unwrapped, ClusterEnv)


@pytest.mark.parametrize(
    "program",
    [
        (
            "import gymnasium; from poolpilot.training import registration; gymnasium.register_envs(registration);"
            " gymnasium.spec('poolpilot/Cluster-v1')"
        ),
        "import gymnasium; gymnasium.make('poolpilot.training.registration:poolpilot/Cluster-v1')",
    ],
    ids=["imported", "by its name alone"],
)
def test_a_new_process_finds_the_environment(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_episode_lasts_as_long_as_its_scenario_and_is_truncated() -> None:
    env = ClusterEnv(lambda seed: episode_of(SHORT, seed, 1.0), SHORT.tick_s, unlike_rules)
    env.reset(seed=3)
    for tick in range(1, TICKS + 1):
        _, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        assert (terminated, truncated) == (False, tick == TICKS)


def played(env: ClusterEnv, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations `[T + 1, N]` and rewards `[T]` under fixed actions."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in np.random.default_rng(9).uniform(-1, 1, (TICKS, *env.action_space.shape)).astype(np.float32):
        observation, reward, _, _, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), np.array(rewards)


def test_the_same_seed_is_the_same_world_and_another_seed_is_not() -> None:
    worlds = TrainingWorlds([SHORT])
    env = ClusterEnv(worlds, SHORT.tick_s, unlike_rules)
    first, again, other = played(env, 4), played(env, 4), played(env, 5)
    fresh = played(ClusterEnv(worlds, SHORT.tick_s, unlike_rules), 4)
    for same in (again, fresh):
        np.testing.assert_array_equal(first[0], same[0])
        np.testing.assert_array_equal(first[1], same[1])
    assert not np.array_equal(first[0], other[0])


def test_a_batch_is_its_clusters_one_by_one() -> None:
    """Step by step, over resets that come at unlike times."""
    batch, steps, n = vector(3), 2 * TICKS + 3, 3
    observations = [batch.reset().copy()]
    actions = some_actions(batch, steps)
    rewards, ends, terminals = [], [], []
    for action in actions:
        observation, reward, done, info = batch.step(action)
        observations.append(observation.copy())
        rewards.append(reward)
        ends.append(done)
        terminals.append(dict(zip(info.ended.tolist(), info.terminal_observation, strict=True)))
    assert np.any(np.ptp(np.array(ends, dtype=int), axis=1) > 0), "all episodes ended together"

    # The same seeds in the order in which the batch drew them.
    drawn = np.random.default_rng(5)
    queue = [int(drawn.integers(2**62)) for _ in range(n)]
    waiting = {b: [queue[b]] for b in range(n)}
    for done in ends:
        for b in np.flatnonzero(done):
            waiting[int(b)].append(int(drawn.integers(2**62)))
    for b in range(n):
        seeds = iter(waiting[b])
        single = VectorClusterEnv(lambda _, s=seeds: draw(next(s)), 1, SHORT.tick_s, unlike_rules)
        np.testing.assert_array_equal(single.reset()[0], observations[0][b])
        for t in range(steps):
            observation, reward, done, info = single.step(actions[t, b : b + 1])
            np.testing.assert_array_equal(observation[0], observations[t + 1][b], err_msg=f"cluster {b}, step {t}")
            assert (reward[0], done[0]) == (rewards[t][b], ends[t][b])
            if done[0]:
                np.testing.assert_array_equal(info.terminal_observation[0], terminals[t][b])


@pytest.mark.parametrize("k", range(BLENDED))
def test_a_rule_that_is_wholly_trusted_runs_as_it_does_by_itself(k: int) -> None:
    """Bills and tallies, through blend, guard and simulator; of the first rule with zeros, the neutral action."""
    env = VectorClusterEnv(lambda seed: episode_of(OTHER, 11, 1.0), 1, OTHER.tick_s, unlike_rules, restart=False)
    env.reset()
    batch = ClusterBatch([episode_of(OTHER, 11, 1.0)], OTHER.tick_s, env.layout.max_classes, env.layout.max_pools)
    rule, memory = unlike_rules(batch.cluster)[k], {}
    done, trusted = np.array([False]), np.zeros((1, *env.layout.action_space.shape), np.float32)
    if k:
        trusted[0, -WHOLE_OUTPUTS + k - 1] = 1.0
    while not done.all():
        _, _, done, info = env.step(trusted)
        snapshot = batch.snapshot()
        action, memory = rule.decide(snapshot, batch.plan, memory)
        outcome, _, _ = batch.advance(action, snapshot)
        assert info.bill_usd[0] == pytest.approx(float(outcome.bill.total_usd[0]), rel=1e-12)
        np.testing.assert_array_equal(info.tally, outcome.tally)
    assert outcome.done.all()


def test_the_learners_view_resets_in_the_same_step_and_keeps_the_last_observation() -> None:
    env, twin = ClusterVecEnv(vector(2)), vector(2)
    np.testing.assert_array_equal(env.reset(), twin.reset())
    returns, lengths, ended = np.zeros(2), np.zeros(2, dtype=int), 0
    for action in some_actions(twin, 2 * TICKS + 3):
        weights = REWARD_SCALE / (1.0 + PRICE_WEIGHT * twin.batch.miss_price)
        observation, rewards, done, infos = env.step(action)
        expected, raw, twin_done, _ = twin.step(action)
        np.testing.assert_array_equal(observation, expected)
        np.testing.assert_allclose(env.rewards, raw, rtol=1e-6)
        np.testing.assert_allclose(rewards, (raw + 1.0) * weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(done, twin_done)
        returns, lengths = returns + raw, lengths + 1
        for b in range(2):
            assert ("terminal_observation" in infos[b]) == ("episode" in infos[b]) == bool(done[b])
            if done[b]:
                ended += 1
                assert infos[b]["TimeLimit.truncated"] is True
                assert env.observation_space.contains(infos[b]["terminal_observation"])
                assert not np.array_equal(infos[b]["terminal_observation"], observation[b])
                assert infos[b]["episode"]["r"] == pytest.approx(returns[b], rel=1e-5)
                assert infos[b]["episode"]["l"] == lengths[b] in (TICKS, TICKS + 2)
                returns[b], lengths[b] = 0.0, 0
        assert env.observation_space.contains(observation[0])
    assert ended >= 2


@pytest.mark.parametrize("call", ["set_attr", "env_method"])
def test_single_clusters_of_a_batch_cannot_be_changed(call: str) -> None:
    env = ClusterVecEnv(vector(2))
    with pytest.raises(AttributeError, match="of a batch"):
        getattr(env, call)("tick_s", 3.0)
    assert env.get_attr("tick_s") == [10.0, 10.0]
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False, False]
