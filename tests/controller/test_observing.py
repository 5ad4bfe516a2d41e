"""Prices, GPUs and the proxy's own figures reach snapshot and bill, and what is missing is named."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import yaml
from aiohttp import web

from poolpilot.controller.observing import Observation, Observer, ReplicaUse, more_sources
from poolpilot.env.ledger import scaling_seconds_of
from poolpilot.env.scenario import load_scenario
from poolpilot.telemetry.assemble import PoolState
from poolpilot.telemetry.engine_collector import EngineCollector, ReplicaEndpoint
from poolpilot.telemetry.envoy_log import LogTail

from ..e2e.miniature import MINIATURE

ENGINE = """vllm:num_requests_running 2
vllm:num_requests_waiting 1
vllm:kv_cache_usage_perc 0.5
vllm:prompt_tokens_total 100
vllm:generation_tokens_total 50
poolpilot_busy_seconds_total 5
poolpilot_useful_seconds_total 5
"""
GPU = '{gpu="0",UUID="GPU-0"}'
DCGM = f"""DCGM_FI_DEV_GPU_TEMP{GPU} 81
DCGM_FI_DEV_POWER_USAGE{GPU} 500
DCGM_FI_DEV_GPU_UTIL{GPU} 75
DCGM_FI_DEV_CLOCKS_EVENT_REASONS{GPU} 4
"""
PROXY = """envoy_cluster_membership_total{envoy_cluster_name="dear"} 1
envoy_cluster_membership_healthy{envoy_cluster_name="dear"} 1
"""
ONE_UP = PoolState(ready=1, starting=0, draining=0, asleep=0, target=1)
NONE_UP = PoolState(ready=0, starting=0, draining=0, asleep=0, target=0)


@dataclass
class World:
    """Pages that a test changes, and an observer that looks at them."""

    pages: dict[str, str]
    observer: Observer
    url: str
    now_s: float = 0.0

    async def look(self, at_s: float) -> Observation:
        """What is seen at a time; one replica of `dear` has been up all along."""
        self.now_s = at_s
        return await self.observer.observe(
            at_s,
            [ReplicaEndpoint("dear", "dear-1", f"{self.url}/engine")],
            {"dear": ONE_UP, "cheap": NONE_UP},
            {"dear": ReplicaUse(at_s, 0.0, 0.0), "cheap": ReplicaUse(0.0, 0.0, 0.0)},
            scaling_seconds_of((), ("dear", "cheap")),
            np.array([[1.0, 0.0], [1.0, 0.0]]),
        )


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    pages = {"/engine": ENGINE, "/dcgm": DCGM, "/stats/prometheus": PROXY}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=pages[request.path], status=200 if pages[request.path] else 500)

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    document = yaml.safe_load(MINIATURE.format(duration_s=100))
    document["pools"]["dear"]["gpu_metrics"] = {"dcgm": [f"{url}/dcgm"]}
    document["pools"]["dear"]["price"]["feed"] = {"path": "prices.csv", "as_of": "2020-01-01", "max_age_s": 1e10}
    (folder / "prices.csv").write_text("gpu,usd_hr_ondemand\nH100,3.6\n")
    path = folder / "live.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    scenario = load_scenario(str(path))
    try:
        async with aiohttp.ClientSession() as session:
            world: list[World] = []

            def clock() -> float:
                return world[0].now_s

            collector = EngineCollector(session, clock, timeout_s=20.0)
            more = more_sources(scenario, session, clock, lambda: url)
            log = LogTail(folder / "access.log")
            world.append(World(pages, Observer(scenario, log, collector, 1.0, more), url))
            yield world[0]
    finally:
        await runner.cleanup()


async def test_a_followed_price_and_the_gpus_reach_snapshot_and_bill(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        for _ in range(100):  # a file that changed is read beside the tick
            first = await world.look(0.0)
            if first.snapshot.usd_per_hr[0] == 3.6:
                break
        seen = await world.look(10.0)
    snapshot = seen.snapshot
    assert snapshot.usd_per_hr.tolist() == [3.6, 1.861]
    assert float(seen.bill.total_usd) == pytest.approx(3.6 * 10.0 / 3600.0)
    assert (snapshot.gpu_temp_c[0], snapshot.power_w[0], snapshot.gpu_util_frac[0]) == (81.0, 500.0, 0.75)
    assert snapshot.throttled[0] == 1.0
    assert seen.proxy["dear"].healthy == 1.0
    assert seen.sources.troubles == ()
    assert seen.prices.age_s[0] > 86400.0


async def test_what_stays_away_is_named_and_comes_back(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await world.look(0.0)
        world.pages.update({"/engine": "", "/dcgm": "", "/stats/prometheus": ""})
        once = await world.look(10.0)
        gone = await world.look(60.0)
        world.pages.update({"/engine": ENGINE, "/dcgm": DCGM, "/stats/prometheus": PROXY})
        back = await world.look(70.0)
    assert {name for name, count in once.sources.failed.items() if count} - {"access_log"} == {
        "engines",
        "gpus",
        "proxy",
    }
    assert once.sources.troubles == ()
    assert once.snapshot.gpu_temp_c[0] == 81.0
    telemetry, gpus, proxy = gone.sources.troubles
    assert telemetry.startswith("telemetry of dear: nothing for 60 s from any of its 1 replicas; http://127.0.0.1")
    assert "HTTP status 500" in telemetry
    assert gpus.startswith("GPUs of dear: http://127.0.0.1")
    assert proxy.startswith("proxy: http://127.0.0.1")
    assert not gone.snapshot.known("gpu_temp_c")[0]
    assert not gone.snapshot.known("running")[0]
    assert back.sources.troubles == ()
    assert back.snapshot.gpu_temp_c[0] == 81.0
