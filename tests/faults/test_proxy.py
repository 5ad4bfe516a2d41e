"""Envoy dies, or refuses what it is told."""

import os
import signal

import pytest

from .cluster import Cluster

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


async def test_a_config_that_envoy_refuses_never_replaces_the_one_that_works(running: Cluster) -> None:
    async with running.drill("Envoy refusing a config") as drill:
        endpoints = running.run / "envoy" / "xds" / "eds-a100.json"
        endpoints.with_suffix(".new").write_text(endpoints.read_text().replace("127.0.0.1", "not-an-address"))
        endpoints.with_suffix(".new").replace(endpoints)
        drill.reported = await running.until_reported(r"(?i)refus|reject")
        await running.until_well()
        drill.recovered()
    assert "not-an-address" not in endpoints.read_text()
    assert drill.lost_details == []
