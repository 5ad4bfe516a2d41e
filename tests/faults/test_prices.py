"""A price feed that nobody keeps up to date any more: the last price is kept, and named as old."""

import pytest

from .cluster import TICK_S, Cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="package")]


async def test_a_stale_price_feed_is_named_and_its_last_price_kept(running: Cluster) -> None:
    async with running.drill("price feed stale") as drill:
        before = await running.pool_figure("l40s", "usd_per_hr")
        ticks = await running.ticks()
        running.age_prices(7200)
        drill.reported = await running.until_reported(r"price of l40s: .*7\d\d\d s old")

        async def went_on() -> bool:
            return await running.ticks() > ticks + 2

        await until(went_on, f"ticks every {TICK_S:g} s with an old price", running.state)
        kept = await running.pool_figure("l40s", "usd_per_hr")
        ready, warned = await running.ready(), await running.metric('poolpilot_troubles{severity="warning"}')
        running.age_prices(0)
        drill.healed()
        await running.until_well()
        drill.recovered()
    assert kept == before == 1.25
    assert ready, "an old price keeps nobody from deciding"
    assert warned >= 1
    assert drill.lost_details == []
