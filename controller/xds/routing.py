"""The routing actuator for Envoys that ask: offers what they are to run, in the order that drops no request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ..actuators.envoy import Applied, EnvoyRejected, EnvoyUnreachable
from ..actuators.envoy_bootstrap import asked_of_sidecar
from ..actuators.envoy_config import Json, RoutingTable
from ..actuators.envoy_documents import CDS_FILE, RDS_FILE, admission, all_new, hosts, phases, render
from .server import CLUSTERS, ENDPOINTS, ROUTES, RUNTIME, DiscoveryServer

_FIRST_CHECK_S: Final = 1.0
"""For new replicas to pass their first health check, of which an Envoy elsewhere tells nothing."""


class OfferedRouting:
    """Steers all Envoys that are connected to a discovery server."""

    def __init__(self, server: DiscoveryServer, *, patience_s: float = 5.0) -> None:
        """Offer through `server`; an Envoy may take `patience_s` to follow."""
        self._server, self._patience_s = server, patience_s
        self._offered: dict[str, Json] = {}
        self._caps: list[Json] = []

    async def apply(self, table: RoutingTable) -> Applied | None:
        """Make all connected Envoys run `table`; None if they did already. Those that come later get it when they come.

        Raises:
            EnvoyRejected: naming the Envoy and its reason; what was offered before is offered again, to all, but for
                replicas, unless it is them that were refused.
            EnvoyUnreachable: an Envoy that is connected does not follow; it may yet.
        """
        caps = admission(table)["resources"]
        wanted = render(table, asked_of_sidecar)
        before = dict(self._offered)
        if before == wanted and caps == self._caps and not self._server.behind():
            return None
        self._caps = caps
        changed = tuple(name for name in wanted if wanted[name] != before.get(name))
        untried = any(all_new(before.get(name), wanted[name]) and hosts(wanted[name]) for name in changed)
        supply, routes, trimmed = phases(before, wanted)
        try:
            await self._bring({**before, **supply})
            if untried and self._server.connected:
                await asyncio.sleep(_FIRST_CHECK_S)
            await self._bring({**before, **supply, **routes})
            await self._bring({**trimmed, **routes})
        except EnvoyRejected as refused:
            if ENDPOINTS in self._server.refused_types():
                self._offer(before)
                raise
            # Replicas come and go all the same: those from before may be gone by now.
            present = {name: trimmed[name] for name in trimmed if name != CDS_FILE and name in before}
            try:
                await self._bring({**before, **present})
            except EnvoyUnreachable as late:
                raise EnvoyRejected(f"{refused}; and {late}") from None
            raise EnvoyRejected(str(refused), endpoints_follow=True) from None
        return Applied(changed, {name: str(document["version_info"]) for name, document in wanted.items()})

    async def _bring(self, documents: Mapping[str, Json]) -> None:
        """Offer, and wait until every connected Envoy runs it."""
        self._offer(documents)
        try:
            async with asyncio.timeout(self._patience_s):
                while self._server.behind():
                    if refusals := self._server.refusals():
                        raise EnvoyRejected(f"{'; '.join(refusals)}; it keeps what it had")
                    await self._server.moved()
        except TimeoutError:
            late = ", ".join(self._server.behind())
            raise EnvoyUnreachable(f"{late} did not take up what is offered within {self._patience_s:g} s") from None

    def _offer(self, documents: Mapping[str, Json]) -> None:
        self._offered = dict(documents)
        by_type: dict[str, list[Json]] = {CLUSTERS: [], ENDPOINTS: [], ROUTES: []}
        for name, document in documents.items():
            by_type[{CDS_FILE: CLUSTERS, RDS_FILE: ROUTES}.get(name, ENDPOINTS)] += document["resources"]
        for type_url, resources in (*by_type.items(), (RUNTIME, self._caps)):
            if resources:
                self._server.offer(type_url, resources)
