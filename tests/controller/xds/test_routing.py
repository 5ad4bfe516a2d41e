"""Routing by gRPC: real Envoys that ask a discovery server, take what it offers, and refuse what is wrong."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poolpilot.controller.actuators.envoy import EnvoyRejected
from poolpilot.controller.actuators.envoy_bootstrap import Certificates
from poolpilot.controller.actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable, Span
from poolpilot.controller.fencing import Fence, Fenced
from poolpilot.controller.xds.address import XdsAddress
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


async def test_replicas_come_and_go_while_routes_are_refused(site: Any, table: Table) -> None:
    control = await site.control()
    envoy = await site.envoy("edge-1", control.address)
    await control.routing.apply(table(CHAT, A="a1", B="b1"))
    await site.until_ready(envoy)
    refused = ClassRoute("long", TO_B, body_match={"metadata..slo_class": "batch"})
    for _ in range(2):
        with pytest.raises(EnvoyRejected, match="refused RouteConfiguration") as caught:
            await control.routing.apply(table(CHAT, refused, A="a2", B="b1"))
        assert caught.value.endpoints_follow
        assert await site.ask(envoy) == (200, "a2")
    await control.routing.apply(table(ClassRoute("chat", TO_B), A="a2", B="b1"))
    assert await site.ask(envoy) == (200, "b1")


async def test_a_leader_of_the_past_tells_no_envoy_anything(site: Any, table: Table, tmp_path: Path) -> None:
    old = await site.control(fence=Fence(tmp_path, 1))
    await old.routing.apply(table(CHAT, A="a1", B="b1"))
    new = await site.control(fence=Fence(tmp_path, 2))
    await new.routing.apply(table(ClassRoute("chat", TO_B), A="a1", B="b1"))
    with pytest.raises(Fenced):
        await old.routing.apply(table(CHAT, A="a2", B="b1"))
    # It asks the old one first, which still serves what it offered before it was passed by.
    envoy = await site.envoy("edge-1", old.address, new.address)
    await site.until_ready(envoy)
    assert await site.ask(envoy) == (200, "b1")


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
    second = await site.control(XdsAddress(port=port))
    async with asyncio.timeout(60):
        while not any(e.node == "edge-1" for e in second.server.connected):
            await asyncio.sleep(0.05)
    assert await site.ask(envoy) == (200, "a1")
    await second.routing.apply(table(ClassRoute("chat", TO_B), A="a1", B="b1"))
    assert await site.ask(envoy) == (200, "b1")


async def test_a_cap_on_admission_reaches_an_envoy_elsewhere(site: Any, table: Table) -> None:
    control = await site.control()
    envoy = await site.envoy("edge-1", control.address)
    free = table(CHAT, A="a1", B="b1")
    capped = replace(free, pools=tuple(replace(p, max_requests=2) if p.name == "A" else p for p in free.pools))
    await control.routing.apply(free)
    await site.until_ready(envoy)

    async def statuses() -> Counter[int]:
        async def one() -> int:
            async with site.client.post(f"{envoy.url}/v1/x", json={"first_s": 1.0}) as answer:
                return int(answer.status)

        return Counter(await asyncio.gather(*(one() for _ in range(6))))

    assert await statuses() == {200: 6}
    assert await control.routing.apply(capped) is not None
    assert await statuses() == {200: 2, 429: 4}
    assert await control.routing.apply(capped) is None
    await control.routing.apply(free)
    assert await statuses() == {200: 6}


async def test_a_quiet_stream_stays_open(site: Any, table: Table) -> None:
    control = await site.control()
    envoy = await site.envoy("edge-1", control.address)
    await control.routing.apply(table(CHAT, A="a1", B="b1"))
    await site.until_ready(envoy)
    await asyncio.sleep(9.0)  # some of Envoy's pings
    name = "cluster.poolpilot_sidecars.upstream_cx_total"
    async with site.client.get(f"{envoy.admin_url}/stats", params={"filter": f"^{name}$"}) as got:
        assert (await got.text()).strip() == f"{name}: 1"


def certificates(folder: Path) -> dict[str, Path]:
    """An authority, and what a sidecar and an Envoy show of it, made by OpenSSL."""
    made = {name: folder / name for name in ("ca.crt", "ca.key", "own.crt", "own.key", "envoy.crt", "envoy.key")}

    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    new = ("req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2")
    openssl(*new, "-subj", "/CN=authority", "-keyout", made["ca.key"], "-out", made["ca.crt"])
    for name in ("own", "envoy"):
        of = ("-CA", made["ca.crt"], "-CAkey", made["ca.key"], "-addext", "subjectAltName=IP:127.0.0.1")
        ends = ("-addext", "basicConstraints=critical,CA:FALSE")
        keys = ("-keyout", made[f"{name}.key"], "-out", made[f"{name}.crt"])
        openssl(*new, "-subj", f"/CN={name}", *of, *ends, *keys)
    return made


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates by the openssl command")
async def test_mutual_tls(site: Any, table: Table, tmp_path: Path) -> None:
    made = certificates(tmp_path)
    where = XdsAddress("127.0.0.1", 0, made["own.crt"], made["own.key"], made["ca.crt"])
    control = await site.control(where)
    shown = Certificates(str(made["envoy.crt"]), str(made["envoy.key"]), str(made["ca.crt"]))
    known = await site.envoy("edge-1", control.address, certificates=shown)
    stranger = await site.envoy("stranger", control.address)
    await control.routing.apply(table(CHAT, A="a1", B="b1"))
    await site.until_ready(known)
    assert await site.ask(known) == (200, "a1")
    assert {envoy.node for envoy in control.server.connected} == {"edge-1"}
    async with site.client.get(f"{stranger.admin_url}/ready") as ready:
        assert ready.status == 503
