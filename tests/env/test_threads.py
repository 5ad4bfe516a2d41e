"""The same seed gives the same run, bit for bit, on any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from poolpilot.env.scenario import load_scenario
from poolpilot.tests.training.clusters import tiny
from poolpilot.training.environments import vector_env_of
from poolpilot.training.worlds import TrainingWorlds

STEPS = 27
"""Two episodes and a bit, so that worlds are replaced on the way."""


def run(folder: Path, threads: int, seed: int = 3, clusters: int = 9) -> list[NDArray[np.generic]]:
    """Every number that comes out of a run under random actions."""
    worlds = TrainingWorlds([load_scenario(str(tiny(folder)))], bank=5, quickly=True)
    env = vector_env_of(worlds, clusters, seed, threads=threads)
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (STEPS, clusters, *env.layout.action_space.shape))
    seen: list[NDArray[np.generic]] = [env.reset().copy()]
    for action in actions:
        observation, rewards, done, info = env.step(action)
        seen += [observation.copy(), rewards, done, info.bill_usd, info.tally, info.terminal_observation]
        seen += [info.vetoes[code] for code in sorted(info.vetoes)]
    assert env.batch.clusters.threads == threads
    return seen


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_change_no_bit(tmp_path: Path, threads: int) -> None:
    alone, together = run(tmp_path, 1), run(tmp_path, threads)
    assert len(alone) == len(together)
    for mine, theirs in zip(alone, together, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    first, second = run(tmp_path, 1), run(tmp_path, 1, seed=4)
    assert not np.array_equal(first[0], second[0])
