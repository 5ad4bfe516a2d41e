"""What Envoy is told, as plain data: classes become routes, pools become clusters, shares become weights.

Pure: a `RoutingTable` in, Envoy v3 JSON out. `envoy` writes it to files, `envoy_bootstrap` is the part that does not
change, `envoy_process` starts an Envoy on both.

- A request's class is the header `x-slo-class`; else what `body_match` and `path_prefix` recognise; else the default.
- One cluster per pool, shared by all classes: clusters of their own would blind least-request to the others' load.
- A pool is reached through a *chain*: a composite cluster that starts with the pool and goes on to the class's other
  pools when it has no healthy replica, or when three attempts failed. So a pool that dies between two ticks costs a
  retry and never a 503. Chains hold names only; the true pool is read from the replica that answered.
- Endpoints come by EDS: adding or draining a replica then leaves its cluster, its health checks and its open streams
  alone, where a changed static cluster would be built anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ...telemetry.envoy_log import STREAM_HEADER

Json: TypeAlias = dict[str, Any]

CLASS_HEADER: Final = "x-slo-class"
NAMESPACE: Final = "poolpilot"
"""Namespace of our metadata on requests, routes and endpoints."""
ROUTES_NAME: Final = "classes"
CLASS_OF_BODY: Final = "poolpilot.class_of_body"
"""Name of the filter that reads the body's fields; off unless a route turns it on."""

WEIGHT_TOTAL: Final = 99_991
"""Sum of a route's cluster weights. Envoy draws one random number per request and takes it modulo this sum for the
cluster and modulo a million for admission: a prime keeps the two independent."""
MILLION: Final = 1_000_000

_TYPE: Final = "type.googleapis.com/envoy."
_UNLIMITED: Final = 1_000_000_000
_ATTEMPTS_IN_POOL: Final = 3
"""Attempts in a request's own pool before the next pool is tried."""
_CONNECT_TIMEOUT: Final = "0.5s"
"""Longer than any link's round trip; a machine that is gone costs each request this much until it is found out."""
_CHAIN_MARK: Final = ">"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
"""What a header, a file name and Envoy's statistics all carry unchanged."""
_NO_LIMITS: Final = {
    # Envoy's circuit breakers reject where an engine queues; admission is decided elsewhere.
    "thresholds": [
        {
            "max_connections": _UNLIMITED,
            "max_pending_requests": _UNLIMITED,
            "max_requests": _UNLIMITED,
            "max_retries": _UNLIMITED,
        }
    ]
}
JSON_BODIES: Final = {
    # Envoy compares the whole header by default, and so misses "application/json; charset=utf-8".
    "allow_content_types_regex": {"regex": r"application/json(\s*;.*)?"}
}
_FILTER_OFF: Final = {"@type": _TYPE + "config.route.v3.FilterConfig", "disabled": True}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one ready replica listens; `host` is an IP address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PoolBackends:
    """The ready replicas of one pool; none is fine."""

    name: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class ClassRoute:
    """How the requests of one class are recognised, admitted and spread over pools."""

    name: str
    weights: tuple[tuple[str, float], ...]
    """Each pool that may serve the class and its share, in order of preference when a pool drops out; 0 is a pool
    that only takes over."""
    admit_frac: float = 1.0
    """Share let in, 0..1; the rest is answered 429."""
    retry_after_s: int = 1
    """What a request that is turned away is told to wait."""
    timeout_s: float = 0.0
    """Longest time for a whole answer, streams included; 0 is no limit."""
    body_match: Mapping[str, str] = field(default_factory=dict)
    """JSON fields of the body (dots descend) and the value each must have."""
    path_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All that Envoy must know, at one moment.

    Raises:
        ValueError: a name, share or number that cannot be, named.
    """

    classes: tuple[ClassRoute, ...]
    pools: tuple[PoolBackends, ...]
    default_class: str

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse later and less clearly."""
        pools = _unique("pools", (p.name for p in self.pools))
        classes = _unique("classes", (c.name for c in self.classes))
        if self.default_class not in classes:
            raise ValueError(f"default_class {self.default_class!r} is none of the classes {', '.join(classes)}")
        for c in self.classes:
            _check_class(c, pools)


def clusters(table: RoutingTable, xds_dir: str) -> list[Json]:
    """One EDS cluster per pool, and one composite cluster per chain in use."""
    pools = [_pool_cluster(pool.name, xds_dir) for pool in table.pools]
    chains = sorted({_chain(c, pool) for c in table.classes for pool, _ in c.weights})
    return pools + [_chain_cluster(chain) for chain in chains]


def endpoints(pool: PoolBackends) -> Json:
    """The cluster load assignment of one pool; each replica carries its pool's name for the access log."""
    return {
        "@type": _TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": pool.name,
        "endpoints": [{"lb_endpoints": [_lb_endpoint(pool.name, e) for e in pool.endpoints]}],
    }


def routes(table: RoutingTable) -> Json:
    """The route configuration: by header, then by body and path, then the default class."""
    ready = {pool.name for pool in table.pools if pool.endpoints}
    default = next(c for c in table.classes if c.name == table.default_class)
    fields = sorted({name for c in table.classes for name in c.body_match})
    found: list[Json] = []
    for c in table.classes:
        found += _routes_of(c, {"prefix": "/", "headers": [_header(exact=c.name)]}, ready, reads_body=False)
    found += _routes_of(default, {"prefix": "/", "headers": [_header()]}, ready, reads_body=False)
    for c in table.classes:
        if c.body_match or c.path_prefix:
            found += _routes_of(c, _recognised(c), ready, reads_body=bool(fields))
    found += _routes_of(default, {"prefix": "/"}, ready, reads_body=bool(fields))
    host: Json = {
        "name": "all",
        "domains": ["*"],
        "routes": found,
        "request_headers_to_add": [_overwrite(STREAM_HEADER, "%STREAM_ID%")],
    }
    if fields:
        host["typed_per_filter_config"] = {CLASS_OF_BODY: _fields_to_metadata(fields)}
    return {"@type": _TYPE + "config.route.v3.RouteConfiguration", "name": ROUTES_NAME, "virtual_hosts": [host]}


def discovery(kind: str, resources: Iterable[Json]) -> Json:
    """A discovery answer, the form of a file for Envoy's file subscription; its version is the hash of what it holds, so that it can be read back."""
    held = list(resources)
    digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": digest, "type_url": _TYPE + "config." + kind, "resources": held}


def spread(weights: Sequence[tuple[str, float]], ready: set[str]) -> tuple[tuple[str, int], ...]:
    """Whole-number weights over the ready pools, summing to `WEIGHT_TOTAL`; empty if no pool is ready.

    The share of a pool that is not ready goes to the others in proportion; if they had none, to the first of them.
    """
    alive = [(pool, share) for pool, share in weights if pool in ready]
    total = sum(share for _, share in alive)
    if not alive:
        return ()
    if total <= 0:
        return ((alive[0][0], WEIGHT_TOTAL),)
    exact = [share / total * WEIGHT_TOTAL for _, share in alive]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(alive)), key=lambda n: whole[n] - exact[n])
    for n in by_remainder[: WEIGHT_TOTAL - sum(whole)]:
        whole[n] += 1
    return tuple((pool, weight) for (pool, _), weight in zip(alive, whole, strict=True) if weight)


def _unique(what: str, names: Iterable[str]) -> tuple[str, ...]:
    seen: list[str] = []
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{what}: a name is made of letters, digits, '_', '.' and '-', got {name!r}")
        if name in seen:
            raise ValueError(f"{what}: {name!r} is there twice")
        seen.append(name)
    return tuple(seen)


def _check_class(c: ClassRoute, pools: tuple[str, ...]) -> None:
    if not c.weights:
        raise ValueError(f"class {c.name}: no pool may serve it; name at least one in weights")
    for pool, share in c.weights:
        if pool not in pools:
            raise ValueError(f"class {c.name}: weights name the unknown pool {pool!r}; pools are {', '.join(pools)}")
        if not 0 <= share < float("inf"):
            raise ValueError(f"class {c.name}: weight of {pool} is {share}, wanted 0 or more")
    _unique(f"class {c.name} weights", (pool for pool, _ in c.weights))
    if not 0 <= c.admit_frac <= 1:
        raise ValueError(f"class {c.name}: admit_frac is {c.admit_frac}, wanted 0..1")
    if not 0 <= c.timeout_s < float("inf") or c.retry_after_s < 0:
        raise ValueError(f"class {c.name}: timeout_s {c.timeout_s} and retry_after_s {c.retry_after_s} must be >= 0")


def _chain(c: ClassRoute, pool: str) -> tuple[str, ...]:
    """The pool, then the class's others in their order, starting after it: a dead pool's load spreads."""
    names = [name for name, _ in c.weights]
    at = names.index(pool)
    return (*names[at:], *names[:at])


def chain_name(chain: Sequence[str]) -> str:
    """The cluster name of a chain. It says all that the cluster holds, so that it never changes under its name."""
    return _CHAIN_MARK.join(("", *chain))


def _routes_of(c: ClassRoute, match: Json, ready: set[str], *, reads_body: bool) -> list[Json]:
    """The routes of one way to recognise a class: the share to turn away first, then the rest."""
    common: Json = {"metadata": {"filter_metadata": {NAMESPACE: {"class": c.name}}}}
    if not reads_body:
        common["typed_per_filter_config"] = {CLASS_OF_BODY: _FILTER_OFF}
    shed = round((1.0 - c.admit_frac) * MILLION)
    found = []
    if shed:
        share = {"default_value": {"numerator": shed, "denominator": "MILLION"}}
        found.append({**common, "match": {**match, "runtime_fraction": share}, **_refusal(c, 429, "turned away")})
    if shed < MILLION:
        weights = spread(c.weights, ready)
        serve = {"route": _forward(c, weights)} if weights else _refusal(c, 503, "no replica is ready")
        found.append({**common, "match": match, **serve})
    return found


def _refusal(c: ClassRoute, status: int, reason: str) -> Json:
    body = {"error": {"type": "overloaded", "message": f"class {c.name}: {reason}; retry after {c.retry_after_s} s"}}
    return {
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [
            _overwrite("retry-after", str(c.retry_after_s)),
            _overwrite("content-type", "application/json"),
        ],
    }


def _overwrite(header: str, value: str) -> Json:
    return {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _forward(c: ClassRoute, weights: Sequence[tuple[str, int]]) -> Json:
    return {
        "weighted_clusters": {
            "clusters": [{"name": chain_name(_chain(c, pool)), "weight": weight} for pool, weight in weights]
        },
        "timeout": _duration(c.timeout_s),
        "idle_timeout": "0s",  # a queued request is silent for as long as it waits
        "retry_policy": {
            # All of these happen before the first byte went to the client; after it Envoy never retries.
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": _ATTEMPTS_IN_POOL + len(c.weights) - 2,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {"@type": _TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                }
            ],
            "host_selection_retry_max_attempts": 8,
        },
    }


def _header(exact: str | None = None) -> Json:
    """A match on the class header: on its value, or on its being there."""
    if exact is None:
        return {"name": CLASS_HEADER, "present_match": True}
    return {"name": CLASS_HEADER, "string_match": {"exact": exact}}


def _recognised(c: ClassRoute) -> Json:
    fields = [
        {"filter": NAMESPACE, "path": [{"key": name}], "value": {"string_match": {"exact": value}}}
        for name, value in c.body_match.items()
    ]
    match: Json = {"prefix": c.path_prefix or "/"}
    return {**match, "dynamic_metadata": fields} if fields else match


def _fields_to_metadata(names: Sequence[str]) -> Json:
    rules = [
        {
            "selectors": [{"key": part} for part in name.split(".")],
            "on_present": {"metadata_namespace": NAMESPACE, "key": name, "type": "STRING"},
        }
        for name in names
    ]
    return {
        "@type": _TYPE + "extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        "request_rules": {"rules": rules, **JSON_BODIES, "allow_empty_content_type": True},
    }


def _pool_cluster(name: str, xds_dir: str) -> Json:
    return {
        "@type": _TYPE + "config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": watched(xds_dir, endpoints_file(name))},
        "connect_timeout": _CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        "least_request_lb_config": {"choice_count": 2},
        # No panic: with every replica down the request must go on to the next pool, not to a dead replica.
        # And no merging: workers would learn a second late that a replica is healthy, or is not.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "ignore_health_on_host_removal": True,
        # A machine that vanished (spot) resets nothing; probes find out after half a minute.
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 15, "keepalive_interval": 5, "keepalive_probes": 3}
        },
        "circuit_breakers": _NO_LIMITS,
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/health"},
            }
        ],
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,  # a 500 may be the request's own fault
            "enforcing_success_rate": 0,
            "interval": "0.5s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
            "max_ejection_percent": 100,
        },
    }


def _chain_cluster(chain: tuple[str, ...]) -> Json:
    tried = (chain[0],) * (_ATTEMPTS_IN_POOL - 1) + chain
    return {
        "@type": _TYPE + "config.cluster.v3.Cluster",
        "name": chain_name(chain),
        "connect_timeout": _CONNECT_TIMEOUT,
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _NO_LIMITS,
        "cluster_type": {
            "name": "envoy.clusters.composite",
            "typed_config": {
                "@type": _TYPE + "extensions.clusters.composite.v3.ClusterConfig",
                "clusters": [{"name": name} for name in tried],
            },
        },
    }


def _lb_endpoint(pool: str, endpoint: Endpoint) -> Json:
    return {
        "endpoint": {"address": address(endpoint.host, endpoint.port)},
        "metadata": {"filter_metadata": {NAMESPACE: {"pool": pool}}},
    }


def endpoints_file(pool: str) -> str:
    """The file name of a pool's endpoints."""
    return f"eds-{pool}.json"


def watched(folder: str, name: str) -> Json:
    """A file source that reads the file again when it is replaced by a rename inside the folder."""
    source = {"path": f"{folder}/{name}", "watched_directory": {"path": folder}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def address(host: str, port: int) -> Json:
    """A TCP socket address."""
    return {"socket_address": {"address": host, "port_value": port}}


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}s"
