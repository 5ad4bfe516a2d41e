from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from poolpilot.controller.actuators.child import free_port
from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.actuators.in_flight import requests_at
from poolpilot.telemetry.fetching import MAX_PAGE_BYTES

PAGE = """vllm:num_requests_running{engine="0"} 3
vllm:num_requests_waiting{engine="0"} 2
vllm:kv_cache_usage_perc{engine="0"} 0.1
vllm:prompt_tokens_total{engine="0"} 10
vllm:generation_tokens_total{engine="0"} 20
"""


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (PAGE, 200, 5),
        (PAGE, 500, None),
        ("hello", 200, None),
        ("", 200, None),
        (PAGE + "# x\n" * (MAX_PAGE_BYTES // 4), 200, None),
    ],
    ids=["running and queued", "an error", "no metrics", "nothing", "endless"],
)
async def test_requests_as_the_page_says(
    session: aiohttp.ClientSession, body: str, status: int, expected: int | None
) -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=body, status=status)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint = Endpoint("127.0.0.1", runner.addresses[0][1])
        assert await requests_at(session, endpoint, timeout_s=30.0) == expected
    finally:
        await runner.cleanup()


async def test_nobody_there_says_nothing(session: aiohttp.ClientSession) -> None:
    endpoint = Endpoint("127.0.0.1", free_port("127.0.0.1", keep_free=True))
    assert await requests_at(session, endpoint) is None
