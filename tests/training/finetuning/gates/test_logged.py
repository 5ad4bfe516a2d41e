"""How wide the noise of a log was, output by output: the density that is computed from it is the one that was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.agents.exploring import drawn_noise, log_probability, noise_in
from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES
from poolpilot.env.contract import Cluster
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.finetuning.gates.logged import deviations
from poolpilot.training.finetuning.live import Transitions

from .judged import a_scenario

LAYOUT = SpaceLayout()


def seen_of(cluster: Cluster) -> np.ndarray:
    """`[1, N]` an observation of which only masks and which classes may wait matter."""
    c, p = len(cluster.class_names), len(cluster.pool_names)
    classes = np.zeros((LAYOUT.max_classes, len(CLASS_FEATURES)))
    classes[:c, CLASS_FEATURES.index("deferrable")] = cluster.targets.deferrable
    parts = (
        classes,
        np.zeros((LAYOUT.max_pools, len(POOL_FEATURES))),
        np.zeros(len(WHOLE_FEATURES)),
        np.arange(LAYOUT.max_classes) < c,
        np.arange(LAYOUT.max_pools) < p,
    )
    return np.concatenate([part.ravel() for part in parts])[None].astype(np.float32)


@pytest.mark.parametrize("spread", [1.0, 0.3])
def test_deviations_give_the_density_that_noise_was_drawn_with(spread: float) -> None:
    cluster = a_scenario().cluster()
    noise = noise_in(drawn_noise(cluster, spread, np.random.default_rng(0)))
    assert noise is not None
    classes = np.pad(noise.classes, ((0, LAYOUT.max_classes - len(noise.classes)), (0, 0)))
    pools = np.pad(noise.pools, ((0, LAYOUT.max_pools - len(noise.pools)), (0, 0)))
    flat = np.concatenate([classes.ravel(), pools.ravel(), noise.whole])
    one, yes = np.ones(1), np.ones(1, dtype=np.bool_)
    steps = Transitions(
        seen_of(cluster), flat[None].astype(np.float32), yes, one, spread * one, one, yes, one
    )  # fmt: skip
    log_std = deviations(steps)[0]
    assert log_std.shape == (sum(LAYOUT.action_sizes),)
    live = np.isfinite(log_std)
    assert not flat[~live].any()
    each = -0.5 * (flat[live] / np.exp(log_std[live])) ** 2 - log_std[live] - 0.5 * np.log(2.0 * np.pi)
    assert each.sum() == pytest.approx(log_probability(noise, spread, cluster))
