"""The port where Envoys on other machines ask for their configuration and send their log."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from envoy.service.accesslog.v3 import als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from ...telemetry.access_log_service import AccessLogService
from .server import DiscoveryServer

_GRACE_S: Final = 0.2


class ServeError(RuntimeError):
    """The port cannot be served; the message says why."""


@dataclass(frozen=True, slots=True)
class XdsAddress:
    """Where to listen, and by what to be believed."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    certificate: Path | None = None
    """PEM files for mutual TLS: ours, its key, and the authority of those who may ask; all or none."""
    key: Path | None = None
    authority: Path | None = None

    def __post_init__(self) -> None:
        """Refuse to be open to a network without asking who is there."""
        given = [self.certificate, self.key, self.authority]
        if any(given) and not all(given):
            raise ServeError("mutual TLS wants a certificate, its key and an authority; some are missing")
        if not any(given) and not _loopback(self.host):
            raise ServeError(
                f"{self.host}: whoever reaches this port can read the routing and forge the log; give a certificate, its "
                "key and an authority, or listen on 127.0.0.1"
            )


@asynccontextmanager
async def serving(where: XdsAddress, discovery: DiscoveryServer, log: AccessLogService) -> AsyncIterator[str]:
    """Serve both for the length of a block; the address in use.

    Raises:
        ServeError: the port is taken, or a certificate cannot be used.
    """
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])  # two sidecars must not share a port without a word
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(log, server)
    address = f"[{where.host}]:{where.port}" if ":" in where.host else f"{where.host}:{where.port}"
    try:
        if where.certificate and where.key and where.authority:
            pair = (where.key.read_bytes(), where.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair], where.authority.read_bytes(), require_client_auth=True)
            port = server.add_secure_port(address, credentials)
        else:
            port = server.add_insecure_port(address)
    except (OSError, RuntimeError, ValueError) as error:
        raise ServeError(f"cannot serve xDS on {address}: {error}") from error
    await server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(_GRACE_S)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
