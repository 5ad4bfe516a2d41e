"""The clients: what they send, what they count as served, shed and lost, in scenario time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from poolpilot.env.emulator.replay import Addressee, ClientRecord, Replay, replay
from poolpilot.env.workload.requests import Workload

CHAT = Addressee("chat", "m", by_header=True, stream=True, give_up_after_s=3.0)
BATCH = Addressee("batch", "m", by_header=False, stream=False, give_up_after_s=3.0)
SPEED_UP = 10.0
WHOLE = b'data: {"choices":[{"text":"x"}]}\n\ndata: [DONE]\n\n'


def requests(*outputs: int, class_index: int = 0) -> Workload:
    """One request every tenth of a scenario second, with so many output tokens."""
    n = len(outputs)
    return Workload(
        arrival_s=np.arange(n) * 0.1,
        prompt_tokens=np.full(n, 5),
        output_tokens=np.array(outputs),
        class_index=np.full(n, class_index),
        class_names=("chat", "batch"),
    )


class Server:
    """Answers each request by the next of `answers`; the last one goes on."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.got = list(answers), []
        self.got: list[tuple[str, dict[str, str], dict[str, Any]]]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.got.append((request.path, dict(request.headers), await request.json()))
        what = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if what == "busy":
            return web.Response(status=429, headers={"Retry-After": "1"})
        if what == "nobody ready":
            return web.Response(status=503, headers={"Retry-After": "1"})
        if what == "broken":
            return web.Response(status=503, text="no healthy upstream")
        if what == "plain":
            return web.json_response({"choices": []})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(WHOLE if what == "whole" else WHOLE[:30])
        if what == "reset" and request.transport is not None:
            request.transport.abort()
        return response


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("POST", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def sent(server: Server, workload: Workload) -> list[ClientRecord]:
    async with serving(server) as url:
        progress = Replay()
        records = await replay(workload, (CHAT, BATCH), url, SPEED_UP, progress)
    assert progress.in_flight == 0
    assert records is progress.records
    return records


@pytest.mark.parametrize(
    ("answers", "outcome", "turned_away", "detail"),
    [
        (["whole"], "served", 0, ""),
        (["busy", "busy", "whole"], "served", 2, ""),
        (["nobody ready", "busy", "whole"], "served", 2, ""),
        (["busy"], "shed", 3, ""),
        (["broken"], "lost", 0, "HTTP 503: no healthy upstream"),
        (["half"], "lost", 0, "the stream ended before its last event"),
        (["reset"], "lost", 0, "ClientPayloadError"),
        (["busy", "broken"], "lost", 1, "HTTP 503"),
    ],
    ids=[
        "served",
        "second thoughts",
        "nobody was ready at first",
        "given up",
        "an error",
        "a stream cut short",
        "a reset",
        "turned away, then lost",
    ],
)
async def test_what_becomes_of_a_request(answers: list[str], outcome: str, turned_away: int, detail: str) -> None:
    (record,) = await sent(Server(*answers), requests(7))
    assert (record.outcome, record.turned_away) == (outcome, turned_away)
    assert detail in record.detail
    assert bool(record.detail) is bool(detail)
    if outcome == "served":
        assert record.first_token_s is not None
        assert record.end_s is not None
        assert record.sent_s <= record.first_token_s <= record.end_s
        assert record.output_tokens == 7
        # It waited as told each time: a second of scenario time.
        assert record.first_token_s - record.sent_s >= turned_away * 1.0


async def test_a_server_that_is_not_there_loses_requests_and_ends_the_replay() -> None:
    async with serving(Server("whole")) as url:
        pass
    records = await replay(requests(3, 3), (CHAT, BATCH), url, SPEED_UP, Replay())
    assert [record.outcome for record in records] == ["lost", "lost"]
    assert "ClientConnectorError" in records[0].detail


async def test_requests_say_their_class_by_header_or_in_the_body() -> None:
    streaming, plain = Server("whole"), Server("plain")
    (chat,), (batch,) = await sent(streaming, requests(4)), await sent(plain, requests(4, class_index=1))
    path, headers, body = streaming.got[0]
    assert (path, headers["x-slo-class"], body["stream"], body["max_tokens"]) == ("/v1/completions", "chat", True, 4)
    assert (len(body["prompt"]), "metadata" in body) == (5, False)
    path, headers, body = plain.got[0]
    assert "x-slo-class" not in headers
    assert (body["metadata"], "stream" in body) == ({"slo_class": "batch"}, False)
    assert (chat.streamed, batch.streamed) == (True, False)
    assert (chat.outcome, batch.outcome) == ("served", "served")


async def test_an_embedding_has_no_output_and_is_served_whole() -> None:
    server = Server("plain")
    (record,) = await sent(server, requests(0))
    assert server.got[0][0] == "/v1/embeddings"
    assert len(server.got[0][2]["input"]) == 5
    assert (record.outcome, record.output_tokens) == ("served", 0)


async def test_requests_leave_in_order_and_not_before_their_time() -> None:
    server = Server("whole")
    records = await sent(server, requests(*range(1, 9)))
    assert sorted(body["max_tokens"] for _, _, body in server.got) == list(range(1, 9))
    due = np.arange(8) * 0.1
    assert (np.array([record.sent_s for record in records]) >= due - 1e-3).all()
    assert [record.outcome for record in records] == ["served"] * 8
