"""Metrics pages that cannot be used: what they would tell is unknown, and the pool is left as it is."""

import pytest

from .cluster import HELD_UP_S, STALE_AFTER_S, Cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="package")]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("garbage", r"not UTF-8|no metric|cut off"),
        ("truncated", r"cut off|no vllm"),
        ("huge", r"more than \d+ bytes"),
        ("slow", r"no page (within|when)"),
    ],
)
async def test_a_page_that_cannot_be_used_is_named_and_the_pool_held(running: Cluster, how: str, words: str) -> None:
    names = {"huge": "50 MB large", "slow": "slower than the tick"}
    async with running.drill(f"metrics page {names.get(how, how)}") as drill:
        ticks, busy_s = await running.ticks(), await running.metric("poolpilot_tick_seconds_sum")
        running.break_pages("l40s", how)
        drill.reported = await running.until_reported(rf"l40s.*({words})")
        await until(lambda: _is_stale(running), "the pages to be too old", running.state)
        mean_tick_s = (await running.metric("poolpilot_tick_seconds_sum") - busy_s) / (await running.ticks() - ticks)
        replicas = len(running.replicas("l40s"))
        running.mend_pages("l40s")
        drill.healed()
        await running.until_well()
        drill.recovered()
    assert replicas == 2
    assert mean_tick_s < HELD_UP_S
    assert drill.lost_details == []


async def _is_stale(running: Cluster) -> bool:
    return await running.pool_figure("l40s", "telemetry_age_s") > STALE_AFTER_S
