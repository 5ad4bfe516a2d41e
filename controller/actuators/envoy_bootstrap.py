"""The part of Envoy's configuration that does not change while it runs: listener, filters, access log, sources.

Pure, like `envoy_config`. An Envoy of ours on this machine reads files and writes its log to one; any other asks a
sidecar for its configuration, and sends it its log, over gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...telemetry.envoy_log import END_FORMAT, LOG_NAME, START_FORMAT, USAGE_NAMESPACE
from .admission import LAYER, OVERFLOW_REPLY, RUNTIME
from .envoy_classes import BODY_LIMIT_BYTES, JSON_BODIES, filters
from .envoy_config import NAMESPACE, ROUTES_NAME, TYPE, Endpoint, Json, address
from .envoy_documents import CDS_FILE, RDS_FILE, watched

STAT_PREFIX: Final = "front"
SIDECARS: Final = "poolpilot_sidecars"
"""Name of the cluster that holds the sidecars which serve by gRPC."""

_SSE_EVENT_LIMIT_BYTES: Final = 1024 * 1024
_LOG_FLUSH: Final = "0.1s"
_BACK_OFF: Final = {"base_interval": "0.1s", "max_interval": "2s"}
"""How soon a lost sidecar is asked again; Envoy's own half minute would be a long time without news."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths, on Envoy's machine, of what it shows to a sidecar and believes one by."""

    certificate: str
    key: str
    authority: str


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What an Envoy is started with; routes, clusters and endpoints come later, by file or from a sidecar."""

    xds_dir: str | None = None
    """Folder of the files; None where sidecars are asked."""
    access_log: str | None = None
    """File for the log; None for none."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    admin_port: int = 0
    """The admin interface listens on loopback only; 0 takes a free port."""
    sidecars: tuple[Endpoint, ...] = ()
    """Where configuration comes from if not from files, and where the log goes too: one that leads answers."""
    certificates: Certificates | None = None
    """For mutual TLS with sidecars; None speaks plainly."""
    node: str = NAMESPACE
    """What the Envoy is called in messages."""


def bootstrap(settings: ProxySettings) -> Json:
    """The bootstrap configuration."""
    resources: Json = {"listeners": [_listener(settings)]}
    dynamic: Json = {"cds_config": _source(settings, CDS_FILE)}
    if settings.sidecars:
        resources["clusters"] = [_sidecars(settings)]
    if settings.xds_dir is None:
        dynamic["ads_config"] = {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [_grpc()],
        }
    return {
        "node": {"id": settings.node, "cluster": NAMESPACE},
        "admin": {"address": address("127.0.0.1", settings.admin_port)},
        "layered_runtime": RUNTIME if settings.xds_dir is not None else {"layers": [_asked_layer()]},
        "dynamic_resources": dynamic,
        "static_resources": resources,
    }


def asked_of_sidecar(_: str = "") -> Json:
    """The source of whatever comes over the one stream to a sidecar, waited for however long it takes."""
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def _asked_layer() -> Json:
    """Admission caps, where nobody reaches the admin interface."""
    return {"name": LAYER, "rtds_layer": {"name": LAYER, "rtds_config": asked_of_sidecar()}}


def _source(settings: ProxySettings, file: str) -> Json:
    return asked_of_sidecar() if settings.xds_dir is None else watched(settings.xds_dir, file)


def _grpc() -> Json:
    return {"envoy_grpc": {"cluster_name": SIDECARS, "retry_policy": {"retry_back_off": _BACK_OFF}}}


def _sidecars(settings: ProxySettings) -> Json:
    """Sidecars speak HTTP/2; a dead one is found out by pings, as it may have gone without a word."""
    http = {"http2_protocol_options": {"connection_keepalive": {"interval": "2s", "timeout": "2s"}}}
    cluster: Json = {
        "name": SIDECARS,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": http,
            }
        },
        "load_assignment": {
            "cluster_name": SIDECARS,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(s.host, s.port)}} for s in settings.sidecars]}
            ],
        },
    }
    if settings.certificates:
        own = settings.certificates
        pair = {"certificate_chain": {"filename": own.certificate}, "private_key": {"filename": own.key}}
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TYPE + "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_certificates": [pair],
                    "validation_context": {"trusted_ca": {"filename": own.authority}},
                },
            },
        }
    return cluster


def _listener(settings: ProxySettings) -> Json:
    return {
        "name": STAT_PREFIX,
        "address": address(settings.host, settings.port),
        "enable_reuse_port": False,  # with it two Envoys share a port without a word
        "per_connection_buffer_limit_bytes": BODY_LIMIT_BYTES,
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": _http(settings)},
                ]
            }
        ],
    }


def _http(settings: ProxySettings) -> Json:
    return {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "rds": {"route_config_name": ROUTES_NAME, "config_source": _source(settings, RDS_FILE)},
        # No client is one of us: whatever Envoy's own headers could switch (timeouts, retries) is taken off.
        "use_remote_address": True,
        "internal_address_config": {"unix_sockets": False},
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",  # a queued request is silent for as long as it waits
        "request_timeout": "0s",
        "local_reply_config": OVERFLOW_REPLY,
        "http_filters": [
            *filters(),
            _usage_of_json(),
            _usage_of_stream(),
            _router(settings),
        ],
        "access_log": _logs(settings, END_FORMAT),
    }


def _router(settings: ProxySettings) -> Json:
    # The start is logged when the request has its replica: only then are class (which may stand in the body) and pool
    # known. Envoy's own entry at a request's start comes before the body is read.
    when = {"filter": {"log_type_filter": {"types": ["UpstreamPoolReady"]}}}
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": TYPE + "extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
            "upstream_log": [{**log, **when} for log in _logs(settings, START_FORMAT)],
            "upstream_log_options": {"flush_upstream_log_on_upstream_stream": True},
        },
    }


def _usage_of_json() -> Json:
    """Reads token counts out of plain answers."""
    config = {
        "@type": TYPE + "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        "response_rules": {"rules": _usage_rules(), **JSON_BODIES},
    }
    return {"name": "poolpilot.usage_of_json", "typed_config": config}


def _usage_of_stream() -> Json:
    """Reads token counts out of server-sent events as they pass; nothing is held back."""
    parser = {
        "name": "envoy.content_parsers.json",
        "typed_config": {
            "@type": TYPE + "extensions.content_parsers.json.v3.JsonContentParser",
            "rules": [{"rule": rule} for rule in _usage_rules()],
        },
    }
    return {
        "name": "poolpilot.usage_of_stream",
        "typed_config": {
            "@type": TYPE + "extensions.filters.http.sse_to_metadata.v3.SseToMetadata",
            "response_rules": {"content_parser": parser, "max_event_size": _SSE_EVENT_LIMIT_BYTES},
        },
    }


def _usage_rules() -> list[Json]:
    return [
        {
            "selectors": [{"key": "usage"}, {"key": key}],
            "on_present": {"metadata_namespace": USAGE_NAMESPACE, "key": key, "type": "NUMBER"},
        }
        for key in ("prompt_tokens", "completion_tokens")
    ]


def _logs(settings: ProxySettings, line: Mapping[str, str]) -> list[Json]:
    """The log in every form that is asked for."""
    found = [] if settings.access_log is None else [_file_log(settings.access_log, line)]
    return found + ([_grpc_log(line)] if settings.sidecars else [])


def _file_log(path: str, line: Mapping[str, str]) -> Json:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": dict(line)},
        },
    }


def _grpc_log(line: Mapping[str, str]) -> Json:
    """The same entries as in a file, a tag a field: the service's own fields lack the first body byte and the tokens."""
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": TYPE + "extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": {
                "log_name": LOG_NAME,
                "transport_api_version": "V3",
                "grpc_service": _grpc(),
                "buffer_flush_interval": _LOG_FLUSH,
                "custom_tags": [{"tag": name, "value": operator} for name, operator in line.items()],
            },
        },
    }
