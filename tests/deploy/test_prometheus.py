"""A real Prometheus scrapes a running controller: every panel has data, every rule can be evaluated, and a controller
that dies is told of."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml

from poolpilot.commands.demonstration.stack import Stage, addressees
from poolpilot.controller.actuators.child import free_port
from poolpilot.env.emulator.replay import Replay, replay
from poolpilot.telemetry.valkey import embedded_valkey

from ..e2e.miniature import a_stage, control, end_processes_naming
from .shipped import RULES, alerts, panel_queries, tool

pytestmark = pytest.mark.e2e

PATIENCE_S = 90.0
EMPTY_WHEN_WELL = {"What Envoy had to do", "Age of followed prices", "Changes by the guard"}
"""Panels that may show nothing: nothing was retried, no price is followed, the guard changed nothing."""


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """Scrapes `target` every second with the shipped rules; gives its address."""
    folder.mkdir()
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "poolpilot", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port("127.0.0.1", keep_free=True)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            tool("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def asked(session: aiohttp.ClientSession, url: str, **parameters: str) -> Any:
    """What its API answers, or None while it does not."""
    try:
        async with session.get(url, params=parameters) as response:
            answer = await response.json()
    except (aiohttp.ClientError, OSError):
        return None
    assert answer["status"] == "success", (parameters, answer)
    return answer["data"]


async def values(session: aiohttp.ClientSession, url: str, query: str) -> list[float]:
    """The samples that a query gives now."""
    data = await asked(session, f"{url}/api/v1/query", query=query)
    return [] if data is None else [float(sample["value"][1]) for sample in data["result"]]


async def until(session: aiohttp.ClientSession, url: str, query: str) -> None:
    """Wait until a query gives something."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not await values(session, url, query):
        assert time.monotonic() < deadline_s, f"nothing for {query} within {PATIENCE_S:g} s"
        await asyncio.sleep(0.25)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of a cluster of which nothing is left, however the test ends."""
    yield tmp_path
    end_processes_naming(tmp_path)


async def test_prometheus_watches_a_running_controller(folder: Path) -> None:
    tool("prometheus")
    async with embedded_valkey(folder / "valkey") as valkey, aiohttp.ClientSession() as session:
        stage = a_stage(folder, valkey.url, speed_up=10.0)
        async with control(stage, folder / "run") as running:
            target = urlsplit(running.api_url).netloc
            async with prometheus(folder / "prometheus", target) as url:
                load = asyncio.create_task(played(stage, running.url))
                await until(session, url, 'up{job="poolpilot"} == 1')
                await until(session, url, 'sum(poolpilot_requests_total{outcome="met"}) > 5')
                await until(session, url, "sum(increase(poolpilot_tick_seconds_count[10s])) > 1")
                empty = [
                    title
                    for title, query in panel_queries()
                    if not (title in EMPTY_WHEN_WELL or query.endswith("< Inf"))  # there is no budget here
                    and not await values(session, url, query)
                ]
                rules = await asked(session, f"{url}/api/v1/rules")
                spent = await values(session, url, "sum(poolpilot_rent_usd_total)")
                modes = await values(session, url, 'poolpilot_mode{mode="active"}')
                load.cancel()
                assert await running.ended(PATIENCE_S) == 0
                await until(session, url, 'ALERTS{alertname="PoolpilotDown", alertstate="pending"}')
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in found} == {rule["alert"] for rule in alerts()}
    assert [(rule["name"], rule["lastError"]) for rule in found if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in found if rule["state"] == "firing"] == []
    assert empty == []
    assert modes == [1.0]
    assert all(math.isfinite(usd) and usd > 0 for usd in spent)
    assert len(spent) == 1


async def played(stage: Stage, url: str) -> None:
    """The scenario's requests."""
    await replay(stage.workload, addressees(stage.scenario), url, stage.speed_up, Replay())
