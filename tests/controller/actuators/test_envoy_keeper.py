"""An Envoy that dies is back where it was, with what it knew."""

import asyncio
import os
import signal
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy_keeper import kept
from poolpilot.controller.actuators.envoy_process import find, stop

pytestmark = pytest.mark.e2e


async def test_an_envoy_that_is_killed_serves_again_on_its_port(proxy: Any, table: Any) -> None:
    before = proxy.envoy
    async with kept(before) as keeper:
        os.kill(before.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while keeper.envoy.pid == before.pid:
                await asyncio.sleep(0.02)
            while (await proxy.ask()).status != 200:
                await asyncio.sleep(0.02)
        assert (keeper.envoy.url, keeper.envoy.admin_url) == (before.url, before.admin_url)
        assert find(before.folder) == keeper.envoy
        # The actuator that steered the one before steers this one.
        assert await proxy.files.apply(table(A="a1")) is not None
        assert {(await proxy.ask()).replica for _ in range(10)} == {"a1"}
    await stop(keeper.envoy)


async def test_one_that_is_stopped_after_the_watch_ends_stays_stopped(proxy: Any) -> None:
    async with kept(proxy.envoy):
        pass
    await stop(proxy.envoy)
    await asyncio.sleep(0.2)
    assert find(proxy.envoy.folder) is None


async def test_one_that_is_stopped_on_purpose_is_not_taken_for_dead(proxy: Any) -> None:
    async with kept(proxy.envoy) as keeper:
        await keeper.stop()
        await asyncio.sleep(0.5)
        assert find(proxy.envoy.folder) is None
    assert find(proxy.envoy.folder) is None
