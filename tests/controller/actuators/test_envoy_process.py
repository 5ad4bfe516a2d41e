"""An Envoy of our own: how it starts, whom it outlives, and what it says when it cannot start."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.envoy_config import ClassRoute, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import (
    EnvoyFolder,
    EnvoyStartError,
    embedded,
    find,
    rotate_access_log,
    start,
    stop,
)

pytestmark = pytest.mark.e2e

NOWHERE = RoutingTable((ClassRoute("chat", (("A", 1.0),)),), (PoolBackends("A", ()),), "chat")

SIDECAR = """
import asyncio, sys, time
from pathlib import Path
from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, start

async def steer(path, ports, outlives_us):
    folder = EnvoyFolder(Path(path))
    pools = tuple(PoolBackends(n, (Endpoint("127.0.0.1", p),)) for n, p in zip("AB", ports))
    table = lambda a, b: RoutingTable((ClassRoute("chat", (("A", a), ("B", b))),), pools, "chat")
    envoy.write(folder.xds, table(1.0, 0.0))
    running = await start(folder, outlives_us=outlives_us)
    await envoy.EnvoyFiles(folder.xds, running.admin_url).apply(table(0.0, 1.0))
    print(running.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(steer(sys.argv[1], [int(p) for p in sys.argv[2:4]], sys.argv[4] == "outlives"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> EnvoyFolder:
    """With a routing table that has one class and no replica."""
    made = EnvoyFolder(tmp_path / "envoy")
    made.xds.mkdir(parents=True)
    envoy.write(made.xds, NOWHERE)
    return made


async def killed_sidecar(folder: EnvoyFolder, ports: list[int], fate: str) -> int:
    """Run a sidecar that starts Envoy and moves all weight to the second replica; kill it; Envoy's process id."""
    command = [sys.executable, "-c", SIDECAR, str(folder.path), *map(str, ports), fate]
    imports = str(Path(envoy.__file__).resolve().parents[2] / ".import")
    environment = {**os.environ, "PYTHONPATH": imports}
    sidecar = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    assert sidecar.stdout is not None
    pid = int(await sidecar.stdout.readline())
    sidecar.kill()
    await sidecar.wait()
    return pid


async def test_the_process_that_has_a_dead_envoys_number_by_now_is_not_stopped(proxy: Any) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        await stop(replace(proxy.envoy, pid=stranger.pid))
        assert stranger.returncode is None
        os.kill(stranger.pid, 0)
    finally:
        stranger.kill()
        await stranger.wait()


async def test_it_outlives_a_killed_sidecar_with_the_last_weights(proxy: Any, folder: EnvoyFolder) -> None:
    ports = [proxy.replicas["a1"].port, proxy.replicas["b1"].port]
    pid = await killed_sidecar(folder, ports, "outlives")
    found = find(folder)
    assert found is not None
    assert found.pid == pid
    try:
        for _ in range(20):
            async with proxy.client.post(found.url, json={}) as answer:
                assert (answer.status, answer.headers["x-replica"]) == (200, "b1")
    finally:
        await stop(found)
    assert find(folder) is None


async def test_it_dies_with_its_sidecar_where_it_is_told_to(proxy: Any, folder: EnvoyFolder) -> None:
    ports = [proxy.replicas["a1"].port, proxy.replicas["b1"].port]
    await killed_sidecar(folder, ports, "dies")
    async with asyncio.timeout(5):
        while find(folder) is not None:
            await asyncio.sleep(0.02)


async def test_a_stop_that_drains_lets_streams_end(proxy: Any, table: Callable[..., RoutingTable]) -> None:
    await proxy.files.apply(table(A="a1"))
    stream = asyncio.create_task(proxy.ask({"stream": True, "gap_s": 0.1, "n": 8}))
    await asyncio.sleep(0.2)
    await stop(proxy.envoy, drain_s=5.0)
    answer = await stream
    assert (answer.status, "[DONE]" in answer.text) == (200, True)
    assert find(proxy.envoy.folder) is None


async def test_a_rotated_log_loses_no_request(proxy: Any) -> None:
    answers = asyncio.gather(*(proxy.ask({"first_s": n / 200}) for n in range(100)))
    await asyncio.sleep(0.3)
    await proxy.ended(1)
    aside = await rotate_access_log(proxy.envoy)
    await answers
    assert len({record.stream_id for record in await proxy.ended(100)}) == 100
    assert aside.stat().st_size > 0
    assert proxy.envoy.folder.access_log.stat().st_size > 0


async def test_two_do_not_share_a_port(folder: EnvoyFolder, tmp_path: Path) -> None:
    async with embedded(folder) as first:
        other = EnvoyFolder(tmp_path / "other")
        other.xds.mkdir(parents=True)
        envoy.write(other.xds, NOWHERE)
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(EnvoyStartError, match=f"127.0.0.1:{port}.*choose another port"):
            await start(other, port=port)
        async with aiohttp.ClientSession() as client, client.get(first.url) as answer:
            assert answer.status == 503


async def test_a_port_asked_for_is_the_port_used(folder: EnvoyFolder) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with embedded(folder, port=port) as running:
        assert running.url == f"http://127.0.0.1:{port}"


async def test_it_says_why_it_does_not_start(folder: EnvoyFolder) -> None:
    with pytest.raises(EnvoyStartError, match=r"Envoy ended with 1: .*192\.0\.2\.1.*Cannot assign requested address"):
        await start(folder, host="192.0.2.1")  # an address for documentation, RFC 5737


async def test_it_wants_a_routing_table_first(tmp_path: Path) -> None:
    with pytest.raises(EnvoyStartError, match=r"cds\.json is missing: write the routing table"):
        await start(EnvoyFolder(tmp_path))
