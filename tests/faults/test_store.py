"""The store goes away, comes back, or takes its time: deciding and serving go on."""

import os
import signal

import pytest

from poolpilot.telemetry.store import Store

from .cluster import HELD_UP_S, Cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="package")]


async def test_a_killed_store_stops_no_decision(running: Cluster) -> None:
    async with running.drill("Valkey killed and back") as drill:
        await running.kill_valkey()
        drill.reported = await running.until_reported(r"store .*redis")
        ticks = await running.ticks()
        await until(lambda: _more_ticks(running, ticks + 3), "ticks without a store", running.state)
        await running.start_valkey()
        drill.healed()
        await running.until_well()
        drill.recovered()
    assert drill.lost_details == []
    async with Store(running.store_url) as store:
        decision = await store.latest_decision()
    assert decision is not None, "nothing is recorded once it is back"


async def test_a_store_that_hangs_holds_up_no_tick(running: Cluster) -> None:
    async with running.drill("store slow") as drill:
        ticks, busy_s = await running.ticks(), await running.metric("poolpilot_tick_seconds_sum")
        os.kill(running.valkey_pid, signal.SIGSTOP)
        drill.reported = await running.until_reported(r"store .*(no answer within|Timeout)")
        await until(lambda: _more_ticks(running, ticks + 4), "ticks beside a store that hangs", running.state)
        mean_tick_s = (await running.metric("poolpilot_tick_seconds_sum") - busy_s) / (await running.ticks() - ticks)
        os.kill(running.valkey_pid, signal.SIGCONT)
        drill.healed()
        await running.until_well()
        drill.recovered()
    assert drill.lost_details == []
    assert mean_tick_s < HELD_UP_S


async def _more_ticks(running: Cluster, than: float) -> bool:
    return await running.ticks() > than
