"""Envoys that ask a discovery server for all they know, before replicas in miniature."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from poolpilot.controller.actuators.envoy_bootstrap import Certificates, ProxySettings, bootstrap
from poolpilot.controller.actuators.envoy_config import Endpoint, RoutingTable
from poolpilot.controller.actuators.envoy_process import envoy_binary
from poolpilot.controller.fencing import UNFENCED, Fence
from poolpilot.controller.xds.address import XdsAddress
from poolpilot.controller.xds.routing import OfferedRouting
from poolpilot.controller.xds.server import DiscoveryServer
from poolpilot.controller.xds.serving import serving
from poolpilot.telemetry.access_log_service import AccessLogService

from ..actuators.conftest import Replica, a_table

PATIENCE_S = 60.0


@dataclass
class RemoteEnvoy:
    """An Envoy that knows nothing but its bootstrap."""

    process: subprocess.Popen[bytes]
    url: str
    admin_url: str


@dataclass
class Control:
    """A discovery server with its routing, a log service, and where both are."""

    server: DiscoveryServer
    routing: OfferedRouting
    log: AccessLogService
    address: str


class Site:
    """Starts what a test needs; all of it ends with the test."""

    def __init__(self, folder: Path, stack: AsyncExitStack, client: aiohttp.ClientSession) -> None:
        self.folder, self.stack, self.client = folder, stack, client
        self.replicas: dict[str, Replica] = {}
        self._servers = AsyncExitStack()
        stack.push_async_callback(self.stop_serving)

    async def control(self, where: XdsAddress | None = None, fence: Fence = UNFENCED) -> Control:
        server, log = DiscoveryServer(fence), AccessLogService()
        address = await self._servers.enter_async_context(serving(where or XdsAddress(), server, log))
        return Control(server, OfferedRouting(server, patience_s=PATIENCE_S), log, address)

    async def stop_serving(self) -> None:
        """End all discovery servers."""
        await self._servers.aclose()

    async def envoy(self, name: str, *addresses: str, certificates: Certificates | None = None) -> RemoteEnvoy:
        """One that asks at `addresses`; it need not be ready yet."""
        sidecars = tuple(Endpoint(host, int(port)) for host, _, port in (a.rpartition(":") for a in addresses))
        config, admin_file = self.folder / f"{name}.json", self.folder / f"{name}.admin"
        config.write_text(json.dumps(bootstrap(ProxySettings(sidecars=sidecars, node=name, certificates=certificates))))
        command = [str(envoy_binary()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
        command += ["--admin-address-path", str(admin_file), "--log-path", str(self.folder / f"{name}.log")]
        process = _spawn(command)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        async with asyncio.timeout(PATIENCE_S):
            while not admin_file.exists() or not admin_file.read_text():
                assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-2000:]
                await asyncio.sleep(0.05)
        return RemoteEnvoy(process, "", f"http://{admin_file.read_text().strip()}")

    async def until_ready(self, envoy: RemoteEnvoy) -> None:
        """Wait until it serves, and note where."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.client.get(f"{envoy.admin_url}/ready") as ready:
                    if ready.status == 200:
                        break
                await asyncio.sleep(0.05)
        async with self.client.get(f"{envoy.admin_url}/listeners", params={"format": "json"}) as got:
            (listener,) = (await got.json(content_type=None))["listener_statuses"]
        at = listener["local_address"]["socket_address"]
        envoy.url = f"http://{at['address']}:{at['port_value']}"

    async def ask(self, envoy: RemoteEnvoy, **headers: str) -> tuple[int, str | None]:
        async with self.client.post(f"{envoy.url}/v1/x", json={"model": "m"}, headers=headers) as answer:
            await answer.read()
            return answer.status, answer.headers.get("x-replica")


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """With replicas a1, a2 and b1."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        made = Site(tmp_path, stack, client)
        for name in ("a1", "a2", "b1"):
            made.replicas[name] = Replica(name)
            await made.replicas[name].serve()
            stack.push_async_callback(made.replicas[name].close)
        yield made


@pytest.fixture
def table(site: Site) -> Callable[..., RoutingTable]:
    """Routing tables over the site's replicas."""
    return lambda *classes, **pools: a_table(site.replicas, *classes, **pools)
