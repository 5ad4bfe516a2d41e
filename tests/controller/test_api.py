import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.controller.api import View, api, serving
from poolpilot.env.contract import Decision, Snapshot
from poolpilot.env.wire import from_json, to_json

from .ticks import a_sitting, sat_through

FRESH = View(tick_age_s=0.5, decided=True)


class Sidecar:
    """The API of a sidecar that stands still."""

    def __init__(self, session: aiohttp.ClientSession, registry: CollectorRegistry) -> None:
        self.view, self.url, self.registry, self._session = FRESH, "", registry, session

    async def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        async with self._session.request(method, self.url + path) as response:
            json = response.content_type == "application/json"
            return response.status, await (response.json() if json else response.text())


@pytest.fixture
async def sidecar() -> AsyncIterator[Sidecar]:
    registry = CollectorRegistry()
    async with aiohttp.ClientSession() as session:
        sidecar = Sidecar(session, registry)
        async with serving(api(lambda: sidecar.view, registry, alive_within_s=30.0), port=0) as sidecar.url:
            yield sidecar


@pytest.mark.parametrize(("age_s", "status"), [(0.0, 200), (30.0, 200), (31.0, 503), (float("inf"), 503)])
async def test_it_is_alive_while_ticks_come(sidecar: Sidecar, age_s: float, status: int) -> None:
    sidecar.view = View(age_s, decided=False, troubles=("envoy: down",))
    seen, said = await sidecar.get("/healthz")
    assert seen == status
    assert said["ok"] is (status == 200)
    assert said["problems"] == ([] if status == 200 else [f"last tick {age_s:.1f} s ago, wanted 30 s at most"])


@pytest.mark.parametrize(
    ("view", "problems"),
    [
        (FRESH, []),
        (replace(FRESH, decided=False), ["no decision yet"]),
        (replace(FRESH, troubles=("store: no answer",)), ["store: no answer"]),
        (replace(FRESH, decided=False, troubles=("envoy: down",)), ["envoy: down", "no decision yet"]),
    ],
)
async def test_it_is_ready_when_decisions_reach_the_world(sidecar: Sidecar, view: View, problems: list[str]) -> None:
    sidecar.view = view
    assert await sidecar.get("/readyz") == (503 if problems else 200, {"ok": not problems, "problems": problems})


async def test_metrics_are_the_registry_that_was_handed_in(sidecar: Sidecar) -> None:
    Gauge("poolpilot_usd_per_hr", "Rent.", registry=sidecar.registry).set(3.5)
    status, text = await sidecar.get("/metrics")
    assert status == 200
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].value == 3.5


@pytest.mark.parametrize("path", ["/v1/snapshot", "/v1/decision"])
async def test_before_the_first_tick_there_is_nothing_to_show(sidecar: Sidecar, path: str) -> None:
    status, said = await sidecar.get(path)
    assert status == 503
    assert said["error"].startswith(f"no {path.rsplit('/', 1)[1]} yet")


async def test_the_latest_snapshot_and_decision_come_as_the_contract_has_them(sidecar: Sidecar) -> None:
    (record,) = sat_through(a_sitting(), 1, seed=3)
    sidecar.view = replace(FRESH, snapshot=record.snapshot, decision=record.decision)
    status, document = await sidecar.get("/v1/snapshot")
    assert status == 200
    assert to_json(from_json(Snapshot, document)) == to_json(record.snapshot)
    status, document = await sidecar.get("/v1/decision")
    assert status == 200
    assert to_json(from_json(Decision, document)) == to_json(record.decision)


@pytest.mark.parametrize("path", ["/healthz", "/v1/decision", "/metrics"])
async def test_nothing_can_be_changed_from_outside(sidecar: Sidecar, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        status, _ = await sidecar.get(path, method)
        assert status == 405


async def test_it_listens_on_loopback_unless_told_otherwise(sidecar: Sidecar) -> None:
    assert sidecar.url.startswith("http://127.0.0.1:")
    port = int(sidecar.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass


async def test_a_taken_port_is_an_error(sidecar: Sidecar) -> None:
    port = int(sidecar.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="address already in use"):
        async with serving(api(lambda: FRESH, sidecar.registry, 1.0), port):
            pass
