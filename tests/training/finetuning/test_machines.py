"""How machines come and go, read from what was ready and starting at each tick."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from poolpilot.env.contract import FloatArray
from poolpilot.telemetry.record import Episode
from poolpilot.training.finetuning.machines import start_fracs, start_seconds

from .worlds import believed, record_of

TICK_S = 10.0


@cache
def short() -> Episode:
    (episode,) = record_of(believed(600.0), seed=1).episodes
    return episode


def having(ready: list[float], starting: list[float]) -> Episode:
    """An episode whose second pool had these replicas, and whose first never moved."""
    snapshot = replace(short().snapshot, pools=short().snapshot.pools.copy())
    for name, column in (("ready", ready), ("starting", starting)):
        rows: FloatArray = getattr(snapshot, name)
        rows[:, 0], rows[:, 1] = 1.0 if name == "ready" else 0.0, column[-1]
        rows[: len(column), 1] = column
    snapshot.asleep[:] = 0.0
    in_force = replace(short().in_force, replicas=snapshot.ready + snapshot.starting)
    return replace(short(), snapshot=snapshot, in_force=in_force)


@pytest.mark.parametrize(
    ("ready", "starting", "took"),
    [
        pytest.param([1, 1, 1, 1, 2], [0, 1, 1, 1, 0], {0: 35.0}, id="one start"),
        pytest.param([1, 1, 1, 2, 2, 3], [0, 1, 2, 1, 1, 0], {0: 25.0, 1: 35.0}, id="two that overlap, in their order"),
        pytest.param([1, 1, 2, 2, 3], [0, 2, 1, 1, 0], {0: 25.0}, id="two of one action, on their mean"),
        pytest.param([1, 2], [0, 0], {0: 5.0}, id="within a tick"),
        pytest.param([1, 1, 1, 2], [1, 1, 1, 0], {0: 25.0}, id="under way when the record begins"),
        pytest.param([1, 1, 1, 1], [0, 1, 1, 0], {}, id="given up"),
        pytest.param([1, 1, 1, 1, 2], [0, 1, 2, 1, 0], {0: 35.0}, id="the last one given up"),
        pytest.param([1, np.nan, 1, 1, 2], [0, np.nan, 1, 1, 0], {1: 25.0}, id="unknown for a tick"),
    ],
)
def test_starts_are_told_from_what_was_ready_and_starting(
    ready: list[float], starting: list[float], took: dict[int, float]
) -> None:
    seconds, count = start_seconds(having(ready, starting))
    found = {t: float(seconds[t, 1]) for t in np.flatnonzero(count[:, 1] > 0)}
    assert found == pytest.approx(took)
    assert not count[:, 0].any()


def test_starts_are_told_in_parts_of_their_pools_mean_in_all_episodes() -> None:
    a, b = having([1, 1, 1, 1, 2], [0, 1, 1, 1, 0]), having([1, 1, 2], [0, 1, 0])
    of_a, of_b = start_fracs([a, b])
    assert (of_a[0, 1], of_b[0, 1]) == (pytest.approx(35.0 / 25.0), pytest.approx(15.0 / 25.0))
    assert (of_a[:, 0] == 1.0).all()
    assert (of_a[1:, 1] == 1.0).all()
