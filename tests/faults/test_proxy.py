"""Envoy dies, or refuses what it is told."""

import os
import signal
from pathlib import Path

import pytest

from .cluster import Cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="package")]


async def test_a_killed_envoy_is_started_again_where_it_was(running: Cluster) -> None:
    async with running.drill("Envoy restarted") as drill:
        drill.allowed = "those in it, and those sent until it is back"
        before = running.envoy_pid()
        os.kill(before, signal.SIGKILL)
        drill.reported = await running.until_reported(r"Envoy")
        await running.until_well()
        drill.recovered()
        back_at = len(running.clients.records)
    assert running.envoy_pid() != before
    assert {r.outcome for r in running.clients.records[back_at:] if r.outcome != "pending"} <= {"served"}


async def test_a_config_that_envoy_refuses_never_replaces_the_one_that_works(running: Cluster, tmp_path: Path) -> None:
    # A field with an empty name between two dots is fine with us, and not with Envoy.
    refused = tmp_path / "refused.yaml"
    refused.write_text(running.scenario_file.read_text().replace("metadata.slo_class", "metadata..slo_class"))
    async with running.drill("Envoy refusing a config") as drill:
        await running.kill_control()
        await running.start_control(scenario=refused)
        try:
            drill.reported = await running.until_reported(r"routing: .*refused")
            ticks = await running.ticks()
            await until(lambda: _more_ticks(running, ticks + 2), "ticks with a config that is refused", running.state)
        finally:
            await running.kill_control()
            await running.start_control()
        drill.healed()
        await running.until_well()
        drill.recovered()
    assert drill.lost_details == []


async def _more_ticks(running: Cluster, than: float) -> bool:
    return await running.ticks() > than
