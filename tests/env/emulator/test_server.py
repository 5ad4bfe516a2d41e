"""A served replica speaks OpenAI's API and keeps the engine's times. The client is OpenAI's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolpilot.env.emulator.cap_file import Caps
from poolpilot.env.emulator.session import Session
from poolpilot.env.sim.engine_state import NEVER_PS, PS_PER_S

from .conftest import MODEL, Served, a_spec, served


@pytest.fixture
async def client(replica: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_completion_has_exactly_the_tokens_asked_for(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=[7] * 123, max_tokens=17)
    (choice,) = answer.choices
    assert (choice.finish_reason, len(choice.text.split())) == ("length", 17)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (123, 17, 140)


async def test_several_prompts_get_several_answers_each(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=["four", "a longer text"], n=2, max_tokens=5)
    assert [(choice.index, len(choice.text.split())) for choice in answer.choices] == [(i, 5) for i in range(4)]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1 + 4, 20)


@pytest.mark.parametrize("include_usage", [True, False])
async def test_stream_of_completions(client: openai.AsyncOpenAI, include_usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    stream = await client.completions.create(model=MODEL, prompt="x" * 40, max_tokens=30, stream=True, n=2, **options)
    chunks = [chunk async for chunk in stream]
    text, reasons = ["", ""], []
    for chunk in chunks:
        for choice in chunk.choices:
            text[choice.index] += choice.text
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert [len(t.split()) for t in text] == [30, 30]
    assert reasons == ["length", "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    charged = [chunk.usage for chunk in chunks if chunk.usage]
    assert [(u.prompt_tokens, u.completion_tokens) for u in charged] == ([(10, 60)] if include_usage else [])


async def test_stream_of_a_chat(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    stream = await client.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=9, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert len(said.split()) == 9
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4 + 1 + 4 + 1, 9)


async def test_chat_without_a_limit_fills_the_context(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x" * 4 * 2000}]
    answer = await client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 2048
    assert len((answer.choices[0].message.content or "").split()) == 2048 - 2004


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model=MODEL, input=[[1] * 100, [1] * 50], dimensions=8)
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert sum(x * x for x in answer.data[1].embedding) == pytest.approx(1.0)
    assert answer.usage.prompt_tokens == 150
    plain = await client.embeddings.create(model=MODEL, input="text", encoding_format="float")
    assert len(plain.data[0].embedding) == 16


async def test_model_list_and_small_pages(replica: Served, client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    async with aiohttp.ClientSession(replica.url) as http:
        assert (await http.get("/health")).status == 200
        assert (await (await http.get("/version")).json())["version"] == "0.32.0"
        assert await (await http.get("/load")).json() == {"server_load": 0}


async def test_lone_request_takes_the_time_that_the_engine_says() -> None:
    spec, speed_up = a_spec(), 5.0
    alone = Session(spec)
    alone.submit(0, 640, 150)
    while alone.due_ps < NEVER_PS:
        alone.advance(alone.due_ps)
    ttft_s, e2e_s = alone.tally.ttft.total, alone.tally.e2e.total
    async with served(spec, speed_up=speed_up) as replica, aiohttp.ClientSession(replica.url) as http:
        await _timed_stream(http, prompt=10, output=1)  # connects, and warms this path up
        first_s, end_s = await _timed_stream(http, prompt=640, output=150)
        tally = replica.paced.session.tally
        assert tally.ttft.total == pytest.approx(ttft_s + 0.012, abs=1e-3)  # the first one took 9 + 10 / 4 ms
    late_s = 0.25  # a busy machine, real seconds
    assert ttft_s <= first_s * speed_up * 1.001 <= ttft_s + late_s * speed_up
    assert e2e_s <= end_s * speed_up * 1.001 <= e2e_s + late_s * speed_up
    assert e2e_s > 4 * ttft_s > late_s  # so that the bounds tell one from the other


async def _timed_stream(http: aiohttp.ClientSession, prompt: int, output: int) -> tuple[float, float]:
    """Real seconds to the first and to the last byte of the body."""
    body = {"model": MODEL, "prompt": [1] * prompt, "max_tokens": output, "stream": True}
    start_s, first_s = time.perf_counter(), 0.0
    async with http.post("/v1/completions", json=body) as got:
        async for _ in got.content.iter_any():
            first_s = first_s or time.perf_counter() - start_s
    return first_s, time.perf_counter() - start_s


async def test_client_that_hangs_up_frees_the_engine(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        for stream in (True, False):
            body = {"model": MODEL, "prompt": [1] * 1000, "max_tokens": 1000, "stream": stream}
            asking = asyncio.create_task(_read_some(http, body))
            while replica.paced.figures().running == 0:
                await asyncio.sleep(0.005)
            assert replica.paced.figures().kv_used_frac > 0
            asking.cancel()
            async with asyncio.timeout(2):
                while replica.paced.in_flight:
                    await asyncio.sleep(0.005)
            figures = replica.paced.figures()
            assert (figures.running, figures.kv_used_frac) == (0, 0.0)
    assert replica.paced.session.tally.finished["abort"] == 2


async def _read_some(http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    async with http.post("/v1/completions", json=body) as got:
        await got.content.readany()
        await asyncio.sleep(60)


async def test_asleep_requests_hang_until_it_wakes_up(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        long = asyncio.create_task(_completion(http, 1000))
        while replica.paced.in_flight == 0:
            await asyncio.sleep(0.005)
        assert (await http.post("/sleep?level=2")).status == 200
        status, answer = await long
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "abort")
        assert await (await http.get("/is_sleeping")).json() == {"is_sleeping": True}
        assert (await http.get("/health")).status == 200
        hanging = asyncio.create_task(_completion(http, 5))
        done, _ = await asyncio.wait([hanging], timeout=0.2)
        assert not done
        assert (await http.post("/sleep?level=7")).status == 400
        assert (await http.post("/wake_up")).status == 200
        status, answer = await hanging
        assert (status, answer["usage"]["completion_tokens"]) == (200, 5)


async def test_it_may_wait_for_what_runs_before_it_sleeps(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        running = asyncio.create_task(_completion(http, 50))
        while replica.paced.in_flight == 0:
            await asyncio.sleep(0.005)
        assert (await http.post("/sleep?mode=wait")).status == 200
        status, answer = await running
        assert (status, answer["usage"]["completion_tokens"]) == (200, 50)
        assert await (await http.get("/is_sleeping")).json() == {"is_sleeping": True}
        assert (await http.post("/sleep?mode=keep")).status == 400
        assert (await http.post("/wake_up")).status == 200


async def test_sleep_is_only_offered_in_dev_mode() -> None:
    async with served(a_spec()) as replica, aiohttp.ClientSession(replica.url) as http:
        assert (await http.post("/sleep")).status == 404


async def _completion(http: aiohttp.ClientSession, tokens: int) -> tuple[int, Any]:
    body = {"model": MODEL, "prompt": [1] * 10, "max_tokens": tokens}
    async with http.post("/v1/completions", json=body) as got:
        return got.status, await got.json()


async def test_live_cap_holds_under_load(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        load = [asyncio.create_task(_completion(http, 40)) for _ in range(24)]
        while replica.paced.figures().running < 8:
            await asyncio.sleep(0.002)
        replica.paced.apply(Caps(1, 2, 64))
        running = []
        while not all(task.done() for task in load):
            running.append(replica.paced.figures().running)
            await asyncio.sleep(0.002)
        drained = next(i for i, count in enumerate(running) if count <= 2)
        assert max(running[drained:]) == 2
        assert [status for status, _ in await asyncio.gather(*load)] == [200] * 24


async def test_draining_refuses_the_new_and_finishes_the_old(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        old = asyncio.create_task(_completion(http, 50))
        while replica.paced.in_flight == 0:
            await asyncio.sleep(0.002)
        replica.server.draining = True
        status, answer = await _completion(http, 5)
        assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")
        assert (await http.get("/health")).status == 200
        assert (await old)[0] == 200
        await replica.paced.all_ended()


BAD: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": ("/v1/completions", b"{", 400, "JSON"),
    "no UTF-8": ("/v1/completions", b'{"prompt": "\xff"}', 400, "JSON"),
    "too deep": ("/v1/completions", b"[" * 100_000, 400, "JSON"),
    "no object": ("/v1/completions", [1], 400, "object"),
    "no prompt": ("/v1/completions", {}, 400, "prompt"),
    "empty prompt": ("/v1/completions", {"prompt": ""}, 400, "prompt"),
    "mixed prompt": ("/v1/completions", {"prompt": [1, "a"]}, 400, "prompt"),
    "unknown model": ("/v1/completions", {"model": "gpt", "prompt": "a"}, 404, "`gpt` does not exist"),
    "model of a wrong type": ("/v1/completions", {"model": 1, "prompt": "a"}, 400, "model"),
    "prompt too long": (
        "/v1/completions",
        {"prompt": [1] * 2048, "max_tokens": 1},
        400,
        "maximum context length is 2048",
    ),
    "answer too long": ("/v1/completions", {"prompt": [1], "max_tokens": 9999}, 400, "maximum context length"),
    "no tokens": ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"),
    "true is no number": ("/v1/completions", {"prompt": "a", "max_tokens": True}, 400, "max_tokens"),
    "too many answers": ("/v1/completions", {"prompt": ["a"] * 200, "n": 2}, 400, "at most 256"),
    "too hot": ("/v1/completions", {"prompt": "a", "temperature": -1}, 400, "temperature"),
    "no number": ("/v1/completions", b'{"prompt": "a", "top_p": NaN}', 400, "top_p"),
    "not emulated": ("/v1/completions", {"prompt": "a", "logprobs": 3}, 400, "logprobs"),
    "stray options": ("/v1/completions", {"prompt": "a", "stream_options": {}}, 400, "stream=True"),
    "bad options": ("/v1/completions", {"prompt": "a", "stream": True, "stream_options": 3}, 400, "include_usage"),
    "bad stop": ("/v1/completions", {"prompt": "a", "stop": [1]}, 400, "stop"),
    "stream of a wrong type": ("/v1/completions", {"prompt": "a", "stream": "yes"}, 400, "stream"),
    "no messages": ("/v1/chat/completions", {}, 400, "messages"),
    "message without a role": ("/v1/chat/completions", {"messages": [{"content": "a"}]}, 400, "role"),
    "an image": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "text",
    ),
    "no input": ("/v1/embeddings", {"model": MODEL}, 400, "input"),
    "bad encoding": ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
    "input too long": ("/v1/embeddings", {"input": [1] * 3000}, 400, "maximum context length"),
    "no such path": ("/v1/images", {}, 404, "Not Found"),
    "wrong method": ("/health", {}, 405, "Method"),
}


async def test_malformed_requests_get_an_error_object(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        for what, (path, body, status, words) in BAD.items():
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            async with http.post(path, data=sent) as got:
                error = (await got.json())["error"]
                assert (got.status, error["code"]) == (status, status), what
                assert words in error["message"], what
    assert replica.paced.in_flight == 0


async def test_openai_client_raises_its_own_errors(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="gpt", prompt="a")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        await client.completions.create(model=MODEL, prompt=[1] * 5000)


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 3000) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=6,
)
FIELDS = (
    *("model", "prompt", "messages", "input", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options"),
    *("temperature", "top_p", "seed", "stop", "ignore_eos", "dimensions", "encoding_format", "echo", "logprobs"),
)
Bodies = st.builds(
    lambda good, noise: {**good, **noise},
    st.sampled_from(
        [
            {"prompt": [1, 2], "max_tokens": 2},
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
            {"input": "a"},
            {},
        ]
    ),
    st.dictionaries(st.sampled_from(FIELDS), Json, max_size=3),
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(Bodies | Json, min_size=8, max_size=8), raw=st.binary(max_size=20))
def test_no_body_breaks_the_server(bodies: list[Any], raw: bytes) -> None:
    asyncio.run(_all_answered([json.dumps(body).encode() for body in bodies] + [raw]))


async def _all_answered(bodies: list[bytes]) -> None:
    async with served(a_spec(), speed_up=10_000.0) as replica, aiohttp.ClientSession(replica.url) as http:
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings"):
            for body in bodies:
                async with http.post(path, data=body) as got:
                    text = await got.text()
                    assert got.status in (200, 400, 404), (path, body, text)
                    if got.status != 200:
                        assert json.loads(text)["error"]["message"]
        assert replica.paced.in_flight == 0
        assert replica.paced.figures().kv_used_frac == 0.0


async def test_stream_interval_bounds_the_events() -> None:
    async with served(a_spec(), stream_interval=25) as replica, aiohttp.ClientSession(replica.url) as http:
        body = {"prompt": [1] * 10, "max_tokens": 100, "stream": True}
        async with http.post("/v1/completions", json=body) as got:
            text = await got.text()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert sum(len(event["choices"][0]["text"].split()) for event in events) == 100
    assert len(events) <= 100 / 25 + 2
    assert text.endswith("data: [DONE]\n\n")


async def test_a_scrape_changes_no_times(replica: Served) -> None:
    async with aiohttp.ClientSession(replica.url) as http:
        asking = asyncio.create_task(_completion(http, 300))
        while not asking.done():
            replica.paced.figures()
            await asyncio.sleep(0.001)
        status, _ = await asking
    assert status == 200
    tally = replica.paced.session.tally
    decoding_s = tally.e2e.total - tally.ttft.total
    # 299 iterations of 9.75 ms, and 1 us for each of 11 to 309 tokens read
    assert decoding_s == pytest.approx(299 * 9.75e-3 + sum(range(11, 310)) * 1e-6)
    assert replica.paced.session.figures(10**6 * PS_PER_S).gap_total_s == pytest.approx(decoding_s)
