"""Noise on a network's answer: as a policy is handed it, and how likely it was.

Noise comes to a policy in its memory, so that a decision stays a function of snapshot, plan and memory: a recorded one
decides the same again. Who may explore, when and how far is not the policy's business (`controller.exploration`).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ..env.codec import CLASS_OUTPUTS, POOL_OUTPUTS, WHOLE_OUTPUTS
from ..env.contract import Answer, BoolArray, Cluster, FloatArray, Memory

NOISE: Final = "noise."
"""What the names of noise in a memory begin with."""
SPREAD: Final = NOISE + "spread"
DRAWN: Final = NOISE + "drawn"
"""Whether noise is new; held over from the tick before, nothing about it is left to chance."""
LOG_STD_START: Final = -1.6
POOL_LOG_STD_START: Final = -2.3
"""Exploration of exp(-1.6) = 0.2 of a full bend where training begins, a spread of 1; of 0.1 for outputs of pools, which are
many and each drawn on its own: shaken further, counts go up and down for nothing, and what is learned is to bear that."""
_PARTS: Final = ("classes", "pools", "whole")


def drawn_noise(cluster: Cluster, spread: float, rng: np.random.Generator) -> Memory:
    """Noise for one cluster, to be merged into the policy's memory."""
    live = live_outputs(cluster)
    stds = _stds(spread)
    noise = {NOISE + n: rng.normal(0.0, stds[n], live[n].shape) * live[n] for n in _PARTS}
    return {**noise, SPREAD: np.array(spread), DRAWN: np.array(1.0)}


def held_over(noise: Memory) -> Memory:
    """The same noise at a later tick."""
    return {**noise, DRAWN: np.array(0.0)}


def noise_in(memory: Memory) -> Answer | None:
    """The noise that a memory holds; None if it holds none."""
    if SPREAD not in memory:
        return None
    by_class, by_pool, whole = (np.asarray(memory[NOISE + name]) for name in _PARTS)
    return Answer(by_class, by_pool, whole)


def without_noise(memory: Memory) -> Memory:
    """The memory of a policy that does not explore."""
    return {name: value for name, value in memory.items() if not name.startswith(NOISE)}


def log_probability(noise: Answer, spread: float, cluster: Cluster) -> float:
    """Natural logarithm of the density at which noise is drawn, over the outputs that mean something."""
    live, stds = live_outputs(cluster), _stds(spread)
    total = 0.0
    for name in _PARTS:
        std = stds[name]
        each = -0.5 * (getattr(noise, name) / std) ** 2 - math.log(std) - 0.5 * math.log(2.0 * math.pi)
        total += float((each * live[name]).sum())
    return total


def live_outputs(cluster: Cluster) -> dict[str, FloatArray]:
    """1 for each output that means something, by part of the answer: admission does for deferrable classes only."""
    there: BoolArray = cluster.class_mask
    of_class = np.zeros((*there.shape, CLASS_OUTPUTS))
    of_class[..., 0], of_class[..., 1] = there, there & cluster.targets.deferrable
    of_pool = np.repeat(cluster.pool_mask[..., None].astype(np.float64), POOL_OUTPUTS, axis=-1)
    return {"classes": of_class, "pools": of_pool, "whole": np.ones((*there.shape[:-1], WHOLE_OUTPUTS))}


def _stds(spread: float) -> dict[str, float]:
    wide, narrow = spread * math.exp(LOG_STD_START), spread * math.exp(POOL_LOG_STD_START)
    return {"classes": wide, "pools": narrow, "whole": wide}
