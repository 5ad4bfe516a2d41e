"""What is told of a run while it goes on: TensorBoard's figures, the curriculum, states to resume from, evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from ..env.codec import WHOLE_OUTPUTS, trust_weights
from ..env.contract import FloatArray
from ..env.spaces import SpaceLayout
from ..env.window import FINISHED, LOST, MET
from .averaging import Averaged
from .config import TrainConfig
from .curriculum import LevelledWorlds, difficulty_after
from .learner import LearnerPolicy
from .multipliers import KINDS, of_kind
from .run_folder import save_state
from .vec_env import ClusterVecEnv

Evaluate = Callable[[LearnerPolicy, int], float]
"""Scores a policy after so many steps, lower is better; it keeps the best one itself."""
OnProgress = Callable[[int, dict[str, float]], None]
"""Told the steps done and the latest figures."""
CLASS_BENDS = ("headroom", "admit")
POOL_BENDS = ("replicas", "tilt", "batch_cap", "hold")
LOOKED_AT_EVERY = 8
"""Steps of a rollout between two whose outputs are averaged for the log."""


class Sums:
    """What happened in a rollout."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.ticks = 0
        self.reward = self.usd = self.reference_usd = 0.0
        self.met, self.done = np.zeros(len(KINDS)), np.zeros(len(KINDS))
        self.missed, self.asked = np.zeros(len(KINDS)), np.zeros(len(KINDS))
        self.charged = 0.0
        self.vetoes: dict[str, int] = {}

    def add(self, env: ClusterVecEnv) -> None:
        """Take in the last tick of every cluster."""
        step = env.last
        self.ticks += len(step.bill_usd)
        self.reward += float(env.rewards.sum())
        self.usd += float(step.bill_usd.sum())
        self.reference_usd += float(step.reference_usd.sum())
        kinds = of_kind(env.deferrable) & env.asked[:, None, :]
        tally = step.tally
        self.met += np.einsum("bkc,bc->k", kinds, tally[..., MET])
        self.done += np.einsum("bkc,bc->k", kinds, tally[..., FINISHED] + tally[..., LOST])
        self.missed += np.einsum("bkc,bc->k", kinds, step.missed)
        self.charged += float(step.charged.sum())
        self.asked += kinds.sum(axis=(0, 2))
        for code, hits in step.vetoes.items():
            self.vetoes[code] = self.vetoes.get(code, 0) + int(hits.sum())

    @property
    def allowances(self) -> FloatArray:
        """`[K]` allowances that a class of each kind missed a tick; NaN without such a class."""
        mean: FloatArray = np.divide(self.missed, self.asked, out=np.full(len(KINDS), np.nan), where=self.asked > 0)
        return mean

    def figures(self) -> dict[str, float]:
        """By name; kinds of class that no cluster has are left out."""
        figures = {
            "reward": self.reward / max(self.ticks, 1),
            "bill_of_reference": self.usd / max(self.reference_usd, 1e-9),
            "attainment": float(self.met.sum()) / max(float(self.done.sum()), 1.0),
            "allowances_charged": self.charged / max(self.ticks, 1),
        }
        for k, kind in enumerate(KINDS):
            if self.done[k] > 0:
                figures[f"attainment_{kind}"] = float(self.met[k] / self.done[k])
                figures[f"allowances_missed_{kind}"] = float(self.allowances[k])
        return figures


class Progress(BaseCallback):
    """Logs what matters, opens harder worlds, saves the state, and asks for an evaluation every so often."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        worlds: LevelledWorlds,
        env: ClusterVecEnv,
        averaged: Averaged,
        on_progress: OnProgress,
        evaluate: Evaluate,
    ) -> None:
        """`env` is the one at the bottom, whatever wraps it; `worlds` is where its episodes come from; `averaged` is what
        is scored."""
        super().__init__()
        self.config, self.folder, self.worlds, self.env = config, folder, worlds, env
        self.averaged = averaged
        self.on_progress, self.evaluate = on_progress, evaluate
        self.before = 0
        """Steps at the last update."""
        self.started_s, self.started_at = time.monotonic(), 0
        self.sums = Sums()

    @property
    def learner(self) -> LearnerPolicy:
        """The policy that learns."""
        policy = self.model.policy
        assert isinstance(policy, LearnerPolicy)
        return policy

    def _on_training_start(self) -> None:
        self.started_s, self.started_at = time.monotonic(), self.num_timesteps
        self.before = self.num_timesteps
        self.env.on_tick = lambda env: self.sums.add(env)

    def _on_rollout_start(self) -> None:
        self.worlds.hardest = difficulty_after(self.num_timesteps, self.config.curriculum_steps)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        assert isinstance(model, PPO)
        self.averaged.update(self.learner.network)
        self.learner.critic_only = self.num_timesteps <= self.config.critic_first
        sums, self.sums = self.sums, Sums()
        figures = sums.figures()
        elapsed_s = max(time.monotonic() - self.started_s, 1e-9)
        figures["steps_per_s"] = (self.num_timesteps - self.started_at) / elapsed_s
        figures["difficulty"] = self.worlds.hardest
        for name, value in figures.items():
            self.logger.record(f"cluster/{name}", value)
        for code, hits in sums.vetoes.items():
            self.logger.record(f"vetoes/{code}", hits / sums.ticks)
        for name, value in bends_of(model.rollout_buffer.actions, model.rollout_buffer.observations, self.learner):
            self.logger.record(name, value)
        if self.env.multipliers:
            self.env.multipliers.update(sums.allowances)
            for kind, value in zip(KINDS, self.env.multipliers.values, strict=True):
                self.logger.record(f"multipliers/{kind}", float(value))
        save_state(model, self.folder, self.averaged, self.env.multipliers)
        every = self.config.evaluate_every
        # By steps done, whenever the run was stopped and resumed; the end of a run has an evaluation of its own.
        if self.num_timesteps // every > self.before // every and self.num_timesteps < self.config.steps:
            with self.averaged.at_work(self.learner.network):
                figures["loss"] = self.evaluate(self.learner, self.num_timesteps)
            self.logger.record("evaluation/loss", figures["loss"])
        self.before = self.num_timesteps
        self.on_progress(self.num_timesteps, figures)


def bends_of(actions: Any, observations: Any, learner: LearnerPolicy) -> list[tuple[str, float]]:
    """Mean outputs over classes and pools that are there, and mean weights of the blended rules, by name.

    Args:
        actions: `[T, B, A]` of a rollout, explored ones.
        observations: `[T, B, N]`
    """
    import torch

    some = slice(None, None, LOOKED_AT_EVERY)
    flat = actions[some].reshape(-1, actions.shape[-1])
    seen = torch.as_tensor(observations[some].reshape(len(flat), -1))
    class_mask, pool_mask = (mask.numpy() for mask in learner.layout.parts(seen)[3:])
    layout = SpaceLayout(learner.layout.max_classes, learner.layout.max_pools)
    outputs = layout.outputs(np.clip(flat, -1.0, 1.0))
    named = []
    for names, rows, mask in ((CLASS_BENDS, outputs.classes, class_mask), (POOL_BENDS, outputs.pools, pool_mask)):
        means = (rows * mask[..., None]).sum(axis=(0, 1)) / max(float(mask.sum()), 1.0)
        named += [(f"bends/{name}", float(mean)) for name, mean in zip(names, means, strict=True)]
    if learner.acting == "blend":
        weights = trust_weights(outputs.whole).mean(axis=0)
        named += [(f"blend/rule_{k}", float(weight)) for k, weight in enumerate(weights)]
        assert len(weights) == WHOLE_OUTPUTS + 1
    return named
