"""Replicas that sleep instead of being stopped: real processes of a small server with vLLM's dev endpoints."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.actuators.in_flight import requests_at
from poolpilot.controller.actuators.local_replica import LocalSettings
from poolpilot.controller.actuators.processes import LocalProcesses
from poolpilot.controller.actuators.replicas import RentedSeconds
from poolpilot.controller.actuators.roster import started_ticks
from poolpilot.controller.actuators.sleep_mode import Sleeping, is_asleep

SERVER = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, port = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
asleep = False
PAGE = '''vllm:num_requests_running 0
vllm:num_requests_waiting 0
vllm:kv_cache_usage_perc 0
vllm:prompt_tokens_total 0
vllm:generation_tokens_total 0
'''

class Handler(BaseHTTPRequestHandler):
    def _say(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/is_sleeping":
            return self._say(200, json.dumps({"is_sleeping": asleep}).encode())
        self._say(200, PAGE.encode() if self.path == "/metrics" else b"")

    def do_POST(self):
        global asleep
        with (folder / "told").open("a") as told:
            told.write(self.path + "\\n")
        if (folder / ("refuse" + self.path.partition("?")[0].replace("/", "-"))).exists():
            return self._say(404)
        asleep = self.path.startswith("/sleep")
        self._say(200)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], list[str]]:
    """What the servers were asked to do."""
    (tmp_path / "server.py").write_text(SERVER)
    return lambda: (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []


@asynccontextmanager
async def a_pool(
    folder: Path, most: int = 1, keep_s: float = math.inf, roster: bool = False
) -> AsyncIterator[LocalProcesses]:
    async with aiohttp.ClientSession() as session:
        settings = LocalSettings(
            folder / "logs",
            roster=folder / "roster.json" if roster else None,
            poll_s=0.02,
            grace_s=0.05,
            first_backoff_s=0.05,
        )
        processes = LocalProcesses(
            {"a": ReplicaCommand((sys.executable, "-I", "-S", str(folder / "server.py"), str(folder), "{port}"))},
            settings,
            asyncio.get_running_loop().time,
            lambda pool: 0.0,
            functools.partial(requests_at, session),
            {"a": Sleeping(level=2, most=most, keep_s=keep_s)},
        )
        async with processes:
            yield processes


async def until(processes: LocalProcesses, **wanted: int) -> tuple[Endpoint, ...]:
    """Until the pool's counts are these; where the ready ones listen."""
    async with asyncio.timeout(60):
        while any(getattr(processes.states()["a"], name) != count for name, count in wanted.items()):
            processes.release(processes.states()["a"].endpoints)
            await asyncio.sleep(0.01)
    return processes.states()["a"].endpoints


def pids(processes: LocalProcesses) -> set[int]:
    return {r.child.pid for r in processes._replicas.values() if r.child}


async def test_the_one_that_goes_sleeps_and_is_the_first_to_come_back(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    async with a_pool(tmp_path) as processes:
        await processes.apply({"a": 3})
        both = await until(processes, ready=3)
        await processes.apply({"a": 1})
        kept = await until(processes, ready=1, asleep=1, draining=0)
        assert len(processes.states()["a"].replicas) == 2, "one sleeps, the other has no room to and stops"
        assert told() == ["/sleep?level=2&mode=wait"]
        before = pids(processes)
        await processes.apply({"a": 2})
        woken = await until(processes, ready=2, asleep=0)
        assert pids(processes) == before, "nothing was started"
        assert set(kept) < set(woken) <= set(both)
        assert told()[1:] == ["/wake_up"]
        async with aiohttp.ClientSession() as session:
            assert not any([await is_asleep(session, at) for at in woken])
        used = processes.usage()["a"]
        assert used.asleep_s > 0
        assert used.total_s == pytest.approx(used.starting_s + used.ready_s + used.draining_s + used.asleep_s)
        assert {c.kind for c in processes.caused()} >= {"starting_s", "asleep_s"}


async def test_one_that_sleeps_for_too_long_is_stopped(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    async with a_pool(tmp_path, keep_s=0.2) as processes:
        await processes.apply({"a": 1})
        await until(processes, ready=1)
        await processes.apply({"a": 0})
        await until(processes, asleep=1)
        await until(processes, asleep=0, draining=0)
        assert processes.states()["a"].replicas == ()


async def test_one_that_cannot_sleep_is_stopped(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    (tmp_path / "refuse-sleep").touch()
    async with a_pool(tmp_path) as processes:
        await processes.apply({"a": 1})
        await until(processes, ready=1)
        await processes.apply({"a": 0})
        await until(processes, ready=0, draining=0)
        assert processes.states()["a"].replicas == ()
        assert processes.states()["a"].failed == 0


async def test_one_that_does_not_wake_up_is_replaced(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    (tmp_path / "refuse-wake_up").touch()
    async with a_pool(tmp_path) as processes:
        await processes.apply({"a": 1})
        await until(processes, ready=1)
        await processes.apply({"a": 0})
        await until(processes, asleep=1)
        before = pids(processes)
        await processes.apply({"a": 1})
        await until(processes, ready=1, failed=1)
        assert not pids(processes) & before


async def test_one_that_dies_asleep_is_noticed(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    async with a_pool(tmp_path) as processes:
        await processes.apply({"a": 1})
        await until(processes, ready=1)
        await processes.apply({"a": 0})
        await until(processes, asleep=1)
        os.kill(pids(processes).pop(), signal.SIGKILL)
        await until(processes, asleep=0, failed=1)
        assert "while asleep" in processes.states()["a"].last_failure


async def test_the_next_sidecar_finds_it_asleep_and_does_not_route_to_it(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    async with a_pool(tmp_path, roster=True) as first:
        await first.apply({"a": 2})
        await until(first, ready=2)
        await first.apply({"a": 1})
        await until(first, ready=1, asleep=1)
        running = pids(first)
        await first.detach()
    async with a_pool(tmp_path, roster=True) as second:
        assert await second.adopt() == 2
        await until(second, ready=1, asleep=1)
        await second.apply({"a": 2})
        await until(second, ready=2, asleep=0)
        assert pids(second) == running
    assert [pid for pid in running if started_ticks(pid) is not None] == [], "left behind"


async def test_stopping_everything_stops_sleepers_too(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    async with a_pool(tmp_path, most=2) as processes:
        await processes.apply({"a": 2})
        await until(processes, ready=2)
        await processes.apply({"a": 0})
        await until(processes, asleep=2)
        left = pids(processes)
    assert [pid for pid in left if started_ticks(pid) is not None] == [], "left behind"
    assert processes.usage()["a"] != RentedSeconds()


def test_dev_endpoints_are_not_shown_to_others(tmp_path: Path) -> None:
    settings = LocalSettings(tmp_path, host="0.0.0.0")
    with pytest.raises(ValueError, match=r"a: sleep needs vLLM's dev endpoints.*on loopback only, not on 0\.0\.0\.0"):
        LocalProcesses(
            {"a": ReplicaCommand(("x", "{port}"))}, settings, lambda: 0.0, lambda p: 0.0, None, {"a": Sleeping()}
        )  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{"level": 0}, {"level": 3}, {"most": 0}, {"keep_s": 0.0}, {"keep_s": math.nan}])
def test_sleep_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted level 1 or 2"):
        Sleeping(**values)  # type: ignore[arg-type]
