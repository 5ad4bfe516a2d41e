"""A live cluster goes from advising to acting by its gates, loses nothing, and a restart stays where it stood."""

import asyncio
import json
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from poolpilot.commands.demonstration.stack import addressees
from poolpilot.controller.standing import FILE
from poolpilot.env.contract import Mode, ReasonCode
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.telemetry.record import read_log
from poolpilot.telemetry.valkey import embedded_valkey

from .miniature import a_stage, control, processes_naming

pytestmark = pytest.mark.e2e
GATES = "control: {canary: {share: 0.2}, gates: {ticks: 4, requests: 5, attainment_slack: 0.5, failed_frac: 0.5}}\n"


async def test_a_cluster_climbs_by_its_gates_and_a_restart_stays_where_it_stood(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with embedded_valkey(tmp_path / "valkey") as valkey:
        stage = a_stage(tmp_path, valkey.url, speed_up=10.0)
        stage.scenario_file.write_text(stage.scenario_file.read_text() + GATES)
        async with control(stage, folder, "--mode", "advise", "--up-to", "active") as first:
            records = await replay(stage.workload, addressees(stage.scenario), first.url, stage.speed_up, Replay())
            async with aiohttp.ClientSession() as session, session.get(f"{first.api_url}/v1/status") as answer:
                told = await answer.json()
            await first.killed()
        stood = json.loads((folder / FILE).read_text())
        async with control(stage, folder, "--mode", "advise", "--up-to", "active") as second:
            await asyncio.sleep(2.0)
            assert await second.ended() == 0
    ticks = list(read_log(folder / "decisions.jsonl"))
    # The restarted one counts on from where the killed one stood.
    assert (np.diff([tick.decision.tick for tick in ticks]) > 0).all()
    resumed = [i for i, tick in enumerate(ticks) if any(r.code is ReasonCode.RESUMING for r in tick.decision.reasons)]
    assert len(resumed) == 1
    before, after = ticks[: resumed[0]], ticks[resumed[0] :]
    climbed = list(dict.fromkeys(tick.decision.mode for tick in before))
    assert climbed == [Mode.ADVISE, Mode.CANARY, Mode.ACTIVE]
    assert told["mode"] == stood["mode"] == "active"
    # An adviser changed nothing, a canary scaled nothing.
    for tick in before:
        if tick.decision.mode is not Mode.ACTIVE:
            assert tick.snapshot.target.tolist() == [1.0, 2.0]
    assert [record.detail for record in records if record.outcome == "lost"] == []
    # The next one goes on as it was, and decides once it has seen something.
    assert {tick.decision.mode for tick in after} == {Mode.ACTIVE}
    assert after[0].decision.reasons[0].code is ReasonCode.RESUMING
    assert after[0].decision.applied.replicas.tolist() == stood["in_force"]["replicas"]
    assert after[0].decision.applied.route.tolist() == stood["in_force"]["route"]
    assert processes_naming(folder) == []
