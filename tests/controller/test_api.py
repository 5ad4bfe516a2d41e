import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from poolpilot.controller.actuators.caps import Caps
from poolpilot.controller.api import STANDBY, Backing, View, api
from poolpilot.controller.health import Health
from poolpilot.env.contract import Decision, Mode, Snapshot
from poolpilot.env.wire import from_json, to_json
from poolpilot.telemetry.access import Access, TokenError, is_loopback, read_token, serving

from .ticks import a_sitting, sat_through

FRESH = View(tick_age_s=0.5, decided=True)
TOKEN = "0123456789abcdef"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
PATHS = ("/healthz", "/readyz", "/metrics", "/v1/status", "/v1/snapshot", "/v1/decision", "/v1/caps/a", "/openapi.json")


class Sidecar:
    """The API of a sidecar that stands still."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.view, self.url, self.registry, self._session = FRESH, "", CollectorRegistry(), session
        self.caps: dict[str, Caps] = {}
        self.refusal: str | None = None
        self.asked: list[Mode] = []

    def request_mode(self, mode: Mode) -> str | None:
        self.asked.append(mode)
        if self.refusal is None:
            self.view = replace(self.view, mode=mode, goal=mode)
        return self.refusal

    @property
    def backing(self) -> Backing:
        return Backing(lambda: self.view, lambda: self.registry, lambda pool: self.caps.get(pool), self.request_mode)

    async def get(self, path: str, method: str = "GET", **asked: Any) -> tuple[int, Any]:
        async with self._session.request(method, self.url + path, **asked) as response:
            json = response.content_type == "application/json"
            return response.status, await (response.json() if json else response.text())


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


async def served(stack: AsyncExitStack, access: Access | None = None) -> Sidecar:
    sidecar = Sidecar(await stack.enter_async_context(aiohttp.ClientSession()))
    app = api(sidecar.backing, 30.0, access)
    sidecar.url = await stack.enter_async_context(serving(app, port=0))
    return sidecar


@pytest.fixture
async def sidecar(stack: AsyncExitStack) -> Sidecar:
    return await served(stack)


@pytest.mark.parametrize(("age_s", "status"), [(0.0, 200), (30.0, 200), (31.0, 503)])
async def test_it_is_alive_while_ticks_come(sidecar: Sidecar, age_s: float, status: int) -> None:
    sidecar.view = replace(FRESH, tick_age_s=age_s)
    seen, said = await sidecar.get("/healthz")
    assert seen == status
    assert said["ok"] is (status == 200)
    assert said["problems"] == ([] if status == 200 else [f"last tick {age_s:.1f} s ago, wanted 30 s at most"])


@pytest.mark.parametrize(
    ("view", "problems"),
    [
        (FRESH, []),
        (replace(FRESH, decided=False), ["no decision yet"]),
        (replace(FRESH, health=Health(problems=("routing: down",))), ["routing: down"]),
        (
            replace(FRESH, decided=False, health=Health(problems=("routing: down",))),
            ["routing: down", "no decision yet"],
        ),
        (replace(FRESH, role=STANDBY, leader="host:7:ab"), ["standing by: host:7:ab leads"]),
    ],
)
async def test_it_is_ready_when_decisions_reach_the_world(sidecar: Sidecar, view: View, problems: list[str]) -> None:
    sidecar.view = view
    said = {"ok": not problems, "problems": problems, "warnings": []}
    assert await sidecar.get("/readyz") == (503 if problems else 200, said)


async def test_it_is_ready_with_whatever_it_can_do_without_and_says_so(sidecar: Sidecar) -> None:
    sidecar.view = replace(FRESH, health=Health(warnings=("price of l4: 7201 s old",)))
    said = {"ok": True, "problems": [], "warnings": ["price of l4: 7201 s old"]}
    assert await sidecar.get("/readyz") == (200, said)
    _, status = await sidecar.get("/v1/status")
    assert (status["ready"], status["warnings"]) == (True, said["warnings"])


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


async def test_status_tells_role_mode_and_troubles(sidecar: Sidecar) -> None:
    sidecar.view = replace(FRESH, leader="me", fencing_token=7, mode=Mode.CANARY, goal=Mode.ACTIVE, gate="3 more ticks")
    status, said = await sidecar.get("/v1/status")
    assert status == 200
    shown = {"role": "leader", "leader": "me", "fencing_token": 7, "mode": "canary", "goal": "active"}
    assert {name: said[name] for name in shown} == shown
    assert said["gate"] == "3 more ticks"


async def test_engines_read_their_caps(sidecar: Sidecar) -> None:
    sidecar.caps["l4"] = Caps(fencing_token=3, batch_cap=8, token_budget=512)
    assert await sidecar.get("/v1/caps/l4") == (200, {"fencing_token": 3, "batch_cap": 8, "token_budget": 512})
    for pool in ("h100", "..%2F..%2Fetc", "%00"):
        status, said = await sidecar.get(f"/v1/caps/{pool}")
        assert status == 404
        assert "no such pool" in said["error"]


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_read_cannot_be_written(sidecar: Sidecar, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        status, said = await sidecar.get(path, method)
        assert status == 405
        assert "Method Not Allowed" in said["error"]


async def test_without_a_token_set_nothing_can_be_changed(sidecar: Sidecar) -> None:
    for headers in ({}, WITH_TOKEN, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        status, said = await sidecar.get("/v1/mode", "PUT", json={"mode": "active"}, headers=headers)
        assert status == 403
        assert "no token was set" in said["error"]
    assert sidecar.asked == []


@pytest.mark.parametrize(
    "shown",
    [None, "", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer", "Bearer \xff\xfe"],
)
async def test_a_mode_is_changed_by_those_who_show_the_token_only(stack: AsyncExitStack, shown: str | None) -> None:
    sidecar = await served(stack, Access(TOKEN))
    headers = {} if shown is None else {"Authorization": shown}
    status, said = await sidecar.get("/v1/mode", "PUT", json={"mode": "active"}, headers=headers)
    assert status == 401
    assert "Bearer TOKEN" in said["error"]
    assert sidecar.asked == []
    status, said = await sidecar.get("/v1/mode", "PUT", json={"mode": "active"}, headers=WITH_TOKEN)
    assert (status, said["mode"]) == (200, "active")
    assert sidecar.asked == [Mode.ACTIVE]


async def test_a_mode_that_is_not_to_be_had_is_refused_with_the_reason(stack: AsyncExitStack) -> None:
    sidecar = await served(stack, Access(TOKEN))
    sidecar.refusal = "the gate waits for 12 more ticks"
    asked = {"json": {"mode": "active"}, "headers": WITH_TOKEN}
    assert await sidecar.get("/v1/mode", "PUT", **asked) == (409, {"error": sidecar.refusal})
    sidecar.view = replace(FRESH, role=STANDBY, leader="other:1:ab")
    sidecar.asked.clear()
    status, said = await sidecar.get("/v1/mode", "PUT", **asked)
    assert status == 503
    assert "other:1:ab" in said["error"]
    assert sidecar.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"active",
        b"[]",
        b'{"mode": "fast"}',
        b'{"mode": null}',
        b'{"mode": ["active"]}',
        b'{"mode": "active", "x": 1}',
        b"[" * 4000,
    ],
)
async def test_what_is_no_mode_is_refused_by_what_would_be_one(stack: AsyncExitStack, body: bytes) -> None:
    sidecar = await served(stack, Access(TOKEN))
    status, said = await sidecar.get("/v1/mode", "PUT", data=body, headers=WITH_TOKEN)
    assert status == 400
    assert "one of advise, canary, active" in said["error"]
    assert sidecar.asked == []


async def test_a_body_too_large_to_be_a_mode_is_not_read(stack: AsyncExitStack) -> None:
    sidecar = await served(stack, Access(TOKEN))
    status, said = await sidecar.get("/v1/mode", "PUT", data=b" " * 100_000, headers=WITH_TOKEN)
    assert status == 413
    assert "Too Large" in said["error"]


async def test_at_an_address_that_others_reach_all_but_bare_verdicts_need_the_token(stack: AsyncExitStack) -> None:
    sidecar = await served(stack, Access(TOKEN, loopback=False))
    sidecar.view = replace(FRESH, health=Health(("envoy 10.0.0.7: down",), ("store redis://10.0.0.7: no answer",)))
    for path in PATHS:
        status, said = await sidecar.get(path)
        if path in ("/healthz", "/readyz"):
            assert (status, said["problems"], said["warnings"]) == (503 if path == "/readyz" else 200, [], [])
        else:
            assert status == 401
        known, _ = await sidecar.get(path, headers=WITH_TOKEN)
        assert known != 401
    _, said = await sidecar.get("/readyz", headers=WITH_TOKEN)
    assert said["problems"] == ["envoy 10.0.0.7: down"]
    assert said["warnings"] == ["store redis://10.0.0.7: no answer"]
    status, _ = await sidecar.get("/nothing-here")
    assert status == 401  # nor is it told what there is


def test_an_open_door_is_refused() -> None:
    with pytest.raises(TokenError, match="needs a token"):
        Access(None, loopback=False)
    for token in ("", "short", "with a space in the middle", "ümläutümläutümläut", "tab\there4567890123"):
        with pytest.raises(TokenError, match="wanted at least 16 printable"):
            Access(token)


def test_a_token_comes_from_a_file_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN
    for text in ("", "\n", f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}"):
        path.write_text(text)
        with pytest.raises(TokenError, match=f"{path}: wanted one line"):
            read_token(path)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_loopback(host) is local


async def test_it_listens_on_loopback_unless_told_otherwise(sidecar: Sidecar) -> None:
    assert sidecar.url.startswith("http://127.0.0.1:")
    port = int(sidecar.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass


async def test_a_taken_port_is_an_error(sidecar: Sidecar) -> None:
    port = int(sidecar.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="address already in use"):
        async with serving(api(sidecar.backing, 1.0), port):
            pass
