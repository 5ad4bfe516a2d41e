"""Servers that somebody else runs: what answers is there, what does not is not, and nothing is started or stopped."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from poolpilot.controller.actuators.child import ReplicaCommand
from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.actuators.fleet import Fleet
from poolpilot.controller.actuators.local_replica import LocalSettings
from poolpilot.controller.actuators.own_servers import OwnServers
from poolpilot.controller.actuators.processes import LocalProcesses
from poolpilot.controller.actuators.replicas import RentedSeconds, Stage
from poolpilot.env.scenario.addresses import Address


class Health:
    """A server with nothing but a health check."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port, self.status = host, port, 200

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status)

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def go(self) -> None:
        await self._runner.cleanup()


@asynccontextmanager
async def servers(n: int) -> AsyncIterator[list[Health]]:
    up = [Health() for _ in range(n)]
    for server in up:
        await server.serve()
    yield up
    for server in up:
        await server.go()


@asynccontextmanager
async def own(*addresses: tuple[str, int], clock: Callable[[], float] = lambda: 0.0) -> AsyncIterator[OwnServers]:
    async with aiohttp.ClientSession() as session:
        yield OwnServers({"a": tuple(Address(*at) for at in addresses)}, session, clock, poll_s=0.01)


def ready(found: OwnServers) -> set[int]:
    return {endpoint.port for endpoint in found.states()["a"].endpoints}


async def test_what_answers_is_ready_and_what_is_wanted_beyond_is_on_its_way() -> None:
    async with servers(2) as up, own(*((s.host, s.port) for s in up)) as found:
        up[1].status = 503
        await found.look()
        found.apply({"a": 2})
        state = found.states()["a"]
        assert (state.ready, state.starting, state.draining) == (1, 1, 0)
        assert state.endpoints == (Endpoint("127.0.0.1", up[0].port),)
        assert f"1 of 2 servers answer; http://127.0.0.1:{up[1].port} /health answers 503" in state.last_failure
        up[1].status = 200
        await found.look()
        state = found.states()["a"]
        assert (state.ready, state.starting, state.last_failure) == (2, 0, "")
        found.apply({"a": 1})
        assert found.states()["a"].ready == 2, "what is up and paid for stays in routing"


async def test_a_server_that_stops_answering_is_gone_after_three_looks_and_comes_back_at_once() -> None:
    async with servers(2) as up, own(*((s.host, s.port) for s in up)) as found:
        await found.look()
        found.apply({"a": 2})
        await up[0].go()
        for _ in range(2):
            await found.look()
            assert len(ready(found)) == 2, "one lost packet is no failure"
        await found.look()
        assert ready(found) == {up[1].port}
        assert found.states()["a"].failed == 1
        assert f":{up[0].port} /health: " in found.states()["a"].last_failure
        await up[0].serve()
        await found.look()
        assert len(ready(found)) == 2


async def test_rent_is_the_time_in_which_it_answered_and_a_cold_start_is_seen() -> None:
    now = [0.0]
    async with servers(1) as up, own((up[0].host, up[0].port), clock=lambda: now[0]) as found:
        await up[0].go()
        await found.look()
        found.apply({"a": 1})
        now[0] = 40.0
        await up[0].serve()
        await found.look()
        assert found.usage() == {"a": RentedSeconds()}
        assert found.states()["a"].cold_start_s == 40.0
        now[0] = 100.0
        assert found.usage() == {"a": RentedSeconds(ready_s=60.0)}
        assert found.caused() == ()


async def test_each_address_of_a_name_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a headless service of Kubernetes has one for each of its pods."""
    first = Health("127.0.0.1")
    await first.serve()
    second = Health("127.0.0.2", first.port)
    await second.serve()
    known: dict[str, list[str]] = {"pods": ["127.0.0.1", "127.0.0.2"]}

    async with own(("pods", first.port)) as found:

        async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            if host not in known:
                raise socket.gaierror(-2, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in known[host]]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        await found.look()
        assert {e.host for e in found.states()["a"].endpoints} == {"127.0.0.1", "127.0.0.2"}
        known["pods"] = ["127.0.0.2"]
        await found.look()
        assert [e.host for e in found.states()["a"].endpoints] == ["127.0.0.2"], "a pod that is taken away goes at once"
        del known["pods"]
        await found.look()
        assert found.states()["a"].ready == 1, "the last good answer stands while the name cannot be resolved"
        assert "pods: [Errno -2] Name or service not known" in found.states()["a"].last_failure
    await first.go()
    await second.go()


@pytest.mark.parametrize("targets", [{"b": 1}, {"a": -1}, {"a": 1.5}])
async def test_wrong_targets_are_refused(targets: dict[str, Any]) -> None:
    async with own(("127.0.0.1", 9)) as found:
        with pytest.raises(ValueError, match="wanted a count of a pool of a"):
            found.apply(targets)


async def test_a_fleet_starts_what_is_its_own_and_leaves_the_users_servers_alone(tmp_path: Path) -> None:
    async with servers(1) as up, aiohttp.ClientSession() as session:

        async def idle(endpoint: Endpoint) -> int:
            return 0

        never = ReplicaCommand(("sleep", "1000", "{port}"))
        local = LocalProcesses({"mine": never}, LocalSettings(tmp_path), lambda: 0.0, lambda pool: 1000.0, idle)
        theirs = OwnServers({"theirs": (Address("127.0.0.1", up[0].port),)}, session, lambda: 0.0, poll_s=0.01)
        fleet = Fleet(local, theirs)
        assert await fleet.adopt() == 1
        await fleet.apply({"mine": 2, "theirs": 3})
        states = fleet.states()
        assert [(r.pool, r.stage) for pool in states.values() for r in pool.replicas] == [
            *[("mine", Stage.PROVISIONING)] * 2,
            ("theirs", Stage.READY),
            *[("theirs", Stage.LOADING)] * 2,
        ]
        assert set(fleet.usage()) == {"mine", "theirs"}
        fleet.release(())
        await fleet.stop_all()
        async with session.get(f"http://127.0.0.1:{up[0].port}/health") as answer:
            assert answer.status == 200, "it goes on"
