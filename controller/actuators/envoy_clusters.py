"""Where Envoy sends requests: a cluster for each pool, shared by all classes, and chains of them for spilling over. Pure.

- One cluster per pool: clusters of their own would blind least-request to the other classes' load.
- A pool is reached through a *chain*: a composite cluster that starts with the pool and goes on to the class's other
  pools when it has no healthy replica, or when three attempts failed. So a pool that dies between two ticks costs a
  retry and never a 503. Chains hold names only; the true pool is read from the replica that answered.
- Endpoints come by EDS: adding or draining a replica then leaves its cluster, its health checks and its open streams
  alone, where a changed static cluster would be built anew.
- Where a class wants its sessions to stay with a replica, the pool hashes them (Maglev: when a replica joins eight, 1 in
  1,000 sessions moves without need, on a ring 1 in 17). The rule belongs to the cluster, not to the route: requests of
  other classes are then spread over the pool at random, within the same bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .envoy_config import (
    NAMESPACE,
    TYPE,
    Endpoint,
    Json,
    PoolBackends,
    RoutingTable,
    address,
    chain,
    chain_name,
    duration,
)

ATTEMPTS_IN_POOL: Final = 3
"""Attempts in a request's own pool before the next pool is tried."""

_CONNECT_TIMEOUT: Final = "0.5s"
"""Longer than any link's round trip; a machine that is gone costs each request this much until it is found out."""
_SLOW_START_FLOOR_PERCENT: Final = 10
"""Of a fresh replica's share at the beginning of its slow start."""
_UNLIMITED: Final = 1_000_000_000
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


def clusters(table: RoutingTable, endpoints_of: Callable[[str], Json]) -> list[Json]:
    """One EDS cluster per pool, and one composite cluster per chain in use; `endpoints_of` a pool is their source."""
    chains = sorted({chain(c, pool) for c in table.classes for pool, _ in c.weights})
    pools = [_pool_cluster(pool.name, table, endpoints_of(pool.name)) for pool in table.pools]
    return pools + [_chain_cluster(pools_in_order) for pools_in_order in chains]


def endpoints(pool: PoolBackends) -> Json:
    """The cluster load assignment of one pool; each replica carries its pool's name for the access log."""
    return {
        "@type": TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": pool.name,
        "endpoints": [{"lb_endpoints": [_lb_endpoint(pool.name, e) for e in pool.endpoints]}],
    }


def _pool_cluster(name: str, table: RoutingTable, source: Json) -> Json:
    return {
        "@type": TYPE + "config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source},
        "connect_timeout": _CONNECT_TIMEOUT,
        **({"lb_policy": "MAGLEV"} if name in table.sticky_pools else _least_request(table.slow_start_s)),
        # No panic: with every replica down the request must go on to the next pool, not to a dead replica.
        # And no merging: workers would learn a second late that a replica is healthy, or is not.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": "0s",
            **(_bounded(table.affinity_load) if name in table.sticky_pools else {}),
        },
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


def _least_request(slow_start_s: float) -> Json:
    """Of two replicas drawn at random the one with fewer requests."""
    settings: Json = {"choice_count": 2}
    if slow_start_s:
        settings["slow_start_config"] = {
            "slow_start_window": duration(slow_start_s),
            "min_weight_percent": {"value": _SLOW_START_FLOOR_PERCENT},
        }
    return {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": settings}


def _bounded(load: float) -> Json:
    """A replica that is over its bound passes the request on to another."""
    return {"consistent_hashing_lb_config": {"hash_balance_factor": round(load * 100)}}


def _chain_cluster(pools: tuple[str, ...]) -> Json:
    tried = (pools[0],) * (ATTEMPTS_IN_POOL - 1) + pools
    return {
        "@type": TYPE + "config.cluster.v3.Cluster",
        "name": chain_name(pools),
        "connect_timeout": _CONNECT_TIMEOUT,
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _NO_LIMITS,
        "cluster_type": {
            "name": "envoy.clusters.composite",
            "typed_config": {
                "@type": TYPE + "extensions.clusters.composite.v3.ClusterConfig",
                "clusters": [{"name": name} for name in tried],
            },
        },
    }


def _lb_endpoint(pool: str, endpoint: Endpoint) -> Json:
    return {
        "endpoint": {"address": address(endpoint.host, endpoint.port)},
        "metadata": {"filter_metadata": {NAMESPACE: {"pool": pool}}},
    }
