"""Real replicas in miniature, and a real Envoy before them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, RunningEnvoy, embedded
from poolpilot.telemetry.envoy_log import LogRecord, LogTail, RequestRecord

TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'


class Replica:
    """An OpenAI-like server: the body's `first_s`, `gap_s` and `n` say when its tokens come."""

    def __init__(self, name: str) -> None:
        self.name, self.port, self.status = name, 0, 200

    async def serve(self) -> None:
        app = web.Application(client_max_size=1 << 27)
        app.router.add_get("/health", self._health)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()

    async def die(self) -> None:
        """Stop listening and reset every connection, as a killed process does."""
        for site in list(self._runner.sites):
            await site.stop()
        assert self._runner.server is not None
        for protocol in list(self._runner.server.connections):
            if protocol.transport is not None:
                protocol.transport.abort()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        headers = {"x-replica": self.name}
        if self.status != 200:
            return web.Response(status=self.status, headers=headers)
        first_s, gap_s, n = body.get("first_s", 0.0), body.get("gap_s", 0.0), body.get("n", 3)
        if not body.get("stream"):
            await asyncio.sleep(first_s)
            usage = {"prompt_tokens": body.get("prompt", 7), "completion_tokens": n}
            return web.json_response({"pad": "x" * body.get("pad_bytes", 0), "usage": usage}, headers=headers)
        answer = web.StreamResponse(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        await asyncio.sleep(first_s)
        for _ in range(n):
            await answer.write(TOKEN)
            await asyncio.sleep(gap_s)
        await answer.write((USAGE % (body.get("prompt", 7), n)).encode())
        return answer


@dataclass(frozen=True)
class Answer:
    """What a client saw; `status` 0 is a broken connection."""

    status: int
    replica: str | None
    text: str = ""
    retry_after: str | None = None
    first_body_s: float = float("nan")


@dataclass
class Proxy:
    """An Envoy, its replicas and a client."""

    envoy: RunningEnvoy
    files: envoy.EnvoyFiles
    client: aiohttp.ClientSession
    replicas: dict[str, Replica]
    log: LogTail
    records: list[LogRecord] = field(default_factory=list)

    async def ask(
        self, body: object = None, slo_class: str | None = None, path: str = "/v1/chat/completions"
    ) -> Answer:
        headers = {"x-slo-class": slo_class} if slo_class is not None else {}
        clock = asyncio.get_running_loop().time
        start_s, first_body_s, text = clock(), float("nan"), b""
        try:
            async with self.client.post(self.envoy.url + path, json=body or {}, headers=headers) as answer:
                async for chunk in answer.content.iter_any():
                    first_body_s = first_body_s if text else clock() - start_s
                    text += chunk
                heads = answer.headers
                return Answer(
                    answer.status, heads.get("x-replica"), text.decode(), heads.get("retry-after"), first_body_s
                )
        except aiohttp.ClientError:
            return Answer(0, None)

    async def ended(self, n: int) -> list[RequestRecord]:
        """The first `n` requests that the log says are over, waiting until it does."""
        async with asyncio.timeout(5):
            while True:
                self.records += self.log.read()
                ended = [record for record in self.records if isinstance(record, RequestRecord)]
                if len(ended) >= n:
                    assert self.log.broken_lines == 0, self.log.last_error
                    return ended[:n]
                await asyncio.sleep(0.02)


def a_table(replicas: dict[str, Replica], *classes: ClassRoute, **pools: str) -> RoutingTable:
    """Pools as `A="a1 a2"`; the first class is the default; without classes: chat over all pools alike."""
    backends = tuple(
        PoolBackends(name, tuple(replicas[r].endpoint for r in members.split())) for name, members in pools.items()
    )
    classes = classes or (ClassRoute("chat", tuple((name, 1.0) for name in pools)),)
    return RoutingTable(classes, backends, classes[0].name)


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    """Replicas a1, a2, b1, b2; an Envoy that sends all of class chat to pools A and B alike."""
    replicas = {name: Replica(name) for name in ("a1", "a2", "b1", "b2")}
    for replica in replicas.values():
        await replica.serve()
    folder = EnvoyFolder(tmp_path)
    folder.xds.mkdir()
    envoy.write(folder.xds, a_table(replicas, A="a1 a2", B="b1 b2"))
    async with embedded(folder) as running, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        files = envoy.EnvoyFiles(folder.xds, running.admin_url, log=folder.log)
        yield Proxy(running, files, client, replicas, LogTail(folder.access_log))
    for replica in replicas.values():
        await replica.close()


@pytest.fixture
def table(proxy: Proxy) -> Callable[..., RoutingTable]:
    """Routing tables over the proxy's replicas, see `a_table`."""
    return lambda *classes, **pools: a_table(proxy.replicas, *classes, **pools)
