"""Endpoints that cannot be profiled are refused in one line that says what was wrong; what can be read is read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from poolpilot.commands.profiling.endpoint import Description, Endpoint, EndpointError, describe, kv_tokens_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CACHE_LINE = 'vllm:cache_config_info{block_size="16",engine="%d",num_gpu_blocks="100"} 1.0\n'


def answers(document: object, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(document, status=status)

    return handler


def streams(*events: object) -> Handler:
    """A stream of these events, and the usual end."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    return handler


def token(so_far: int | None = None) -> dict[str, object]:
    usage = None if so_far is None else {"prompt_tokens": 3, "completion_tokens": so_far}
    return {"choices": [{"index": 0, "text": "x"}], "usage": usage}


MODELS = {"data": [{"id": "mine", "max_model_len": 4096, "root": "/m"}, {"id": "alias", "root": "/m"}]}


@asynccontextmanager
async def serving(routes: dict[str, Handler]) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A real server that answers these paths."""
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session:
            yield session, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_server_is_described(suffix: str) -> None:
    async with serving({"/v1/models": answers(MODELS), "/version": answers({"version": "0.32.0"})}) as (http, url):
        found = await describe(http, url + suffix, None)
    assert found == Description(url, "mine", 4096, "0.32.0", None, has_metrics=False)


def test_the_cache_of_all_engines_counts() -> None:
    assert kv_tokens_of("# HELP x\n" + CACHE_LINE % 0 + CACHE_LINE % 1) == 3200
    assert kv_tokens_of("vllm:other 1\n") is None
    assert kv_tokens_of('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n') is None


REFUSED: dict[str, tuple[dict[str, Handler], str | None, str]] = {
    "no such page": ({}, None, "/v1/models: status 404, no list of models: wanted an OpenAI-compatible server"),
    "another JSON": ({"/v1/models": answers({"models": []})}, None, "no list of models"),
    "no model": ({"/v1/models": answers({"data": []})}, None, "no list of models"),
    "a key is wanted": ({"/v1/models": answers({}, 401)}, None, "status 401: it wants a key; .*--api-key-env"),
    "another name": ({"/v1/models": answers(MODELS)}, "yours", "yours: not served by .*; it has mine, alias"),
    "several models": (
        {"/v1/models": answers({"data": [{"id": "a", "root": "x"}, {"id": "b", "root": "y"}]})},
        None,
        "serves a, b: choose one by --served-model-name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_endpoint_is_refused(case: str) -> None:
    routes, name, words = REFUSED[case]
    async with serving(routes) as (http, url):
        with pytest.raises(EndpointError, match=words) as raised:
            await describe(http, url, name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host"])
async def test_an_address_of_another_kind_is_refused(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(EndpointError, match="wanted http://HOST:PORT"):
            await describe(http, url, None)


async def test_nobody_there_is_said() -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1/models: .*is the server up there\?"):
            await describe(http, "http://127.0.0.1:9", None)


BAD_STREAMS: dict[str, tuple[Handler, str]] = {
    "no stream": (answers({"choices": []}), "answers as application/json, wanted a stream of events"),
    "refused": (answers({"error": {"message": "no ignore_eos here"}}, 400), "status 400: no ignore_eos here"),
    "too short": (streams(token(1), token(2)), "an answer of 2 tokens, asked for 8: does it know ignore_eos"),
    "large pieces": (streams(token(4), token(8)), "8 tokens in 2 events, wanted about one each"),
    "an error in the stream": (streams(token(1), {"error": {"message": "engine died"}}), "engine died"),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
async def test_what_cannot_be_timed_is_refused(case: str) -> None:
    handler, words = BAD_STREAMS[case]
    async with serving({"/v1/completions": handler}) as (http, url):
        endpoint = Endpoint(http, Description(url, "mine", None, None, None, has_metrics=False))
        with pytest.raises(EndpointError, match=words):
            await endpoint.stream(16, 8, np.random.default_rng(0))


async def test_each_event_counts_its_tokens() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 8}}
    merged = streams(*map(token, (1, 2, 4, 5, 6, 7, 8)), usage)
    uncounted = streams(*[token() for _ in range(7)], usage)
    for handler, counts in ((merged, [1, 2, 4, 5, 6, 7, 8]), (uncounted, [8 / 7 * i for i in range(1, 8)])):
        async with serving({"/v1/completions": handler}) as (http, url):
            endpoint = Endpoint(http, Description(url, "mine", None, None, None, has_metrics=False))
            answer = await endpoint.stream(16, 8, np.random.default_rng(0))
        np.testing.assert_allclose(answer.stream(8).tokens, counts)
        assert (np.diff(answer.stream(8).times_s) >= 0).all()
