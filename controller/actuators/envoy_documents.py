"""A routing table as the documents that Envoy is given, and the order in which it is given them. Pure.

`cds.json` (clusters), `eds-<pool>.json` (ready replicas), `rds.json` (routes): the names of files, and of what goes by
gRPC.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Final

from .admission import LAYER, key_of
from .envoy_clusters import clusters, endpoints
from .envoy_config import TYPE, Json, RoutingTable, discovery
from .envoy_routes import routes

CDS_FILE: Final = "cds.json"
RDS_FILE: Final = "rds.json"


def endpoints_file(pool: str) -> str:
    """The file name of a pool's endpoints."""
    return f"eds-{pool}.json"


def watched(folder: str, name: str) -> Json:
    """A file source that reads the file again when it is replaced by a rename inside the folder."""
    source = {"path": f"{folder}/{name}", "watched_directory": {"path": folder}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def render(table: RoutingTable, source_of: Callable[[str], Json]) -> dict[str, Json]:
    """Every document by the name of its file; endpoints first, routes last. `source_of` a file is where Envoy finds it."""
    files = {
        endpoints_file(pool.name): discovery("endpoint.v3.ClusterLoadAssignment", [endpoints(pool)])
        for pool in table.pools
    }
    found = clusters(table, lambda pool: source_of(endpoints_file(pool)))
    files[CDS_FILE] = discovery("cluster.v3.Cluster", found)
    files[RDS_FILE] = discovery("route.v3.RouteConfiguration", [routes(table)])
    return files


def phases(
    before: Mapping[str, Json | None], wanted: Mapping[str, Json]
) -> tuple[dict[str, Json], dict[str, Json], dict[str, Json]]:
    """What to give Envoy, one after the other, so that no request meets what is not there yet or not there any more.

    New replicas and clusters beside the old ones; the routes that use them; the new ones alone.

    Args:
        before: what Envoy runs, None where it has nothing yet.
        wanted: what it is to run, by the same names.
    """
    supply = {name: _bridged(before.get(name), wanted[name]) for name in wanted if name != RDS_FILE}
    return supply, {RDS_FILE: wanted[RDS_FILE]}, {name: wanted[name] for name in supply}


def _bridged(old: Json | None, new: Json) -> Json:
    """What to run while the routes still are the old ones: the new, and what only they need.

    That is clusters which they name, and the replicas of a pool that keeps none of them: the new ones may not have
    passed their first health check yet. Otherwise a replica that leaves gets no more requests from now on.
    """
    if old is None:
        return new
    if new["type_url"].endswith(".Cluster"):
        names = {cluster["name"] for cluster in new["resources"]}
        leaving = [cluster for cluster in old["resources"] if cluster["name"] not in names]
        return discovery("cluster.v3.Cluster", [*new["resources"], *leaving]) if leaving else new
    if not all_new(old, new):
        return new
    pool = copy.deepcopy(new["resources"][0])
    pool["endpoints"][0]["lb_endpoints"] += hosts(old)
    return discovery("endpoint.v3.ClusterLoadAssignment", [pool])


def all_new(old: Json | None, new: Json) -> bool:
    """None of a pool's old replicas is among its new ones."""
    if not new["type_url"].endswith(".ClusterLoadAssignment"):
        return False
    return old is None or not any(host in hosts(new) for host in hosts(old))


def hosts(document: Json) -> list[Json]:
    """The replicas in a document of endpoints."""
    hosts: list[Json] = document["resources"][0]["endpoints"][0]["lb_endpoints"]
    return hosts


def admission(table: RoutingTable) -> Json:
    """The admission caps of all pools as a layer of Envoy's runtime; pools without a cap are not in it."""
    caps = {key_of(pool.name): pool.max_requests for pool in table.pools if pool.max_requests is not None}
    kind = TYPE + "service.runtime.v3.Runtime"
    return {"type_url": kind, "resources": [{"@type": kind, "name": LAYER, "layer": caps}]}
