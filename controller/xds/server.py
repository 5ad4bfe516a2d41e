"""An xDS server: any number of Envoys ask it for clusters, endpoints and routes over one stream each (ADS).

It offers nothing before its first table, so that a controller that starts anew changes nothing in Envoys that run.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from ..actuators.envoy_config import TYPE, Json
from ..fencing import UNFENCED, Fence, Fenced
from .encoding import encode
from .subscription import Answer, Offered, Request, Subscription, answer, due, heard

_LOG: Final = logging.getLogger(__name__)
CLUSTERS: Final = TYPE + "config.cluster.v3.Cluster"
ENDPOINTS: Final = TYPE + "config.endpoint.v3.ClusterLoadAssignment"
ROUTES: Final = TYPE + "config.route.v3.RouteConfiguration"
RUNTIME: Final = TYPE + "service.runtime.v3.Runtime"
IN_ORDER: Final = (CLUSTERS, ENDPOINTS, ROUTES, RUNTIME)
"""A route may name a cluster only once that is known, and a cluster serves only with endpoints."""
_NOTHING: Final = Offered({}, {})
_KEY: Final = {CLUSTERS: "name", ENDPOINTS: "cluster_name", ROUTES: "name", RUNTIME: "name"}


@dataclass(eq=False)
class ConnectedEnvoy:
    """One Envoy's stream."""

    peer: str
    """Its address, as gRPC has it."""
    node: str = ""
    """The id that its bootstrap gives it."""
    types: dict[str, Subscription] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.node or 'Envoy'} at {self.peer}"


class DiscoveryServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # it has no types
    """What is offered, to whom, and what they made of it."""

    def __init__(self, fence: Fence = UNFENCED) -> None:
        """Offer nothing yet. `fence` keeps a leader of the past from sending what it had under way when it was stopped."""
        self._fence = fence
        self.connected: set[ConnectedEnvoy] = set()
        self._offered: dict[str, Offered] = {}
        self._nonces = itertools.count(1)
        self._moved = asyncio.Condition()

    def offer(self, type_url: str, resources: list[Json]) -> None:
        """From now on these are all resources of the type; whoever has others is sent them.

        Raises:
            Fenced: a newer leader took over; nothing is offered.
            ValueError: a resource that is no such message.
        """
        self._fence.check()
        for resource in resources:
            encode(resource)  # here, where it can be told, not in a stream
        named = {str(resource[_KEY[type_url]]): resource for resource in resources}
        versions = {name: _digest(resource) for name, resource in named.items()}
        self._offered[type_url] = Offered(named, versions)
        for envoy in self.connected:
            known = envoy.types.get(type_url)
            if known is not None and due(known, self._offered[type_url]):
                envoy.types[type_url] = replace(known, refused=None)  # it spoke of what is offered no more
            envoy.changed.set()

    def behind(self) -> list[str]:
        """The connected Envoys that do not run what is offered yet, each with the type that it lacks."""
        return [
            f"{envoy.name} ({type_url.rpartition('.')[2]})"
            for envoy in self.connected
            for type_url, known in envoy.types.items()
            if known.taken != self._of(type_url).of(known.names)
        ]

    def refused_types(self) -> set[str]:
        """Of what somebody refused what it was sent last."""
        return {t for envoy in self.connected for t, known in envoy.types.items() if known.refused is not None}

    def refusals(self) -> list[str]:
        """Who refused what it was sent last, and why."""
        return [
            f"{envoy.name} refused {type_url.rpartition('.')[2]}: {known.refused}"
            for envoy in self.connected
            for type_url, known in envoy.types.items()
            if known.refused is not None
        ]

    async def moved(self) -> None:
        """Wait until an Envoy says something, comes or goes."""
        async with self._moved:
            await self._moved.wait()

    async def StreamAggregatedResources(  # noqa: N802  # gRPC's name
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        """One Envoy's stream, for as long as it lasts."""
        envoy = ConnectedEnvoy(context.peer())
        reading = asyncio.create_task(self._read(requests, envoy))
        self.connected.add(envoy)
        try:
            while not reading.done():
                envoy.changed.clear()
                for found in self._answers(envoy):
                    try:
                        self._fence.check()  # at each: it may have been stopped since the last one
                    except Fenced as fenced:  # Envoy asks again, and finds the sidecar that leads
                        await context.abort(grpc.StatusCode.UNAVAILABLE, str(fenced))
                    yield _message(found)
                changed = asyncio.create_task(envoy.changed.wait())
                try:
                    await asyncio.wait({changed, reading}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            reading.cancel()
            self.connected.discard(envoy)
            await self._tell()
            _LOG.info("%s left", envoy.name)

    async def _read(self, requests: AsyncIterator[Any], envoy: ConnectedEnvoy) -> None:
        async for message in requests:
            if message.node.id and not envoy.node:
                envoy.node = message.node.id
                _LOG.info("%s asks for its configuration", envoy.name)
            request = _request(message)
            if request.error is not None:
                _LOG.warning("%s refused %s: %s", envoy.name, request.type_url, request.error)
            envoy.types[request.type_url] = heard(envoy.types.get(request.type_url), request)
            envoy.changed.set()
            await self._tell()

    def _answers(self, envoy: ConnectedEnvoy) -> list[Answer]:
        found = []
        for type_url in IN_ORDER:
            known, offered = envoy.types.get(type_url), self._of(type_url)
            if known is not None and type_url in self._offered and due(known, offered):
                nonce, version = str(next(self._nonces)), _digest(sorted(offered.of(known.names)))
                envoy.types[type_url], sending = answer(known, type_url, offered, nonce, version)
                found.append(sending)
        return found

    def _of(self, type_url: str) -> Offered:
        return self._offered.get(type_url, _NOTHING)

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def _request(message: Any) -> Request:
    return Request(
        type_url=message.type_url,
        names=frozenset(message.resource_names),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def _message(found: Answer) -> Any:
    return discovery_pb2.DiscoveryResponse(
        version_info=found.version,
        type_url=found.type_url,
        nonce=found.nonce,
        resources=[encode(resource) for resource in found.resources],
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
