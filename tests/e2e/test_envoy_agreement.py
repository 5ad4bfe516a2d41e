"""Routing in the simulator is Envoy's: shares, queueing and latencies of one scenario, through both."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from .envoy_twin import Kill, Measures, a_scenario, as_table, its_workload, side_by_side, simulated, through_envoy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WORLDS = 64
SPEED_UP = 4.0
TOLERATED_FRAC = 0.05
"""Of the simulator's mean; besides, coin tosses differ: Envoy's run is one more draw from the simulated ones."""
TOLERATED_SD = 4.5
HTTP_S = 0.01
"""Wall seconds that HTTP, an event loop's turn and a busy machine may add to a time."""


def _disagreements(live: Measures, worlds: Sequence[Measures]) -> list[str]:
    rows = side_by_side(live, worlds)
    print(as_table(rows))
    found = []
    for row in rows:
        theirs = np.array([world.values[row["figure"]] for world in worlds])
        slack = TOLERATED_FRAC * theirs.mean() + TOLERATED_SD * theirs.std()
        if row["figure"].endswith(", s"):
            slack += HTTP_S * SPEED_UP
        if "waiting" in row["figure"]:
            slack += HTTP_S * SPEED_UP  # so long a request stands in line more, at about one request a second
        if abs(row["envoy"] - row["mean"]) > slack:
            found.append(f"{row['figure']}: Envoy {row['envoy']:.4g}, simulator {row['mean']:.4g} +- {slack:.2g}")
    return found


async def test_shares_queueing_and_latencies_are_those_of_the_simulator(tmp_path: Path) -> None:
    scenario, file = a_scenario(tmp_path, duration_s=140.0, chat_per_s=5.0)
    workload = its_workload(scenario)
    worlds = simulated(scenario, workload, WORLDS)
    live = await through_envoy(scenario, file, workload, tmp_path, SPEED_UP)
    assert not _disagreements(live, worlds)
    assert live.values["chat: lost"] == live.values["batch: lost"] == 0
    # Two replicas drawn with replacement: the less loaded one is chosen unless the other is drawn twice. So in the
    # simulator (tests/env/sim/test_routing.py), and so here, within what a binomial allows.
    unlike = live.values["unlike choices"]
    assert unlike > 300
    assert abs(live.values["less loaded"] / unlike - 0.75) < TOLERATED_SD * np.sqrt(0.75 * 0.25 / unlike)


async def test_dead_replicas_cost_what_they_cost_in_the_simulator(tmp_path: Path) -> None:
    """First one of two dies, then the pool's last: its share spills over; streams break, plain answers do not."""
    scenario, file = a_scenario(tmp_path, duration_s=100.0, chat_per_s=2.5)
    workload = its_workload(scenario)
    kills = [Kill("near", 30.25), Kill("near", 60.25)]
    worlds = simulated(scenario, workload, WORLDS, kills)
    live = await through_envoy(scenario, file, workload, tmp_path, SPEED_UP, kills)
    assert not _disagreements(live, worlds)
    lost = [r for r in live.records if r.outcome != "served"]
    assert all(r.streamed for r in lost), [r.detail for r in lost]
    assert len(live.records) - len(lost) == live.values["chat: finished"] + live.values["batch: finished"]
    assert max(world.values["chat: lost"] for world in worlds) > 0, "nobody was hit: the comparison says nothing"
