"""Which replica of a pool a real Envoy takes: sessions that stick, fresh replicas that start slowly, silence that ends."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy_config import ClassRoute, RoutingTable

pytestmark = pytest.mark.e2e

Table = Callable[..., RoutingTable]
TO_A = (("A", 1.0), ("B", 0.0))
STICKY = ClassRoute("chat", TO_A, affinity_header="x-session-id")
FREE = ClassRoute("free", TO_A)


async def ask(proxy: Any, session: str, first_s: float = 0.0) -> tuple[int, str | None]:
    """Status and replica of a request of a session."""
    headers = {"x-session-id": session}
    async with proxy.client.post(proxy.envoy.url + "/v1/x", json={"first_s": first_s}, headers=headers) as answer:
        return answer.status, answer.headers.get("x-replica")


async def test_a_session_stays_with_its_replica(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(STICKY, FREE, A="a1 a2", B="b1"))
    sessions = [f"s{n}" for n in range(24)]
    first = {s: await ask(proxy, s) for s in sessions}
    assert {s: await ask(proxy, s) for s in reversed(sessions)} == first
    assert set(first.values()) == {(200, "a1"), (200, "a2")}
    plain = Counter([(await proxy.ask(slo_class="free")).replica for _ in range(40)])
    assert min(plain["a1"], plain["a2"]) >= 8  # 40 coin tosses come as uneven as this once in 10,000 times


async def test_a_replica_over_its_bound_passes_sessions_on(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(STICKY, A="a1 a2", B="b1"))
    _, home = await ask(proxy, "busy")
    begun = []
    for _ in range(40):
        begun.append(asyncio.create_task(ask(proxy, "busy", first_s=3.0)))
        await asyncio.sleep(0.02)  # what waits for a connection is not counted yet
    at = Counter([replica for _, replica in await asyncio.gather(*begun)])
    assert 20 <= at[home] <= 28  # 1.25 times the mean, and those whose connection was still being made


async def test_sessions_of_a_dead_replica_go_elsewhere_without_a_failure(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(STICKY, A="a1 a2", B="b1"))
    before = {f"s{n}": await ask(proxy, f"s{n}") for n in range(24)}
    await proxy.replicas["a1"].die()
    after = {s: await ask(proxy, s) for s in before}
    assert set(after.values()) == {(200, "a2")}
    await proxy.replicas["a2"].die()
    assert {await ask(proxy, s) for s in before} == {(200, "b1")}  # the whole pool is gone: it spills over


async def test_a_replica_that_joins_takes_its_part_of_the_sessions_only(proxy: Any, table: Table) -> None:
    await proxy.files.apply(table(STICKY, A="a1 a2", B=""))
    before = {f"s{n}": await ask(proxy, f"s{n}") for n in range(60)}
    await proxy.files.apply(table(STICKY, A="a1 a2 b1", B=""))
    async with asyncio.timeout(30):
        while (200, "b1") not in {await ask(proxy, s) for s in before}:  # until it passed its first health check
            await asyncio.sleep(0.05)
    after = {s: await ask(proxy, s) for s in before}
    moved = [s for s, home in before.items() if after[s] != home]
    assert 5 <= len(moved) <= 40  # a third, on average
    assert sum(after[s] != (200, "b1") for s in moved) <= 3  # hardly any moves without need


async def test_a_fresh_replica_starts_slowly(proxy: Any, table: Table) -> None:
    slow = replace(table(FREE, A="a1", B=""), slow_start_s=4.0)
    await proxy.files.apply(slow)
    await asyncio.sleep(4.5)  # a1 is no longer fresh
    await proxy.files.apply(replace(table(FREE, A="a1 a2", B=""), slow_start_s=4.0))
    clock = asyncio.get_running_loop().time
    until = clock() + 1.0
    early: Counter[str | None] = Counter()
    while clock() < until:
        early[(await proxy.ask()).replica] += 1
    await asyncio.sleep(4.5)
    late = Counter([(await proxy.ask()).replica for _ in range(100)])
    assert early["a2"] < 0.35 * early.total()
    assert 0.4 < late["a2"] / late.total() < 0.6


async def test_silence_longer_than_allowed_ends_a_request(proxy: Any, table: Table) -> None:
    patient = ClassRoute("chat", TO_A, idle_timeout_s=0.6)
    await proxy.files.apply(table(patient, A="a1", B=""))
    assert (await proxy.ask({"first_s": 5.0})).status == 504
    flowing = await proxy.ask({"stream": True, "gap_s": 0.2, "n": 8})  # longer in all, and never silent for so long
    assert (flowing.status, "[DONE]" in flowing.text) == (200, True)
