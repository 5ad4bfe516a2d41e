"""The port where Envoys on other machines ask for their configuration and send their log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
from envoy.service.accesslog.v3 import als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from ...telemetry.access_log_service import AccessLogService
from .address import ServeError, XdsAddress
from .server import DiscoveryServer

_GRACE_S: Final = 0.2
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # two sidecars must not share a port without a word
    # Envoys ping every two seconds; unless told so, gRPC takes that for an attack and hangs up.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    # An Envoy whose machine vanished is not waited for.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@asynccontextmanager
async def serving(where: XdsAddress, discovery: DiscoveryServer, log: AccessLogService) -> AsyncIterator[str]:
    """Serve both for the length of a block; the address in use.

    Raises:
        ServeError: the port is taken, or a certificate cannot be used.
    """
    server = grpc.aio.server(options=_OPTIONS)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(log, server)
    address = str(where)
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
