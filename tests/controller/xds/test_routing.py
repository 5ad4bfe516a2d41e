"""Routing by gRPC: real Envoys that ask a discovery server, take what it offers, and refuse what is wrong."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy import EnvoyRejected
from poolpilot.controller.actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable, Span
from poolpilot.telemetry.envoy_log import RequestRecord, StartRecord

pytestmark = pytest.mark.e2e

Table = Callable[..., RoutingTable]
TO_A, TO_B = (("A", 1.0), ("B", 0.0)), (("B", 1.0), ("A", 0.0))
CHAT = ClassRoute("chat", TO_A, ttft_ms=1000.0)
FAST = ClassRoute("fast", TO_B, ttft_ms=100.0, affinity_header="x-session-id")
LONG = ClassRoute("long", TO_B, max_tokens=Span(1000), body_bytes=Span(10), body_match={"user": "me"})


async def test_an_envoy_is_steered_and_says_what_it_served(site: Any, table: Table) -> None:
    control = await site.control()
    envoy = await site.envoy("edge-1", control.address)
    await control.routing.apply(table(CHAT, FAST, LONG, A="a1", B="b1"))
    await site.until_ready(envoy)
    assert await site.ask(envoy) == (200, "a1")
    assert await site.ask(envoy, **{"x-slo-ttft-ms": "50"}) == (200, "b1")
    changed = await control.routing.apply(table(ClassRoute("chat", TO_B), FAST, LONG, A="a1", B="b1"))
    assert changed is not None
    assert changed.written == ("rds.json",)
    assert await site.ask(envoy) == (200, "b1")
    assert await control.routing.apply(table(ClassRoute("chat", TO_B), FAST, LONG, A="a1", B="b1")) is None

    found: list[Any] = []
    for _ in range(600):
        found += control.log.read()
        if sum(isinstance(r, RequestRecord) for r in found) == 3:
            break
        await asyncio.sleep(0.05)
    assert control.log.broken_lines == 0, control.log.last_error
    ends = [r for r in found if isinstance(r, RequestRecord)]
    assert [(r.class_name, r.pool, r.code, r.attempts) for r in ends] == [
        ("chat", "A", 200, 1),
        ("fast", "B", 200, 1),
        ("chat", "B", 200, 1),
    ]
    assert all((r.prompt_tokens, r.completion_tokens) == (7, 3) for r in ends)
    assert all(0 <= r.first_body_s <= r.total_s < 30 for r in ends)
    assert {r.stream_id for r in found if isinstance(r, StartRecord)} == {r.stream_id for r in ends}


async def test_what_one_envoy_refuses_is_offered_to_nobody(site: Any, table: Table) -> None:
    control = await site.control()
    envoys = [await site.envoy(name, control.address) for name in ("edge-1", "edge-2")]
    good = table(CHAT, A="a1", B="b1")
    await control.routing.apply(good)
    for envoy in envoys:
        await site.until_ready(envoy)
    bad = RoutingTable((CHAT,), (PoolBackends("A", (Endpoint("not-an-address", 80),)), good.pools[1]), "chat")
    for _ in range(2):
        with pytest.raises(EnvoyRejected, match=r"edge-\d.*refused ClusterLoadAssignment: .*not-an-address"):
            await control.routing.apply(bad)
        assert {await site.ask(envoy) for envoy in envoys} == {(200, "a1")}
    late = await site.envoy("edge-3", control.address)
    await site.until_ready(late)
    assert await site.ask(late) == (200, "a1")
    await control.routing.apply(table(ClassRoute("chat", TO_B), A="a1", B="b1"))
    assert {await site.ask(envoy) for envoy in (*envoys, late)} == {(200, "b1")}


async def test_no_request_is_lost_while_routing_changes_and_the_sidecar_is_replaced(site: Any, table: Table) -> None:
    first = await site.control()
    envoy = await site.envoy("edge-1", first.address)
    await first.routing.apply(table(CHAT, A="a1 a2", B="b1"))
    await site.until_ready(envoy)
    done = asyncio.Event()
    seen: Counter[tuple[int, str | None]] = Counter()

    async def client() -> None:
        while not done.is_set():
            seen[await site.ask(envoy)] += 1

    clients = [asyncio.create_task(client()) for _ in range(4)]
    for members in ({"A": "a2", "B": "b1"}, {"A": "", "B": "b1"}, {"A": "a1", "B": ""}, {"A": "a1 a2", "B": "b1"}):
        await first.routing.apply(table(CHAT, **members))
    done.set()
    await asyncio.gather(*clients)
    assert {status for status, _ in seen} == {200}
    assert {replica for _, replica in seen} == {"a1", "a2", "b1"}


async def test_a_sidecar_that_starts_anew_offers_nothing_before_its_first_table(site: Any, table: Table) -> None:
    first = await site.control()
    envoy = await site.envoy("edge-1", first.address)
    await first.routing.apply(table(CHAT, A="a1", B="b1"))
    await site.until_ready(envoy)
    port = int(first.address.rpartition(":")[2])
    await site.stop_serving()
    assert await site.ask(envoy) == (200, "a1")  # with its last configuration, and nobody to ask
    second = await site.control(port)
    async with asyncio.timeout(60):
        while not any(e.node == "edge-1" for e in second.server.connected):
            await asyncio.sleep(0.05)
    assert await site.ask(envoy) == (200, "a1")
    await second.routing.apply(table(ClassRoute("chat", TO_B), A="a1", B="b1"))
    assert await site.ask(envoy) == (200, "b1")
