"""Replicas that are the user's own: poolpilot routes to them and says how many it wants, and never starts or stops one.

Whatever scales them (an autoscaler that reads `poolpilot_desired_replicas`, a person) shows by what answers: a server
is ready while its health check says 200. A name is resolved again and again, and each of its addresses is a replica, so
that a headless service of Kubernetes stands for all of its pods.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from ...env.scenario.addresses import Address
from .envoy_config import Endpoint
from .replicas import CausedSeconds, PoolReplicas, RentedSeconds, RentMeter, Replica, Stage

_LOG: Final = logging.getLogger(__name__)
POLL_S: Final = 1.0
"""Of the wall, between two looks at all servers."""
_ANSWER_WITHIN_S: Final = 2.0
_MISSES: Final = 3
"""A server that was ready is gone after so many looks without an answer; the proxy's own checks are quicker."""


@dataclass(slots=True)
class _Server:
    """One address of a pool."""

    ready: bool = False
    misses: int = 0
    said: str = ""
    """Why it is not ready."""


@dataclass(slots=True)
class _PoolServers:
    """One pool as last seen."""

    target: int = 0
    servers: dict[Endpoint, _Server] = field(default_factory=dict)
    lost: int = 0
    unresolved: str = ""
    wanted_at_s: deque[float] = field(default_factory=deque)
    """When replicas were asked for that are not there yet."""
    cold_start_s: float = math.nan

    @property
    def ready(self) -> int:
        return sum(server.ready for server in self.servers.values())


class OwnServers:
    """What is ready among servers that somebody else runs. Has the face of `LocalProcesses`, as far as it can."""

    def __init__(
        self,
        pools: Mapping[str, tuple[Address, ...]],
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        poll_s: float = POLL_S,
    ) -> None:
        """Nothing is asked before `start` or `look`.

        Args:
            pools: where each pool's servers may be.
            session: for health checks.
            clock: the decider's seconds, by which rent is counted.
            poll_s: between two looks, of the wall.
        """
        self._addresses, self._session, self._clock, self._poll_s = dict(pools), session, clock, poll_s
        self._pools = {name: _PoolServers() for name in pools}
        self._meter = RentMeter(clock)
        self._looking: asyncio.Task[None] | None = None

    @property
    def pools(self) -> tuple[str, ...]:
        """Which pools these are."""
        return tuple(self._addresses)

    async def start(self) -> None:
        """Look once, then again and again until `stop`."""
        if self._looking is None and self._pools:
            await self.look()
            self._looking = asyncio.create_task(self._go_on(), name="own servers")

    async def stop(self) -> None:
        """Look no more; the servers go on."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None

    def apply(self, targets: Mapping[str, int]) -> None:
        """Note how many are wanted. ValueError for an unknown pool or a count that cannot be."""
        for name, target in targets.items():
            if name not in self._pools or target < 0 or target != int(target):
                raise ValueError(f"{name}: {target} replicas; wanted a count of a pool of {', '.join(self._pools)}")
            pool = self._pools[name]
            pool.target = int(target)
            missing = max(pool.target - pool.ready, 0)
            while len(pool.wanted_at_s) < missing:
                pool.wanted_at_s.append(self._clock())
            while len(pool.wanted_at_s) > missing:
                pool.wanted_at_s.pop()

    def states(self) -> dict[str, PoolReplicas]:
        """Every pool as last seen: what answers is ready, and what is wanted beyond that is on its way."""
        return {name: self._state(name, pool) for name, pool in self._pools.items()}

    def usage(self) -> dict[str, RentedSeconds]:
        """Replica-seconds by pool; a machine that does not answer yet is not known to be rented."""
        rented = self._meter.read()
        return {name: rented.get(name, RentedSeconds()) for name in self._pools}

    def caused(self) -> tuple[CausedSeconds, ...]:
        """Nothing: who starts and stops these servers is not here."""
        return ()

    async def look(self) -> None:
        """Resolve all names and check all servers once."""
        await asyncio.gather(*(self._look_at(name, pool) for name, pool in self._pools.items()))

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001  # what was seen last stands; the next look may tell more
                _LOG.exception("looking at servers of one's own")

    async def _look_at(self, name: str, pool: _PoolServers) -> None:
        found = await self._resolved(name, pool)
        if found is not None:
            for gone in set(pool.servers) - found:  # its name stands for it no longer: it was taken away
                if pool.servers.pop(gone).ready:
                    self._meter.move(name, Stage.READY, None)
            pool.servers |= {endpoint: _Server() for endpoint in sorted(found, key=str) if endpoint not in pool.servers}
        answers = await asyncio.gather(*(self._asked(endpoint) for endpoint in pool.servers))
        for (endpoint, server), trouble in zip(tuple(pool.servers.items()), answers, strict=True):
            self._note(name, pool, endpoint, server, trouble)

    async def _resolved(self, name: str, pool: _PoolServers) -> set[Endpoint] | None:
        """All addresses of a pool; None, and why, if one of its names cannot be resolved now."""
        loop = asyncio.get_running_loop()
        try:
            found = await asyncio.gather(
                *(
                    loop.getaddrinfo(at.host, at.port, family=socket.AF_INET, type=socket.SOCK_STREAM)
                    for at in self._addresses[name]
                )
            )
        except OSError as error:
            pool.unresolved = f"pool {name}: {', '.join(at.host for at in self._addresses[name])}: {error}"
            return None
        pool.unresolved = ""
        return {Endpoint(str(info[4][0]), int(info[4][1])) for infos in found for info in infos}

    async def _asked(self, endpoint: Endpoint) -> str:
        """Nothing if the server is well, else what is wrong."""
        limit = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
        try:
            url = f"http://{endpoint.host}:{endpoint.port}/health"
            async with self._session.get(url, timeout=limit, allow_redirects=False) as answer:
                return "" if answer.status == 200 else f"/health answers {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"/health: {error or type(error).__name__}"

    def _note(self, name: str, pool: _PoolServers, endpoint: Endpoint, server: _Server, trouble: str) -> None:
        server.said, server.misses = trouble, server.misses + 1 if trouble else 0
        if not trouble and not server.ready:
            server.ready = True
            self._meter.move(name, None, Stage.READY)
            if pool.wanted_at_s:
                pool.cold_start_s = self._clock() - pool.wanted_at_s.popleft()
        elif server.ready and server.misses >= _MISSES:
            server.ready = False
            self._meter.move(name, Stage.READY, None)
            if pool.ready < pool.target:
                pool.lost += 1
                _LOG.error("pool %s: http://%s:%d is gone: %s", name, endpoint.host, endpoint.port, trouble)

    def _state(self, name: str, pool: _PoolServers) -> PoolReplicas:
        ready = tuple(
            Replica(f"{name}-{endpoint.host}-{endpoint.port}", name, Stage.READY, endpoint)
            for endpoint, server in pool.servers.items()
            if server.ready
        )
        missing = max(pool.target - len(ready), 0)
        awaited = tuple(Replica(f"{name}-awaited-{n + 1}", name, Stage.LOADING) for n in range(missing))
        return PoolReplicas((*ready, *awaited), pool.lost, self._trouble(name, pool, missing), pool.cold_start_s)

    def _trouble(self, name: str, pool: _PoolServers, missing: int) -> str:
        """What is wrong, as long as fewer are ready than are wanted."""
        if pool.unresolved:
            return pool.unresolved
        silent = [f"http://{e.host}:{e.port} {s.said}" for e, s in pool.servers.items() if not s.ready]
        if not missing:
            return ""
        return f"pool {name}: {pool.ready} of {pool.target} servers answer" + "".join(f"; {s}" for s in silent[:3])
