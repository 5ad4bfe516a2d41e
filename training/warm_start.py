"""Fits a policy to what was best in hindsight in many worlds, before its first step of PPO."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..agents.blend import portfolio_as_json
from ..env.batch import Episode
from ..env.cluster_env import EpisodeSource, VectorClusterEnv
from ..env.codec import BLENDED, observation_schema
from ..env.contract import FloatArray
from ..env.spaces import SpaceLayout
from .config import TrainConfig
from .curriculum import LevelledWorlds
from .hindsight import HEADROOMS, EnvMaker, Hindsight, in_turn, look_back
from .imitation import HELD_OUT_PRICES, HELD_OUT_SHARE, NOISE, imitate
from .learner import LearnerPolicy
from .networks import Chooser
from .priced import at_price
from .run_folder import IMITATION
from .setting import still_env, training_sources

IMITATION_SEED: Final = 3_000_000
"""Worlds of seeds from here on are looked back on."""


def warm_start(
    policy: LearnerPolicy,
    config: TrainConfig,
    worlds: LevelledWorlds,
    cache: Path | None = None,
    on_world: Callable[[int], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Look back on `config.imitate` worlds, fit the policy's network to them, and try it on those held out.

    Args:
        worlds: where the worlds come from.
        cache: a folder to keep what was lived through in, for other runs with the same worlds and rules.
        on_world: told how many worlds were looked back on.
        on_epoch: told the epoch and the loss on the worlds held out.

    Returns:
        For the card: `imitation.Imitated`, and by price what the policy, the first rule and the best constant come to
        on the held-out worlds when they are lived through again.
    """
    layout = SpaceLayout(policy.layout.max_classes, policy.layout.max_pools)
    episodes = [worlds(IMITATION_SEED + i) for i in range(config.imitate)]

    def env_of(draw: EpisodeSource, n_clusters: int) -> VectorClusterEnv:
        return still_env(draw, n_clusters, worlds.tick_s, config.portfolio)

    def output_of(rule: int, headroom: float) -> NDArray[np.float32]:
        return constant_output(layout, rule, headroom)

    hindsight = _kept(cache, config) or look_back(episodes, BLENDED, output_of, env_of, on_world=on_world)
    _keep(cache, config, hindsight)
    owned = [
        replace(e, reference_usd=e.reference_usd * own) for e, own in zip(episodes, hindsight.neutral_bill, strict=True)
    ]
    hindsight = hindsight.by_own_bill()

    def priced(seen: NDArray[np.float32], prices: FloatArray) -> NDArray[np.float32]:
        return at_price(seen, prices, layout)

    def answer(seen: Tensor) -> tuple[Tensor, Tensor]:
        return policy.answer(seen.repeat(1, policy.history))

    fit = imitate(
        policy.network,
        answer,
        lambda entries: Chooser(layout, entries),
        priced,
        lambda seen, rng: blurred(seen, layout, rng),
        hindsight,
        config.seed,
        on_epoch=on_epoch,
    )
    held_out = round(HELD_OUT_SHARE * len(episodes))
    return {**fit.as_json(), "lived_again": _lived_again(policy, owned[-held_out:], hindsight, env_of)}


def constant_output(layout: SpaceLayout, rule: int, headroom: float) -> NDArray[np.float32]:
    """`[A]` what trusts one rule alone, at a head-room output for every class."""
    output = np.zeros(sum(layout.action_sizes), dtype=np.float32)
    of_class, _, of_whole = layout.action_sizes
    output[: of_class : of_class // layout.max_classes] = headroom
    if rule:
        output[len(output) - of_whole + rule - 1] = 1.0
    return output


def blurred(seen: NDArray[np.float32], layout: SpaceLayout, rng: np.random.Generator) -> NDArray[np.float32]:
    """`[B, N]` observations with noise on every feature that is known; masks and padding stay."""
    features = sum(layout.sizes[:3])
    noisy = seen.copy()
    noise = rng.normal(0.0, NOISE, (len(seen), features)).astype(np.float32)
    noisy[:, :features] += noise * (seen[:, :features] != 0.0)
    return noisy


def _lived_again(
    policy: LearnerPolicy, episodes: Sequence[Episode], hindsight: Hindsight, env_of: EnvMaker
) -> list[dict[str, float]]:
    """Objective by price, on worlds that the fit was not made on: of the policy in fact, of the others by the table."""
    fitted_on, judged_on = (hindsight.of(part) for part in (slice(0, -len(episodes)), slice(-len(episodes), None)))
    neutral = int(np.argmin(np.abs(hindsight.headrooms)))
    seats = [replace(episode, miss_price=price) for price in HELD_OUT_PRICES for episode in episodes]
    costs = _objective(policy, env_of(in_turn(seats), len(seats))).reshape(len(HELD_OUT_PRICES), -1)
    rows = []
    for price, cost in zip(HELD_OUT_PRICES, costs, strict=True):
        rule, headroom = fitted_on.best_constant(price)
        table = judged_on.objective(np.array([price]))[..., 0]
        rows.append(
            {
                "miss_price": price,
                "imitated": float(cost.mean()),
                "neutral": float(table[:, 0, neutral].mean()),
                "best_constant": float(table[:, rule, headroom].mean()),
                "hindsight": float(table.min(axis=(1, 2)).mean()),
            }
        )
    return rows


def _objective(policy: LearnerPolicy, env: VectorClusterEnv) -> FloatArray:
    """`[B]` a tick's mean cost under the policy."""
    seen = env.reset()
    frames = np.zeros((len(seen), (policy.history - 1) * seen.shape[1]), dtype=np.float32)
    cost, done, ticks = np.zeros(len(seen)), np.zeros(len(seen), dtype=np.bool_), 0
    while not done.all():
        stacked = np.concatenate([frames, seen], axis=1)
        frames = stacked[:, seen.shape[1] :]
        with torch.no_grad():
            actions = policy.forward(torch.as_tensor(stacked), deterministic=True)[0].numpy()
        seen, _, done, step = env.step(actions)
        cost += step.bill_usd / step.reference_usd + env.batch.miss_price * step.charged.sum(axis=-1)
        ticks += 1
    return cost / ticks


def _cache_path(cache: Path, config: TrainConfig) -> Path:
    """Named by all that the table depends on, the code of the simulator apart."""
    meaning = [config.imitate, config.scenarios, HEADROOMS, portfolio_as_json(config.portfolio), observation_schema()]
    return cache / f"hindsight-{hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:12]}.npz"


def _kept(cache: Path | None, config: TrainConfig) -> Hindsight | None:
    if cache is None or not _cache_path(cache, config).is_file():
        return None
    with np.load(_cache_path(cache, config), allow_pickle=False) as kept:
        return Hindsight(kept["headrooms"], kept["bill"], kept["missed"], kept["seen"])


def _keep(cache: Path | None, config: TrainConfig, hindsight: Hindsight) -> None:
    if cache is not None and not _cache_path(cache, config).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            _cache_path(cache, config),
            headrooms=hindsight.headrooms,
            bill=hindsight.bill,
            missed=hindsight.missed,
            seen=hindsight.seen,
        )


def imitating(
    config: TrainConfig,
    folder: Path,
    keep: Callable[[dict[str, Any]], None],
    cache: Path | None = None,
    on_world: Callable[[int], None] | None = None,
) -> Callable[[LearnerPolicy], None]:
    """`warm_start` for `ppo.train`: its result goes to `keep`, and to `imitation.json` in the run's folder."""

    def fit(policy: LearnerPolicy) -> None:
        result = warm_start(policy, config, training_sources(config), cache, on_world)
        (folder / IMITATION).write_text(json.dumps(result, indent=2) + "\n")
        keep(result)

    return fit
