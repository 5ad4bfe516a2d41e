"""All replicas are scraped at once over real HTTP; what one of them does wrong stays with that one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from poolpilot.telemetry.engine_collector import AT_ONCE, LATE_AT_ONCE, EngineCollector, ReplicaEndpoint
from poolpilot.telemetry.fetching import MAX_PAGE_BYTES
from poolpilot.telemetry.readings import ReplicaReading

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = """vllm:num_requests_running 2
vllm:num_requests_waiting 1
vllm:kv_cache_usage_perc 0.5
vllm:prompt_tokens_total {prompt}
vllm:generation_tokens_total {output}
poolpilot_busy_seconds_total {busy}
"""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def answering(text: str, status: int = 200) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return answer


async def never(request: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def too_much(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    line = b"# " + b"x" * 2**16 + b"\n"
    for _ in range(MAX_PAGE_BYTES // len(line) + 2):
        await response.write(line)
    return response


async def broken_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"vllm:num_requests_running 2\n")
    assert request.transport is not None
    request.transport.close()
    return response


async def elsewhere(request: web.Request) -> web.Response:
    raise web.HTTPFound("/good")


async def binary(request: web.Request) -> web.Response:
    return web.Response(body=b"\xff\xfe")


@asynccontextmanager
async def serving(pages: dict[str, Handler]) -> AsyncIterator[str]:
    app = web.Application()
    for path, handler in pages.items():
        app.router.add_get(f"/{path}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


GOOD = PAGE.format(prompt=100, output=50, busy=1)


async def test_a_bad_replica_hides_no_good_one() -> None:
    pages = {
        "good": answering(GOOD),
        "never": never,
        "too-much": too_much,
        "broken-off": broken_off,
        "elsewhere": elsewhere,
        "binary": binary,
        "half": answering(GOOD[: len(GOOD) // 2]),
        "failing": answering("oops", status=503),
    }
    async with serving(pages) as url, aiohttp.ClientSession() as session:
        endpoints = [ReplicaEndpoint("l4", name, f"{url}/{name}") for name in pages]
        endpoints.append(ReplicaEndpoint("l4", "absent", "http://127.0.0.1:1/metrics"))
        endpoints.append(ReplicaEndpoint("l4", "no-url", "metrics"))
        readings = {r.name: r for r in await EngineCollector(session, Clock(), timeout_s=2.0).collect(endpoints)}
    assert list(readings) == [e.name for e in endpoints]
    assert readings["good"].page is not None
    assert readings["good"].error == ""
    wanted = {
        "never": "no page within 2 s",
        "too-much": f"more than {MAX_PAGE_BYTES} bytes",
        "broken-off": "ClientPayloadError",
        "elsewhere": "HTTP status 302",
        "binary": "not UTF-8",
        "half": "cut off",
        "failing": "HTTP status 503",
        "absent": "ClientConnectorError",
        "no-url": "InvalidUrl",
    }
    for name, words in wanted.items():
        assert readings[name].page is None, name
        assert words in readings[name].error, (name, readings[name].error)


async def test_use_is_the_difference_of_two_pages_and_the_age_grows_without_one() -> None:
    now = {"page": GOOD}

    async def changing(request: web.Request) -> web.Response:
        return web.Response(text=now["page"], status=200 if now["page"] else 500)

    clock = Clock()
    async with serving({"metrics": changing}) as url, aiohttp.ClientSession() as session:
        collector = EngineCollector(session, clock)
        endpoints = [ReplicaEndpoint("l4", "a", f"{url}/metrics")]

        async def at(seconds: float, page: str) -> ReplicaReading:
            clock.now_s, now["page"] = 100.0 + seconds, page
            return (await collector.collect(endpoints))[0]

        first = await at(0.0, GOOD)
        assert (first.use, first.age_s) == (None, 0.0)
        second = await at(10.0, PAGE.format(prompt=300, output=150, busy=6))
        assert second.use is not None
        assert (second.use.tokens_per_s, second.use.busy_frac) == (30.0, 0.5)
        missing = await at(20.0, "")
        assert (missing.use, missing.age_s, missing.page) == (None, 10.0, second.page)
        back = await at(40.0, PAGE.format(prompt=600, output=150, busy=6))
        assert back.use is not None
        assert (back.use.span_s, back.use.prompt_tokens) == (30.0, 300.0)
        restarted = await at(50.0, PAGE.format(prompt=20, output=10, busy=2))
        assert restarted.use is not None
        assert (restarted.use.prompt_tokens, restarted.use.generation_tokens, restarted.use.busy_s) == (20.0, 10.0, 2.0)


async def test_a_replica_that_never_answered_ages_from_when_it_was_first_asked() -> None:
    clock = Clock()
    async with serving({"metrics": answering("", 500)}) as url, aiohttp.ClientSession() as session:
        collector = EngineCollector(session, clock)
        endpoints = [ReplicaEndpoint("l4", "a", f"{url}/metrics")]
        ages = []
        for _ in range(3):
            ages.append((await collector.collect(endpoints))[0].age_s)
            clock.now_s += 5.0
        await collector.collect([])
        forgotten = (await collector.collect(endpoints))[0].age_s
    assert ages == [0.0, 5.0, 10.0]
    assert forgotten == 0.0


@pytest.mark.parametrize("count", [0, 40])
async def test_any_number_of_replicas(count: int) -> None:
    async with serving({"metrics": answering(GOOD)}) as url, aiohttp.ClientSession() as session:
        endpoints = [ReplicaEndpoint("l4", str(n), f"{url}/metrics") for n in range(count)]
        readings = await EngineCollector(session, Clock(), timeout_s=20.0).collect(endpoints)
    assert [r.name for r in readings if r.page] == [str(n) for n in range(count)]


async def test_replicas_that_hang_take_no_turn_of_those_that_answer() -> None:
    """As many hang as are asked at a time, twice over; a first tick may pay for it, the next one does not."""
    hung = 2 * AT_ONCE
    async with serving({"good": answering(GOOD), "never": never}) as url:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            endpoints = [ReplicaEndpoint("l4", f"hung-{n}", f"{url}/never") for n in range(hung)]
            endpoints += [ReplicaEndpoint("l4", f"good-{n}", f"{url}/good") for n in range(40)]
            collector = EngineCollector(session, Clock(), timeout_s=3.0, budget_s=4.0)
            for _ in range(3):  # hung ones are told from prompt ones one tick after the other
                readings = await collector.collect(endpoints)
            assert [r.name for r in readings] == [e.name for e in endpoints]
            assert [r.name for r in readings if r.page] == [f"good-{n}" for n in range(40)]
            why = [r.error.partition(": ")[2] for r in readings if not r.page]
            assert why.count("no page within 3 s") >= LATE_AT_ONCE
            assert why.count("no page within 3 s") + sum("4 s" in words for words in why) == hung


async def test_a_replica_that_answers_again_has_its_turn_with_the_others() -> None:
    now: dict[str, Handler] = {"handler": never}

    async def switching(request: web.Request) -> web.StreamResponse:
        return await now["handler"](request)

    async with serving({"metrics": switching}) as url, aiohttp.ClientSession() as session:
        collector = EngineCollector(session, Clock(), timeout_s=0.2)
        endpoints = [ReplicaEndpoint("l4", "a", f"{url}/metrics")]
        assert (await collector.collect(endpoints))[0].page is None
        now["handler"] = answering(GOOD)
        collector._timeout_s = collector._budget_s = 30.0
        assert (await collector.collect(endpoints))[0].page is not None
        assert not collector._known["a"].late


async def test_a_collection_that_is_stopped_leaves_nothing_running() -> None:
    async with serving({"never": never}) as url, aiohttp.ClientSession() as session:
        endpoints = [ReplicaEndpoint("l4", str(n), f"{url}/never") for n in range(3)]
        before = asyncio.all_tasks()
        collecting = asyncio.create_task(EngineCollector(session, Clock(), timeout_s=60.0).collect(endpoints))
        await asyncio.sleep(0.1)
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        await asyncio.sleep(0.1)
        ours = [task for task in asyncio.all_tasks() - before if "EngineCollector" in repr(task)]
    assert ours == []
