"""How wide the noise of a log was, output by output: the density that is computed from it is the one that was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from poolpilot.agents.exploring import drawn_noise, log_probability, noise_in
from poolpilot.env.spaces import SpaceLayout
from poolpilot.training.finetuning.gates.logged import deviations

from .judged import a_scenario


@pytest.mark.parametrize("spread", [1.0, 0.3])
def test_deviations_give_the_density_that_noise_was_drawn_with(spread: float) -> None:
    cluster = a_scenario().cluster()
    noise = noise_in(drawn_noise(cluster, spread, np.random.default_rng(0)))
    assert noise is not None
    layout = SpaceLayout()
    classes = np.pad(noise.classes, ((0, layout.max_classes - len(noise.classes)), (0, 0)))
    pools = np.pad(noise.pools, ((0, layout.max_pools - len(noise.pools)), (0, 0)))
    flat = np.concatenate([classes.ravel(), pools.ravel(), noise.whole])
    log_std = deviations(cluster) + np.log(spread)
    assert log_std.shape == (sum(layout.action_sizes),)
    live = np.isfinite(log_std)
    assert not flat[~live].any()
    each = -0.5 * (flat[live] / np.exp(log_std[live])) ** 2 - log_std[live] - 0.5 * np.log(2.0 * np.pi)
    assert each.sum() == pytest.approx(log_probability(noise, spread, cluster))
