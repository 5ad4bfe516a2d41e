"""Replicas that die or hang."""

import os
import signal

import pytest

from .cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="package")]


async def test_a_killed_replica_costs_only_what_it_had_begun_to_answer(running: Cluster) -> None:
    async with running.drill("replica killed") as drill:
        drill.allowed = "answers that it had begun"
        victim = running.replicas("a100")[0]
        os.kill(victim["pid"], signal.SIGKILL)
        drill.reported = await running.until_reported(rf"{victim['name']}.*exited")
        await running.until_well()
        drill.recovered()
    assert all(r.first_token_s is not None for r in drill.lost), drill.lost
    assert len(drill.lost) < 0.5 * len(drill.requests)


async def test_a_hung_replica_is_left_out_then_replaced(running: Cluster) -> None:
    async with running.drill("replica hung") as drill:
        drill.allowed = "answers that it had begun"
        victim = running.replicas("l40s")[0]
        os.kill(victim["pid"], signal.SIGSTOP)
        drill.reported = await running.until_reported(rf"{victim['name']}.*(hung|does not answer)")
        await running.until_well()
        drill.recovered()
    assert victim["pid"] not in [one["pid"] for one in running.replicas("l40s")]
    assert all(r.first_token_s is not None for r in drill.lost), drill.lost
    assert len(drill.lost) < 0.5 * len(drill.requests)
