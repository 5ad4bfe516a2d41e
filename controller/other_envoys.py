"""Envoys beside our own: they ask for the same routing over gRPC and send their log; any number may come and go."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..telemetry.log_sources import LogSource
from .acting import Routing
from .actuators.envoy import EnvoyRejected, EnvoyUnreachable
from .actuators.envoy_config import RoutingTable
from .fencing import Fence
from .xds.address import ServeError, XdsAddress

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class OtherEnvoys:
    """What a sidecar has of Envoys elsewhere; nothing of it where none are served."""

    routing: Routing | None = None
    logs: tuple[LogSource, ...] = ()
    address: str | None = None
    """Where they ask."""

    async def open(self, table: RoutingTable) -> None:
        """Offer a first table; who refuses it is logged, and asked again at the next tick."""
        if self.routing is None:
            return
        try:
            await self.routing.apply(table)
        except (EnvoyRejected, EnvoyUnreachable) as error:
            _LOG.error("routing elsewhere: %s", error)


@asynccontextmanager
async def other_envoys(where: XdsAddress | None, fence: Fence, patience_s: float) -> AsyncIterator[OtherEnvoys]:
    """Serve them at an address for the length of a block; None serves none.

    Args:
        where: to listen.
        fence: keeps a leader of the past from telling them anything.
        patience_s: how long they may take to follow, of the wall.

    Raises:
        ServeError: the port is taken, a certificate cannot be used, or the extra `xds` is not installed.
    """
    if where is None:
        yield OtherEnvoys()
        return
    try:
        from ..telemetry.access_log_service import AccessLogService
        from .xds.routing import OfferedRouting
        from .xds.server import DiscoveryServer
        from .xds.serving import serving
    except ImportError as error:
        raise ServeError(f"serving Envoys elsewhere needs gRPC: pip install 'poolpilot[xds]' ({error})") from error
    discovery, log = DiscoveryServer(fence), AccessLogService()
    async with serving(where, discovery, log) as address:
        yield OtherEnvoys(OfferedRouting(discovery, patience_s=patience_s), (log,), address)
