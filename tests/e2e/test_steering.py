"""The sidecar follows a hand-made sequence of decisions under load: weights move, replicas drain, pools empty."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from poolpilot.commands.demonstration.stack import Stage, addressees
from poolpilot.controller.actuators.envoy_process import EnvoyFolder
from poolpilot.controller.assembly import steer
from poolpilot.controller.settings import ControlSettings
from poolpilot.controller.tick import Status
from poolpilot.env.contract import Action, Cluster, Memory, Mode, Plan, Snapshot
from poolpilot.env.emulator.replay import ClientRecord, Replay, replay
from poolpilot.telemetry.envoy_log import LogTail, RequestRecord
from poolpilot.telemetry.record import read_log
from poolpilot.telemetry.valkey import embedded_valkey

from .miniature import a_stage, processes_naming

pytestmark = pytest.mark.e2e

ACTS = (
    # until scenario second, share to the dear pool, replicas of (dear, cheap)
    (25.0, 1.0, (1.0, 1.0)),
    (50.0, 0.5, (1.0, 2.0)),
    (75.0, 0.0, (0.0, 2.0)),
    (np.inf, 0.0, (0.0, 1.0)),
)


class Script:
    """Decides by the clock alone."""

    name, policy_hash = "script", ""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def decide(self, snapshot: Snapshot, plan: Plan, memory: Memory) -> tuple[Action, Memory]:
        """The act that is on."""
        _, dear, replicas = next(act for act in ACTS if snapshot.time_s < act[0])
        action = Action(
            route=np.tile([dear, 1.0 - dear], (len(self.cluster.class_names), 1)),
            admit=np.ones(len(self.cluster.class_names)),
            batch_cap=self.cluster.max_batch_cap,
            token_budget=self.cluster.max_token_budget,
            replicas=np.array(replicas),
        )
        return action, memory


async def _steered(stage: Stage, folder: Path) -> tuple[Status, list[ClientRecord]]:
    """Play the stage's requests against a sidecar in this process."""
    stopping, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = ControlSettings(
        folder=folder,
        scenario_file=stage.scenario_file,
        store_url=stage.store_url,
        mode=Mode.ACTIVE,
        speed_up=stage.speed_up,
        stream_interval=stage.stream_interval,
    )
    steering = asyncio.create_task(
        steer(stage.scenario, Script, settings, stopping, lambda envoy, _: url.set_result(envoy.url))
    )
    await asyncio.wait({steering, url}, return_when=asyncio.FIRST_COMPLETED)
    if steering.done():
        steering.result()
    records = await replay(stage.workload, addressees(stage.scenario), await url, stage.speed_up, Replay())
    await asyncio.sleep(1.5 * stage.scenario.tick_s / stage.speed_up)
    stopping.set()
    return await steering, records


async def test_no_request_is_lost_while_weights_move_and_pools_empty(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_stage(tmp_path, valkey.url, speed_up=10.0)
        status, records = await _steered(stage, tmp_path / "run")
    ticks = list(read_log(tmp_path / "run" / "decisions.jsonl"))
    shares = [float(tick.decision.applied.route[0, 0]) for tick in ticks]
    ready = np.stack([tick.snapshot.ready for tick in ticks])
    assert status.fallback_ticks == 0
    assert status.health.troubles == ()
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    assert 0.5 in shares
    assert ready[0, 0] == 1
    assert ready[-1].tolist() == [0.0, 1.0]
    assert [record.detail for record in records if record.outcome != "served"] == []
    used = _pools_used(tmp_path / "run")
    assert {"dear", "cheap"} <= used
    assert processes_naming(tmp_path) == []


def _pools_used(folder: Path) -> set[str | None]:
    """Which pools answered, by the proxy's own log."""
    tail = LogTail(EnvoyFolder(folder / "envoy").access_log)
    pools = {record.pool for record in tail.read() if isinstance(record, RequestRecord)}
    tail.close()
    return pools
