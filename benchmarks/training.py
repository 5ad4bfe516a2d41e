"""Environment steps per second of a whole PPO training (stable-baselines3), and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from poolpilot.env.cluster_env import VectorClusterEnv
from poolpilot.env.scenario import load_scenario
from poolpilot.env.spaces import SpaceLayout
from poolpilot.env.window import ARRIVED
from poolpilot.training.config import TrainConfig
from poolpilot.training.environments import BANK, vector_env_of
from poolpilot.training.ppo import new_model
from poolpilot.training.vec_env import ClusterVecEnv
from poolpilot.training.worlds import TrainingWorlds

from .timing import peak_mib

SCENARIO = "mixed-chat"
FLAT: dict[str, Any] = {
    "n_steps": 16,
    "batch_size": 4096,
    "n_epochs": 4,
    "learning_rate": 3e-4,
    "gamma": 0.97,
    "gae_lambda": 0.9,
}
"""Large minibatches: at stable-baselines3's usual 64 the optimiser's calls cost many times what the numbers do."""


def timed(network: str, clusters: int, tick_s: float, steps: int, threads: int | None) -> dict[str, Any]:
    """`network` is "flat" (MlpPolicy, two layers of 64, observation of just this scenario) or "set" (as shipped)."""
    torch.set_num_threads(1)
    scenario = load_scenario(SCENARIO).model_copy(update={"tick_s": tick_s})
    worlds = TrainingWorlds([scenario], bank=BANK, quickly=True)
    layout = SpaceLayout(len(scenario.classes), len(scenario.pools)) if network == "flat" else SpaceLayout()
    env = ClusterVecEnv(vector_env_of(worlds, clusters, seed=0, layout=layout, threads=threads))
    model = _flat(env) if network == "flat" else new_model(TrainConfig((SCENARIO,), clusters=clusters), env)
    model.learn(1)  # compiles
    clock = _Clock()
    _watch(clock, env, model)
    parts = {part: _timed_part(clock, model, steps, worlds) for part in ("first", "later")}
    return {"network": _described(model, env.clusters), "tick_s": tick_s, **parts, "peak_mib": peak_mib()}


def _timed_part(clock: _Clock, model: PPO, steps: int, worlds: TrainingWorlds) -> dict[str, Any]:
    """Go on learning for about so many steps."""
    counted, before, drawn = _Requests(), dict(clock.seconds), len(worlds.drawn)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    model.learn(steps, callback=counted, reset_num_timesteps=False)
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    inside = {name: (seconds - before[name]) / wall_s for name, seconds in clock.seconds.items()}
    own = inside["simulator"] + inside["planning"] + inside["episodes"]
    return {
        "steps": counted.steps,
        "worlds_drawn": len(worlds.drawn) - drawn,
        "steps_per_s": counted.steps / wall_s,
        "steps_per_cpu_s": counted.steps / cpu_s,
        "requests_per_step": counted.requests / counted.steps,
        "share": {
            "simulator": inside["simulator"],
            "planning": inside["planning"],
            "new episodes": inside["episodes"],
            "codec, rule, guard": inside["step"] - own,
            "policy and buffer": inside["collect"] - inside["step"],
            "learning": inside["learn"],
        },
    }


def _flat(env: ClusterVecEnv) -> PPO:
    return PPO("MlpPolicy", env, seed=0, device="cpu", **FLAT)


def _described(model: PPO, env: VectorClusterEnv) -> str:
    weights = sum(p.numel() for p in model.policy.parameters())
    sizes = f"{sum(env.layout.sizes)} -> {env.layout.action_space.shape[0]}"
    return (
        f"{type(model.policy).__name__} {sizes}, {weights:,} weights; {model.n_steps} steps x {model.n_envs}, "
        f"minibatch {model.batch_size}, {model.n_epochs} epochs"
    )


class _Requests(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.requests = 0, 0.0

    def _on_step(self) -> bool:
        env = self.training_env
        assert isinstance(env, ClusterVecEnv)
        self.steps += env.num_envs
        self.requests += float(env.last.tally[..., ARRIVED].sum())
        return True


class _Clock:
    """Seconds spent inside named calls; two reads of the clock a call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)
        self.seconds.setdefault(name, 0.0)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - before

        setattr(owner, method, watched)


def _watch(clock: _Clock, env: ClusterVecEnv, model: PPO) -> None:
    batch = env.clusters.batch
    clock.watch(batch.clusters, "advance", "simulator")
    clock.watch(batch.clusters, "snapshot", "simulator")
    clock.watch(batch.planning, "again", "planning")
    clock.watch(env.clusters, "start_again", "episodes")
    clock.watch(env, "step_wait", "step")
    clock.watch(model, "collect_rollouts", "collect")
    clock.watch(model, "train", "learn")
