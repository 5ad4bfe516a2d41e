"""Envoy's own figures of the pools, from a page and from a real Envoy."""

import math
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from poolpilot.controller.actuators import envoy
from poolpilot.controller.actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable
from poolpilot.controller.actuators.envoy_process import EnvoyFolder, embedded
from poolpilot.telemetry.envoy_stats import EnvoyStats, parse_envoy_stats
from poolpilot.telemetry.metrics_page import PageError

SOURCE = "http://127.0.0.1:9901/stats/prometheus"
PAGE = """# TYPE envoy_cluster_membership_healthy gauge
envoy_cluster_membership_healthy{envoy_cluster_name="l4"} 2
envoy_cluster_membership_healthy{envoy_cluster_name="h100"} 1
# TYPE envoy_cluster_membership_total gauge
envoy_cluster_membership_total{envoy_cluster_name="l4"} 3
envoy_cluster_membership_total{envoy_cluster_name="h100"} 1
envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name="l4"} 1
envoy_cluster_upstream_rq_retry{envoy_cluster_name="l4"} 7
envoy_cluster_upstream_rq_retry_success{envoy_cluster_name="l4"} 5
envoy_cluster_upstream_rq_pending_overflow{envoy_cluster_name="l4"} 4
envoy_cluster_upstream_rq_active{envoy_cluster_name="l4"} 12
"""


def test_the_pools_that_envoy_knows() -> None:
    stats = parse_envoy_stats(PAGE, ("l4", "h100", "t4"), SOURCE)
    assert list(stats) == ["l4", "h100"]
    l4 = stats["l4"]
    assert (l4.endpoints, l4.healthy, l4.ejected, l4.active) == (3.0, 2.0, 1.0, 12.0)
    assert (l4.retries_total, l4.overflows_total) == (7.0, 4.0)
    assert math.isnan(stats["h100"].retries_total)


@pytest.mark.parametrize(
    ("page", "named"),
    [
        ("", "cut off"),
        ("envoy_server_live 1\n", "no envoy_cluster_membership_total; looked for the figures of l4, h100"),
        (PAGE.replace(" 12", " -12"), "envoy_cluster_upstream_rq_active: -12"),
        (PAGE.replace(" 12", " many"), "not a metric line"),
    ],
)
def test_a_page_that_cannot_be_used_is_named(page: str, named: str) -> None:
    with pytest.raises(PageError) as caught:
        parse_envoy_stats(page, ("l4", "h100"), SOURCE)
    assert named in str(caught.value)


@pytest.mark.e2e
async def test_a_real_envoy_tells_of_healthy_replicas_and_requests(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="{}", content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    replica = Endpoint("127.0.0.1", runner.addresses[0][1])
    table = RoutingTable(
        (ClassRoute("chat", (("l4", 1.0), ("h100", 0.0))),),
        (PoolBackends("l4", (replica,)), PoolBackends("h100", ())),
        "chat",
    )
    folder = EnvoyFolder(tmp_path / "envoy")
    folder.xds.mkdir(parents=True)
    envoy.write(folder.xds, table)
    try:
        async with embedded(folder) as running, aiohttp.ClientSession() as session:
            for _ in range(3):
                async with session.post(f"{running.url}/v1/chat/completions", json={"model": "m"}) as response:
                    assert response.status == 200
            stats = await EnvoyStats(session, lambda: running.admin_url, ("l4", "h100"), timeout_s=30.0).collect()
    finally:
        await runner.cleanup()
    assert (stats["l4"].endpoints, stats["l4"].healthy, stats["l4"].requests_total) == (1.0, 1.0, 3.0)
    assert (stats["l4"].active, stats["l4"].retries_total) == (0.0, 0.0)
    assert (stats["h100"].endpoints, stats["h100"].healthy) == (0.0, 0.0)
    assert not [
        name for name in ("overflows_total", "timeouts_total", "pending") if math.isnan(getattr(stats["l4"], name))
    ]


async def test_an_envoy_that_is_not_there_is_named() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(PageError, match=r"127\.0\.0\.1:1/stats/prometheus.*ClientConnectorError"):
            await EnvoyStats(session, lambda: "http://127.0.0.1:1", ("l4",), timeout_s=30.0).collect()
