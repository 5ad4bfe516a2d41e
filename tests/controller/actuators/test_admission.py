"""Admission caps of a real Envoy: what runs goes on, what is too much is told to come back, and no cap is left over."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from poolpilot.controller.actuators.admission import AdmissionError, CappedRouting, cap_admission
from poolpilot.controller.actuators.envoy_config import PoolBackends, RoutingTable

pytestmark = pytest.mark.e2e


def capped(table: RoutingTable, most: int | None) -> RoutingTable:
    """The table with a cap on pool A."""
    pools = tuple(PoolBackends(p.name, p.endpoints, most if p.name == "A" else None) for p in table.pools)
    return RoutingTable(table.classes, pools, table.default_class)


async def test_what_is_beyond_the_cap_is_told_to_come_back_and_nothing_under_way_is_cut(proxy: Any, table: Any) -> None:
    routing = CappedRouting(proxy.files, proxy.envoy.admin_url)
    both = table(A="a1 a2")
    await routing.apply(both)
    running = [asyncio.create_task(proxy.ask({"first_s": 3.0})) for _ in range(6)]
    await asyncio.sleep(0.5)
    await routing.apply(capped(both, 4))
    refused = await proxy.ask()
    assert (refused.status, refused.retry_after) == (429, "1")
    assert json.loads(refused.text)["error"]["type"] == "overloaded"
    assert [answer.status for answer in await asyncio.gather(*running)] == [200] * 6, "what runs is finished"
    at_once = await asyncio.gather(*(proxy.ask({"first_s": 1.0}) for _ in range(10)))
    served = sum(answer.status == 200 for answer in at_once)
    # Envoy's limits are no locks; and it has one worker, as we start it.
    assert served == 4
    assert sum(answer.status == 429 for answer in at_once) == 6
    shed = [record for record in await proxy.ended(17) if record.code == 429]
    assert len(shed) == 7
    await routing.apply(both)
    assert {(await proxy.ask()).status for _ in range(10)} == {200}
    freed = await asyncio.gather(*(proxy.ask({"first_s": 0.5}) for _ in range(10)))
    assert {answer.status for answer in freed} == {200}


async def test_only_what_differs_is_set_and_it_is_read_back(proxy: Any) -> None:
    async with aiohttp.ClientSession() as admin:
        assert await cap_admission(admin, proxy.envoy.admin_url, {"A": 4, "B": None}) == ("A",)
        assert await cap_admission(admin, proxy.envoy.admin_url, {"A": 4, "B": None}) == ()
        assert await cap_admission(admin, proxy.envoy.admin_url, {"A": None, "B": 2}) == ("A", "B")
        assert await cap_admission(admin, proxy.envoy.admin_url, {"A": None, "B": 2}) == ()


async def test_caps_of_a_sidecar_before_are_taken_back(proxy: Any, table: Any) -> None:
    both = table(A="a1 a2")
    await CappedRouting(proxy.files, proxy.envoy.admin_url).apply(capped(both, 1))
    await CappedRouting(proxy.files, proxy.envoy.admin_url).apply(both)
    at_once = await asyncio.gather(*(proxy.ask({"first_s": 0.3}) for _ in range(6)))
    assert {answer.status for answer in at_once} == {200}


async def test_an_envoy_that_does_not_answer_is_named(proxy: Any, table: Any) -> None:
    both = table(A="a1 a2")
    await proxy.files.apply(both)
    with pytest.raises(AdmissionError, match=r"127\.0\.0\.1:9"):
        await CappedRouting(proxy.files, "http://127.0.0.1:9").apply(capped(both, 1))


async def test_where_nobody_is_well_requests_are_told_to_come_back(proxy: Any) -> None:
    for replica in proxy.replicas.values():
        replica.status = 503
    async with asyncio.timeout(30):
        while (answer := await proxy.ask()).replica is not None:
            await asyncio.sleep(0.1)
    assert (answer.status, answer.retry_after) == (503, "1")
    assert json.loads(answer.text)["error"]["message"] == "no replica is well; retry after 1 s"
    for replica in proxy.replicas.values():
        replica.status = 200
    async with asyncio.timeout(30):
        while (await proxy.ask()).status != 200:
            await asyncio.sleep(0.1)
