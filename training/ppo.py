"""Trains the policy with PPO (stable-baselines3) on the vectorised clusters.

A run folder holds the arguments, TensorBoard logs, the state to resume from, and the best checkpoint so far. No
pickles: weights and optimiser state are safetensors, counters are JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from ..agents.ppo.policy import MaskedSetPolicy
from ..env.window import FINISHED, LOST, MET
from .environments import make_vector_env
from .vec_env import REWARD_SCALE, ClusterVecEnv

STATE_WEIGHTS = "state.safetensors"
STATE_COUNTERS = "state.json"
ARGUMENTS = "arguments.json"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    scenarios: tuple[str, ...]
    """Shipped names or paths; worlds are drawn from them and varied."""
    steps: int = 400_000
    """Environment steps over all clusters."""
    seed: int = 0
    """Seeds worlds, network and exploration."""
    clusters: int = 32
    """Clusters stepped side by side."""
    ticks_per_update: int = 64
    """Steps of each cluster between two updates."""
    batch_size: int = 512
    epochs: int = 6
    learning_rate: float = 5e-4
    gamma: float = 0.97
    """Discount a tick: at 10 s ticks a horizon of about 5 minutes, which is as long as a decision's effects last."""
    gae_lambda: float = 0.9
    entropy: float = 0.0
    width: int = 32
    """Width of the network's embeddings."""
    evaluate_every: int = 50_000
    """Steps between two evaluations on worlds that are not trained on."""


class TrainError(ValueError):
    """A run cannot be started or resumed; the message is one line."""


def new_model(config: TrainConfig, env: ClusterVecEnv) -> PPO:
    """The learner before its first step."""
    layout = env.clusters.layout
    return PPO(
        MaskedSetPolicy,
        env,
        learning_rate=config.learning_rate,
        n_steps=config.ticks_per_update,
        batch_size=min(config.batch_size, config.clusters * config.ticks_per_update),
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        ent_coef=config.entropy,
        max_grad_norm=0.5,
        target_kl=0.05,
        policy_kwargs={"max_classes": layout.max_classes, "max_pools": layout.max_pools, "width": config.width},
        seed=config.seed,
        device="cpu",
    )


def train(
    config: TrainConfig,
    folder: Path,
    resume: bool,
    on_progress: Callable[[int, dict[str, float]], None],
    evaluate: Callable[[MaskedSetPolicy, int], float],
) -> MaskedSetPolicy:
    """Train until `config.steps`; the policy as it is at the end.

    Args:
        on_progress: told the steps done and the latest figures (reward, bill over reference, attainment).
        evaluate: scores a policy after so many steps, higher is better; it keeps the best one itself.

    Raises:
        TrainError: the folder holds another run, or none to resume.
    """
    torch.set_num_threads(1)  # more threads only cost CPU on networks this small
    _prepare(config, folder, resume)
    env = ClusterVecEnv(make_vector_env(config.scenarios, config.clusters, config.seed))
    model = new_model(config, env)
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    if resume:
        load_state(model, folder)
        env.seed(config.seed + model.num_timesteps)  # worlds that were not met before the stop
    callback = _Progress(config, folder, on_progress, evaluate)
    left = config.steps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=callback, reset_num_timesteps=False)
    save_state(model, folder)
    return policy_of(model)


def policy_of(model: PPO) -> MaskedSetPolicy:
    """The learner's policy, with its own type."""
    policy = model.policy
    assert isinstance(policy, MaskedSetPolicy)
    return policy


def save_state(model: PPO, folder: Path) -> None:
    """Write what resuming needs; a cut-off write leaves the older state whole."""
    tensors = {f"policy.{k}": v.detach().clone().contiguous() for k, v in model.policy.state_dict().items()}
    steps: dict[str, float] = {}
    for i, state in model.policy.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim:
                tensors[f"optimizer.{i}.{name}"] = value.contiguous()
            else:
                steps[f"{i}.{name}"] = float(value)
    weights = folder / (STATE_WEIGHTS + ".part")
    save_file(tensors, weights)
    counters = folder / (STATE_COUNTERS + ".part")
    counters.write_text(json.dumps({"timesteps": model.num_timesteps, "optimizer": steps}))
    weights.replace(folder / STATE_WEIGHTS)
    counters.replace(folder / STATE_COUNTERS)


def load_state(model: PPO, folder: Path) -> None:
    """Continue where `save_state` left off; TrainError if the folder's state does not fit the network."""
    try:
        tensors = load_file(folder / STATE_WEIGHTS)
        counters = json.loads((folder / STATE_COUNTERS).read_text())
        own = {k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")}
        model.policy.load_state_dict(own)
        _load_optimizer(model.policy.optimizer, tensors, counters["optimizer"])
        model.num_timesteps = int(counters["timesteps"])
    except (OSError, KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
        raise TrainError(f"{folder}: cannot resume: {str(error).splitlines()[0][:200]}") from None


def _load_optimizer(optimizer: Any, tensors: dict[str, torch.Tensor], scalars: dict[str, float]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = tensor
    for key, number in scalars.items():
        i, name = key.split(".")
        state.setdefault(int(i), {})[name] = torch.tensor(number)
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _prepare(config: TrainConfig, folder: Path, resume: bool) -> None:
    """Make the run folder, or check that it holds this very run."""
    arguments = folder / ARGUMENTS
    if resume:
        if not (folder / STATE_COUNTERS).is_file():
            raise TrainError(f"{folder}: nothing to resume there; start without --resume")
        try:
            before = dict(json.loads(arguments.read_text()))
        except (OSError, ValueError) as error:
            raise TrainError(
                f"{arguments}: cannot be read ({error}); wanted the arguments of the run to resume"
            ) from None
        after = json.loads(json.dumps(asdict(config)))
        differs = [k for k in after if k != "steps" and before.get(k) != after[k]]
        if differs:
            raise TrainError(f"{folder}: {differs[0]} was {before.get(differs[0])!r}, now {after[differs[0]]!r}")
    elif arguments.exists():
        raise TrainError(f"{folder}: holds a run already; continue it with --resume, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    arguments.write_text(json.dumps(asdict(config), indent=2) + "\n")


class _Progress(BaseCallback):
    """Logs what matters, saves the state, and asks for an evaluation every so often."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        on_progress: Callable[[int, dict[str, float]], None],
        evaluate: Callable[[MaskedSetPolicy, int], float],
    ) -> None:
        super().__init__()
        self.config, self.folder = config, folder
        self.on_progress, self.evaluate = on_progress, evaluate
        self.evaluated_at = -1
        self.started_s = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self.usd = self.reference_usd = 0.0
        self.met = self.done = 0.0
        self.vetoes: dict[str, int] = {}

    def _on_step(self) -> bool:
        env = self.training_env
        assert isinstance(env, ClusterVecEnv)
        step = env.last
        self.usd += float(step.bill_usd.sum())
        self.reference_usd += float(step.reference_usd.sum())
        self.met += float(step.tally[..., MET].sum())
        self.done += float((step.tally[..., FINISHED] + step.tally[..., LOST]).sum())
        for code, hits in step.vetoes.items():
            self.vetoes[code] = self.vetoes.get(code, 0) + int(hits.sum())
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        assert isinstance(model, PPO)
        rewards = model.rollout_buffer.rewards
        ticks = rewards.size
        figures = {
            "reward": float(np.mean(rewards)) / REWARD_SCALE,
            "bill_of_reference": self.usd / max(self.reference_usd, 1e-9),
            "attainment": self.met / max(self.done, 1.0),
            "steps_per_s": self.num_timesteps / max(time.monotonic() - self.started_s, 1e-9),
        }
        for name, value in figures.items():
            self.logger.record(f"cluster/{name}", value)
        for code, hits in self.vetoes.items():
            self.logger.record(f"vetoes/{code}", hits / ticks)
        self._clear()
        if self.evaluated_at < 0 or self.num_timesteps - self.evaluated_at >= self.config.evaluate_every:
            self.evaluated_at = self.num_timesteps
            save_state(model, self.folder)
            figures["evaluation"] = self.evaluate(policy_of(model), self.num_timesteps)
            self.logger.record("evaluation/score", figures["evaluation"])
        self.on_progress(self.num_timesteps, figures)
