"""Trains the policy with PPO (stable-baselines3) on the vectorised clusters.

A run folder holds the arguments, TensorBoard logs, the state to resume from, and the best checkpoint so far
(`run_folder`, `best`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from .averaging import Averaged
from .config import TrainConfig
from .curriculum import LevelledWorlds
from .learner import LearnerPolicy
from .multipliers import Multipliers
from .progress import Evaluate, OnProgress, Progress
from .run_folder import load_state, prepare, save_state
from .setting import measure_baselines, training_env, training_sources
from .vec_env import ClusterVecEnv

LAST_RATE = 0.1
"""The learning rate at the end, as a share of that at the start."""

Starting = Callable[[LearnerPolicy], None]
"""Gives a policy its start, before its first step."""


def new_model(config: TrainConfig, env: ClusterVecEnv) -> PPO:
    """The learner before its first step."""
    layout = env.clusters.layout
    stacked: VecEnv = VecFrameStack(env, config.history) if config.history > 1 else env
    return PPO(
        LearnerPolicy,
        stacked,
        learning_rate=lambda left: config.learning_rate * (LAST_RATE + (1.0 - LAST_RATE) * left),
        n_steps=config.steps_per_update,
        batch_size=min(config.batch_size, config.clusters * config.steps_per_update),
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        ent_coef=config.entropy,
        max_grad_norm=0.5,
        target_kl=0.05,
        policy_kwargs={
            "max_classes": layout.max_classes,
            "max_pools": layout.max_pools,
            "width": config.width,
            "shape": config.shape,
            "acting": config.acting,
            "history": config.history,
        },
        seed=config.seed,
        device="cpu",
    )


def train(
    config: TrainConfig,
    folder: Path,
    resume: bool,
    on_progress: OnProgress,
    evaluate: Evaluate,
    starting: Starting | None = None,
    on_baseline: Callable[[int], None] | None = None,
    worlds: LevelledWorlds | None = None,
) -> LearnerPolicy:
    """Train until `config.steps`; the policy as it is at the end, its weights averaged.

    Args:
        on_progress: told the steps done and the latest figures.
        evaluate: scores a policy after so many steps, lower is better; it keeps the best one itself.
        starting: gives the policy its start.
        on_baseline: told how many worlds of the bank the first rule was tried in.
        worlds: those of `training_sources`, from an earlier run with the same worlds and rules: drawing them takes minutes.

    Raises:
        TrainError: the folder holds another run, or none to resume.
    """
    torch.set_num_threads(1)  # more threads only cost CPU on networks this small
    prepare(config, folder, resume)
    worlds = worlds or training_sources(config)
    multipliers = Multipliers() if config.constraint == "multipliers" else None
    env = ClusterVecEnv(training_env(config, worlds), multipliers, config.hold)
    model = new_model(config, env)
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    averaged = Averaged(policy_of(model).network, config.average)
    if resume:
        env.multipliers = load_state(model, folder, averaged)
        env.seed(config.seed + model.num_timesteps)  # worlds that were not met before the stop
    else:
        if starting:
            starting(policy_of(model))
            averaged = Averaged(policy_of(model).network, config.average)
        save_state(model, folder, averaged, multipliers)
        evaluate(policy_of(model), 0)
    if config.baseline and model.num_timesteps < config.steps:
        measure_baselines(config, worlds, on_baseline)
    callback = Progress(config, folder, worlds, env, averaged, on_progress, evaluate)
    left = config.steps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=callback, reset_num_timesteps=False)
        averaged.update(policy_of(model).network)
        with averaged.at_work(policy_of(model).network):
            evaluate(policy_of(model), model.num_timesteps)
    save_state(model, folder, averaged, env.multipliers)
    policy = policy_of(model)
    policy.network.load_state_dict(averaged.weights)
    return policy


def policy_of(model: PPO) -> LearnerPolicy:
    """The learner's policy, with its own type."""
    policy = model.policy
    assert isinstance(policy, LearnerPolicy)
    return policy
