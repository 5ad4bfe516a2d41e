"""What happens to the sidecar itself: killed, its clock set, its disk full, its policy spoilt."""

import asyncio
import shutil
from pathlib import Path

import pytest

from poolpilot.agents.checkpoint import ONNX, shipped_checkpoints
from poolpilot.telemetry.record import read_log

from .cluster import TICK_S, Cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="package")]


async def test_traffic_outlives_a_killed_controller_and_the_next_one_takes_over(running: Cluster) -> None:
    async with running.drill("controller killed") as drill:
        envoy = running.envoy_pid()
        replicas = {one["pid"] for pool in ("a100", "l40s") for one in running.replicas(pool)}
        await running.kill_control()
        await asyncio.sleep(2 * TICK_S)
        await running.start_control()
        drill.healed()
        await running.until_well()
        drill.recovered()
        drill.reported = "the next one takes over Envoy and the replicas that it finds"
    assert running.envoy_pid() == envoy
    assert {one["pid"] for pool in ("a100", "l40s") for one in running.replicas(pool)} == replicas
    assert drill.lost_details == []


@pytest.mark.parametrize("ahead_s", [2 * 86_400, -2 * 86_400], ids=["forwards", "backwards"])
async def test_a_clock_that_is_set_changes_no_decision(running: Cluster, ahead_s: int) -> None:
    async with running.drill(f"clock set {'forwards' if ahead_s > 0 else 'back'} by two days") as drill:
        before = await running.decision()
        ticks = await running.ticks()
        running.set_clock(ahead_s)
        drill.reported = "nothing: no figure depends on it"
        if ahead_s > 0:
            drill.reported = await running.until_reported(r"price of l40s: .* s old")
        await until(lambda: _more_ticks(running, ticks + 4), "ticks after the clock was set", running.state)
        attainment = (await running.snapshot() or {})["classes"]["attainment"]
        after = await running.decision()
        running.set_clock(0)
        drill.healed()
        await running.until_well()
        drill.recovered()
    assert before is not None
    assert after is not None
    assert after["applied"]["replicas"] == before["applied"]["replicas"]
    assert min(attainment) > 0.5
    assert drill.lost_details == []


async def test_a_full_disk_stops_the_record_and_nothing_else(running: Cluster) -> None:
    log = running.run / "decisions.jsonl"
    async with running.drill("disk full for the decision log") as drill:
        ticks = await running.ticks()
        # In the middle of a line, as on a disk that has just filled up.
        running.limit_files(log, by_bytes=700)
        drill.reported = await running.until_reported(r"not recorded.*decisions\.jsonl")
        await until(lambda: _more_ticks(running, ticks + 4), "ticks on a full disk", running.state)
        running.limit_files(None)
        drill.healed()
        await running.until_well()
        drill.recovered()
    kept = [record.decision.tick for record in read_log(log, report=pytest.fail)]
    assert len(kept) > 4
    assert drill.lost_details == []


async def test_a_spoilt_policy_leaves_the_fallback_in_charge_until_it_is_whole(
    running: Cluster, tmp_path: Path
) -> None:
    policy = tmp_path / "policy"
    shutil.copytree(shipped_checkpoints()["steady-hand"], policy)
    whole = (policy / ONNX).read_bytes()
    async with running.drill("policy file corrupt") as drill:
        (policy / ONNX).write_bytes(whole[: len(whole) // 2])
        await running.kill_control()
        await running.start_control("--policy", str(policy))
        drill.reported = await running.until_reported(r"policy_error.*policy\.onnx")
        decision = await running.decision()
        (policy / ONNX).write_bytes(whole)
        drill.healed()
        await until(lambda: _decides(running, "steady-hand"), "the mended policy to decide", running.state)
        await running.until_well()
        drill.recovered()
        await running.kill_control()
        await running.start_control()
    assert decision is not None
    assert decision["policy_name"] == "plan-tracking"
    assert drill.lost_details == []


async def _more_ticks(running: Cluster, than: float) -> bool:
    return await running.ticks() > than


async def _decides(running: Cluster, policy: str) -> bool:
    decision = await running.decision()
    return decision is not None and decision["policy_name"] == policy
