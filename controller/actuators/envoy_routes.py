"""Classes as Envoy's routes: who is of which class, who is turned away, and where the others go. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from ...telemetry.envoy_log import STREAM_HEADER
from .envoy_classes import (
    BODY_LENGTH,
    CLASS_OF_BODY,
    NEAREST_CLASS,
    TPOT_HEADER,
    TTFT_HEADER,
    asking_for_model_of,
    nearest_to,
    recognised_as,
    settings,
    told_by_header,
    with_own,
    with_targets,
)
from .envoy_clusters import ATTEMPTS_IN_POOL
from .envoy_config import (
    MILLION,
    NAMESPACE,
    ROUTES_NAME,
    TYPE,
    ClassRoute,
    Json,
    RoutingTable,
    chain,
    chain_name,
    duration,
    spread,
)

_OFF: Final = {"@type": TYPE + "config.route.v3.FilterConfig", "disabled": True}
_ALL: Final = (BODY_LENGTH, CLASS_OF_BODY, NEAREST_CLASS)


def routes(table: RoutingTable) -> Json:
    """The route configuration: the first that matches a request tells its class."""
    ready = {pool.name for pool in table.pools if pool.endpoints}
    used = settings(table)
    found: list[Json] = []
    for c, match, reading in _ways(table):
        off = {name: _OFF for name in used if name not in reading}
        found += _routes_of(c, match, ready, off)
    host: Json = {
        "name": "all",
        "domains": ["*"],
        "routes": found,
        "request_headers_to_add": [_overwrite(STREAM_HEADER, "%STREAM_ID%")],
    }
    if used:
        host["typed_per_filter_config"] = used
    return {"@type": TYPE + "config.route.v3.RouteConfiguration", "name": ROUTES_NAME, "virtual_hosts": [host]}


def _ways(table: RoutingTable) -> Iterator[tuple[ClassRoute, Json, Sequence[str]]]:
    """Every way to tell a class, in order: the class, what matches, and the filters that such a request passes.

    A request passes the filters of the route that matches before any of them ran; then routes are tried again.
    """
    default = next(c for c in table.classes if c.name == table.default_class)
    named = any(c.models for c in table.classes)
    of_models = _first_of_each_model(table) if named else []
    by_model: Sequence[str] = (CLASS_OF_BODY,) if named else ()
    for c in table.classes:
        yield c, told_by_header(c.name), ()
    unknown = told_by_header(None)
    for c in of_models:
        yield c, asking_for_model_of(c, unknown), by_model
    yield default, unknown, by_model
    if aimed := with_targets(table):
        for c in aimed:
            yield c, nearest_to(c), _ALL
        if not named:
            # Nothing of the body will be asked: it need not be read. The script then finds one of the routes above.
            for header in (TTFT_HEADER, TPOT_HEADER):
                yield default, with_own(header), (NEAREST_CLASS,)
    for c in table.classes:
        if c.recognised:
            yield c, recognised_as(c), _ALL
    for c in of_models:
        yield c, asking_for_model_of(c, {"prefix": "/"}), _ALL
    yield default, {"prefix": "/"}, _ALL


def _first_of_each_model(table: RoutingTable) -> list[ClassRoute]:
    """The default class of each model: the first that has not all its names from one before."""
    seen: set[str] = set()
    firsts = []
    for c in table.classes:
        if not seen.issuperset(c.models):
            firsts.append(c)
        seen.update(c.models)
    return firsts


def _routes_of(c: ClassRoute, match: Json, ready: set[str], off: Json) -> list[Json]:
    """The routes of one way to recognise a class: the share to turn away first, then the rest."""
    common: Json = {"metadata": {"filter_metadata": {NAMESPACE: {"class": c.name}}}}
    if off:
        common["typed_per_filter_config"] = off
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
    found: Json = {
        "weighted_clusters": {
            "clusters": [{"name": chain_name(chain(c, pool)), "weight": weight} for pool, weight in weights]
        },
        "timeout": duration(c.timeout_s),
        "idle_timeout": duration(c.idle_timeout_s),  # 0 is no limit: a queued request is silent while it waits
        "retry_policy": {
            # All of these happen before the first byte went to the client; after it Envoy never retries.
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": ATTEMPTS_IN_POOL + len(c.weights) - 2,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {"@type": TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                }
            ],
            "host_selection_retry_max_attempts": 8,
        },
    }
    if c.affinity_header:
        found["hash_policy"] = [{"header": {"header_name": c.affinity_header}}]
    return found
