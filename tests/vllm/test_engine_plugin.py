"""The engine plugin in real vLLM: caps follow their source under load, and nothing that the source says ends the engine."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from poolpilot.commands.demonstration.real_vllm.tiny_model import VOCABULARY, make_tiny_model
from poolpilot.env.perf.law import TOKENS_GRID, IterationLaw
from poolpilot.telemetry.engine_page import EnginePage, parse_engine_page

from ..env.sim.served import Flags
from .serving import MODEL_NAME, PLUGIN, Server, free_port, paced_server, quiet_environment

FLAGS = Flags(max_num_seqs=32, max_num_batched_tokens=1024, max_model_len=1024, kv_blocks=128)
PATIENCE_S = 240.0


@dataclass
class Source:
    """What `/v1/caps/a` of a sidecar says, as a server of its own."""

    port: int
    status: int = 200
    text: str = ""
    asked: int = 0
    _runner: web.AppRunner | None = field(default=None, init=False)

    def say(self, token: int, cap: int, budget: int = 1024) -> None:
        self.text = json.dumps({"fencing_token": token, "batch_cap": cap, "token_budget": budget})

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=self.status, text=self.text)

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/caps/a", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def go(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()


@dataclass
class Load:
    """Clients that always have more requests than the engine may run."""

    session: aiohttp.ClientSession
    url: str
    finished: int = 0
    failed: list[str] = field(default_factory=list)

    async def page(self) -> EnginePage:
        async with self.session.get(f"{self.url}/metrics") as answer:
            return parse_engine_page(await answer.text(), self.url)

    async def until(self, what: str, true: object) -> EnginePage:
        """Poll the page until `true` of it."""
        deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            page = await self.page()
            if true(page):  # type: ignore[operator]
                return page
            assert asyncio.get_running_loop().time() < deadline_s, f"never {what}; last {page}"
            await asyncio.sleep(0.05)

    async def client(self, stopping: asyncio.Event, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not stopping.is_set():
            body = {
                "model": MODEL_NAME,
                "prompt": rng.integers(3, VOCABULARY, int(rng.integers(8, 200))).tolist(),
                "max_tokens": 24,
                "ignore_eos": True,
            }
            async with self.session.post(f"{self.url}/v1/completions", json=body) as answer:
                text = await answer.text()
                if answer.status == 200 and json.loads(text)["usage"]["completion_tokens"] == 24:
                    self.finished += 1
                else:
                    self.failed.append(text)
                    return


@asynccontextmanager
async def under_load(url: str, clients: int = 48) -> AsyncIterator[Load]:
    stopping = asyncio.Event()
    limit = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limit) as session:
        load = Load(session, url)
        tasks = [asyncio.create_task(load.client(stopping, n)) for n in range(clients)]
        try:
            yield load
        finally:
            stopping.set()
            await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def source_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory, source_port: int) -> Iterator[Server]:
    """vLLM with both halves of the plugin, its steps paced (10 ms and 20 µs a token) by a scheduler below the cap."""
    folder = tmp_path_factory.mktemp("capped")
    law = IterationLaw(TOKENS_GRID, 0.010 + 20e-6 * TOKENS_GRID, 0.0, 0.0, 0.0)
    arguments = ("--scheduler-cls", "poolpilot_engine.CappedScheduler", "--middleware", "poolpilot_engine.CapMetrics")
    environment = {
        "POOLPILOT_SCHEDULER_BASE": "paced_scheduler.PacedScheduler",
        "POOLPILOT_CAPS": f"http://127.0.0.1:{source_port}/v1/caps/a",
        "POOLPILOT_CAPS_STATUS": str(folder / "status"),
    }
    with paced_server(vllm_python, folder, law, FLAGS, arguments, environment) as running:
        yield running


@pytest.mark.timeout(600)
async def test_caps_follow_their_source_and_no_request_is_lost(server: Server, source_port: int) -> None:
    source = Source(source_port)
    async with under_load(server.url) as load:
        page = await load.until("full without a source", lambda p: p.running == 32)
        assert (page.batch_cap, page.token_budget) == (32, 1024), "the start values, before there is a source"
        source.say(token=5, cap=4)
        await source.serve()
        await load.until("down to 4", lambda p: p.batch_cap == 4 and p.running <= 4)
        for cap in (16, 2, 8):
            source.say(token=5, cap=cap)
            await load.until(f"at {cap}", lambda p, cap=cap: p.batch_cap == cap and p.running == cap)
        # Nothing of this may be taken up, nor end the engine.
        for text in ("", "{", '{"fencing_token": 5, "batch_cap": 0, "token_budget": 1}', "x" * 10_000):
            source.text, asked = text, source.asked
            await load.until("asked again", lambda _, asked=asked: source.asked >= asked + 2)
            assert (await load.page()).batch_cap == 8
        source.say(token=4, cap=1)
        asked = source.asked
        page = await load.until("asked again", lambda _: source.asked >= asked + 2)
        assert page.batch_cap == 8, "a leader of the past was followed"
        # Far above the start, and a budget with which nothing would ever be admitted: a token a sequence is the least.
        source.say(token=6, cap=10_000, budget=1)
        await load.until("taken", lambda p: (p.batch_cap, p.token_budget) == (32, 32))
        before = load.finished
        await load.until("served with next to no budget", lambda _: load.finished >= before + 5)
        source.say(token=6, cap=10_000, budget=99_999)
        await load.until("full again", lambda p: (p.batch_cap, p.token_budget, p.running) == (32, 1024, 32))
        source.say(token=6, cap=12, budget=256)
        await load.until("at 12", lambda p: p.batch_cap == 12 and p.running == 12 and p.token_budget == 256)
        await source.go()
        before = load.finished
        page = await load.until("served without the source", lambda _: load.finished > before + 50)
        assert page.batch_cap == 12, "the last good value stays when the source is gone"
    assert load.failed == []
    assert load.finished > 200


@pytest.mark.timeout(600)
def test_a_step_never_has_more_tokens_than_the_budget(server: Server) -> None:
    steps = server.steps()
    assert max(step["prefill"] + step["decodes"] for step in steps) <= 1024
    assert {step["running"] for step in steps} >= {2, 4, 8, 12, 16, 32}
    assert re.fullmatch(r"0\.\d+\..*", server.version())


@pytest.fixture(scope="module")
def stepped(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """vLLM's schedulers, both ways of scheduling, under caps that go up and down at every step."""
    folder = tmp_path_factory.mktemp("stepped")
    model = make_tiny_model(folder / "model")
    done = subprocess.run(
        [vllm_python, Path(__file__).with_name("step_capped.py"), model],
        input=json.dumps(CAPS_OF_STEPS),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=quiet_environment()
        | {
            "PYTHONPATH": str(PLUGIN),
            "POOLPILOT_CAPS": str(folder / "caps.json"),
            "POOLPILOT_CAPS_STATUS": str(folder / "status"),
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return document


CAPS_OF_STEPS = [[8, 512], [16, 512], [2, 512], [2, 100], [1, 1], [16, 1], [16, 64], [999, 9999], *[[16, 512]] * 60]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_both_of_its_schedulers_are_capped_and_finish_everything(way: str, stepped: dict[str, Any]) -> None:
    told = stepped[way]
    assert told["is_async"] == (way == "async"), "a plain scheduler would give up asynchronous scheduling"
    assert told["left"] == 0
    before = 0
    for (cap, budget), (running, tokens) in zip(CAPS_OF_STEPS, told["steps"], strict=True):
        assert running <= max(min(cap, 16), before), "admitted above the cap"
        assert tokens <= min(512, max(budget, min(cap, 16), before)), "more tokens than the budget"
        before = running
    assert told["steps"][0][0] == 8
    assert told["steps"][1][0] == 16
