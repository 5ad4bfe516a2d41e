"""The part of Envoy's configuration that does not change while it runs: listener, filters, access log, file sources.

Pure, like `envoy_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...telemetry.envoy_log import END_FORMAT, START_FORMAT, USAGE_NAMESPACE
from .admission import OVERFLOW_REPLY, RUNTIME
from .envoy_classes import BODY_LIMIT_BYTES, JSON_BODIES, filters
from .envoy_config import NAMESPACE, ROUTES_NAME, TYPE, Json, address

STAT_PREFIX: Final = "front"
CDS_FILE: Final = "cds.json"
RDS_FILE: Final = "rds.json"

_SSE_EVENT_LIMIT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What an Envoy is started with; routes, clusters and endpoints come later, by file."""

    xds_dir: str
    access_log: str
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    admin_port: int = 0
    """The admin interface listens on loopback only; 0 takes a free port."""


def bootstrap(settings: ProxySettings) -> Json:
    """The bootstrap configuration: routes and clusters are watched in `xds_dir`."""
    return {
        "node": {"id": NAMESPACE, "cluster": NAMESPACE},
        "admin": {"address": address("127.0.0.1", settings.admin_port)},
        "layered_runtime": RUNTIME,
        "dynamic_resources": {"cds_config": watched(settings.xds_dir, CDS_FILE)},
        "static_resources": {"listeners": [_listener(settings)]},
    }


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
        "rds": {"route_config_name": ROUTES_NAME, "config_source": watched(settings.xds_dir, RDS_FILE)},
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
        "access_log": [_file_log(settings, END_FORMAT)],
    }


def _router(settings: ProxySettings) -> Json:
    # The start is logged when the request has its replica: only then are class (which may stand in the body) and pool
    # known. Envoy's own entry at a request's start comes before the body is read.
    started = {**_file_log(settings, START_FORMAT), "filter": {"log_type_filter": {"types": ["UpstreamPoolReady"]}}}
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": TYPE + "extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
            "upstream_log": [started],
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


def _file_log(settings: ProxySettings, line: Mapping[str, str]) -> Json:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": settings.access_log,
            "log_format": {"json_format": dict(line)},
        },
    }


def endpoints_file(pool: str) -> str:
    """The file name of a pool's endpoints."""
    return f"eds-{pool}.json"


def watched(folder: str, name: str) -> Json:
    """A file source that reads the file again when it is replaced by a rename inside the folder."""
    source = {"path": f"{folder}/{name}", "watched_directory": {"path": folder}}
    return {"path_config_source": source, "resource_api_version": "V3"}
