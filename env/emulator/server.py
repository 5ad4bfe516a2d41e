"""The HTTP face of an emulated replica: OpenAI's paths, vLLM's own, and its metrics page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Final

from aiohttp import web

from ... import __version__
from ..sim.engine_state import PS_PER_S
from .gpu_readings import GpuMeter
from .metrics_page import CONTENT_TYPE, MetricsPage, PageContent
from .openai_replies import DONE, Answer, embeddings
from .openai_requests import ApiError, Ask, Served, chat, completion, embedding
from .pacing import PacedSession
from .replica import ReplicaSpec
from .session import AWAKE, News, Ticket, TooLong

MAX_BODY_BYTES: Final = 16 * 2**20
VLLM_VERSION: Final = "0.32.0"
"""Whose paths, names and messages are emulated."""
_IN_FLIGHT_POLL_S: Final = 0.01

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Reader = Callable[[bytes, Served], Ask]


class Under:
    """The requests of one client under way in the engine: one for each answer, and what is new of them."""

    def __init__(self, paced: PacedSession) -> None:
        """Nothing is asked yet."""
        self._paced = paced
        self._tickets: list[Ticket] = []
        self._index: dict[Ticket, int] = {}
        self._new: dict[int, tuple[int, str | None]] = {}
        self._waiter: asyncio.Future[None] | None = None

    @property
    def answers(self) -> int:
        """How many were asked for."""
        return len(self._tickets)

    def submit(self, ask: Ask) -> None:
        """Queue all answers. Raises TooLong; call `abort` then, as always in the end."""
        for prompt, keys in zip(ask.prompts, ask.block_keys or ((),) * len(ask.prompts), strict=True):
            for _ in range(ask.answers):
                ticket = self._paced.submit(prompt, ask.output_tokens, ask.stream, self._hear, ask.priority, keys)
                self._index[ticket] = len(self._tickets)
                self._tickets.append(ticket)

    async def news(self) -> list[tuple[int, int, str | None]]:
        """What came since the last call, waited for: answer, tokens more, and why it ended."""
        if not self._new:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        told, self._new = self._new, {}
        return [(index, tokens, reason) for index, (tokens, reason) in told.items()]

    def abort(self) -> None:
        """Drop what has not ended."""
        for ticket in self._tickets:
            self._paced.abort(ticket)

    def _hear(self, news: News) -> None:
        index = self._index[news.ticket]
        earlier, _ = self._new.get(index, (0, None))
        self._new[index] = (earlier + news.new_tokens, news.reason)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Server:
    """The handlers of one replica."""

    def __init__(self, spec: ReplicaSpec, names: Sequence[str], paced: PacedSession, *, dev_mode: bool = False) -> None:
        """Serve `paced` under the model's `names`, the first of which labels the metrics.

        Args:
            spec: the replica.
            names: of the model.
            paced: the engine.
            dev_mode: also offer /sleep, /wake_up and /is_sleeping, as vLLM does with VLLM_SERVER_DEV_MODE=1.
        """
        self._spec, self._paced, self._dev_mode = spec, paced, dev_mode
        self._served = Served(tuple(names), spec.flags.max_model_len, spec.flags.prefix_caching)
        self._created_s = int(time.time())
        self._page = MetricsPage(names[0], spec, time.time())
        self._meters = [GpuMeter(draw, spec.law.best_token_s) for draw in spec.draws]
        self._numbers = count(1)
        self.cap_file_errors: Callable[[], int] = lambda: 0
        """How many there were; for the metrics page."""
        self.draining = False
        """New requests are refused."""

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[_errors_as_objects], client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/version", self._version)
        app.router.add_get("/load", self._load)
        if self._dev_mode:
            app.router.add_post("/sleep", self._sleep)
            app.router.add_post("/wake_up", self._wake_up)
            app.router.add_get("/is_sleeping", self._is_sleeping)
        return app

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, completion, "cmpl", is_chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat, "chatcmpl", is_chat=True)

    async def _generate(self, request: web.Request, read: Reader, prefix: str, *, is_chat: bool) -> web.StreamResponse:
        ask = await self._read(request, read)
        answer = Answer(f"{prefix}-{self._created_s:x}-{next(self._numbers)}", int(time.time()), ask, is_chat)
        under = Under(self._paced)
        try:
            _submit(under, ask)
            if ask.stream:
                return await _streamed(request, under, answer)
            return _json(answer.whole(await _all_ends(under)))
        finally:
            under.abort()

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        ask = await self._read(request, embedding)
        under = Under(self._paced)
        try:
            _submit(under, ask)
            ends = await _all_ends(under)
        finally:
            under.abort()
        if any(reason == "abort" for _, reason in ends):
            raise ApiError(503, "aborted: the engine was put to sleep", "ServiceUnavailableError")
        return _json(embeddings(ask))

    async def _read(self, request: web.Request, read: Reader) -> Ask:
        ask = read(await request.read(), self._served)
        if self.draining:
            raise ApiError(503, "the server is shutting down", "ServiceUnavailableError")
        return ask

    async def _models(self, _: web.Request) -> web.Response:
        cards: list[dict[str, object]] = [
            {
                "id": name,
                "object": "model",
                "created": self._created_s,
                "owned_by": "poolpilot",
                "root": self._served.names[0],
                "parent": None,
                "max_model_len": self._served.max_model_len,
                "permission": [],
            }
            for name in self._served.names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        figures = self._paced.figures()
        now_s = self._paced.now_ps() / PS_PER_S
        readings = [meter.read(now_s, figures) for meter in self._meters]
        gpus = [one for one, draw in zip(readings, self._spec.draws, strict=True) for _ in range(draw.gpus)]
        content = PageContent(figures, self._paced.session.tally, gpus, self.cap_file_errors())
        return web.Response(body=self._page.text(content), headers={"Content-Type": CONTENT_TYPE})

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VLLM_VERSION, "emulator": f"poolpilot {__version__}"})

    async def _load(self, _: web.Request) -> web.Response:
        return web.json_response({"server_load": self._paced.in_flight})

    async def _sleep(self, request: web.Request) -> web.Response:
        level = request.query.get("level", "1")
        if level not in ("0", "1", "2"):
            raise ApiError(400, f"level: {level[:20]!r}, wanted 0, 1 or 2", param="level")
        mode = request.query.get("mode", "abort")
        if mode not in ("abort", "wait"):
            raise ApiError(400, f"mode: {mode[:20]!r}; the emulator only knows abort and wait", param="mode")
        while mode == "wait" and self._paced.in_flight:
            await asyncio.sleep(_IN_FLIGHT_POLL_S)
        self._paced.sleep(int(level))
        return web.Response()

    async def _wake_up(self, _: web.Request) -> web.Response:
        self._paced.wake_up()
        return web.Response()

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self._paced.session.sleep_level != AWAKE})


def _submit(under: Under, ask: Ask) -> None:
    try:
        under.submit(ask)
    except TooLong as error:
        raise ApiError(400, str(error)) from None


async def _all_ends(under: Under) -> list[tuple[int, str]]:
    """Tokens and reason of each answer, when all have ended."""
    ends: dict[int, tuple[int, str]] = {}
    while len(ends) < under.answers:
        for index, tokens, reason in await under.news():
            if reason is not None:
                ends[index] = (tokens, reason)
    return [ends[index] for index in sorted(ends)]


async def _streamed(request: web.Request, under: Under, answer: Answer) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    parts = answer.stream_parts()
    so_far: dict[int, int] = {}
    ended = 0
    while ended < under.answers:
        text = []
        for index, tokens, reason in await under.news():
            if index not in so_far:
                text.append(parts.first(index))
            so_far[index] = so_far.get(index, 0) + tokens
            text.append(parts.tokens(index, tokens, reason, so_far[index]))
            ended += reason is not None
        await response.write("".join(text).encode())
    if answer.ask.include_usage:
        await response.write(answer.stream_usage(sum(so_far.values())) + DONE)
    else:
        await response.write(DONE)
    await response.write_eof()
    return response


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


@web.middleware
async def _errors_as_objects(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return web.Response(status=error.status, body=error.body(), content_type="application/json")
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kind = "NotFoundError" if error.status == 404 else "BadRequestError"
        failed = ApiError(error.status, error.reason or "refused", kind)
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.Response(status=error.status, body=failed.body(), content_type="application/json", headers=allowed)
