"""What Envoy is to know at one moment, as plain data, and the words that all its configuration shares.

Pure. `envoy_routes` and `envoy_clusters` turn a `RoutingTable` into Envoy v3 JSON; `envoy` brings that to an Envoy by
files, `xds` to many by gRPC; `envoy_bootstrap` is the part that does not change.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

NAMESPACE: Final = "poolpilot"
"""Namespace of our metadata on requests, routes and endpoints."""
ROUTES_NAME: Final = "classes"
TYPE: Final = "type.googleapis.com/envoy."
"""How the names of Envoy's own types begin."""

WEIGHT_TOTAL: Final = 99_991
"""Sum of a route's cluster weights. Envoy draws one random number per request and takes it modulo this sum for the
cluster and modulo a million for admission: a prime keeps the two independent."""
MILLION: Final = 1_000_000

_CHAIN_MARK: Final = ">"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
"""What a header, a file name and Envoy's statistics all carry unchanged."""
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A header's name, RFC 9110 section 5.1."""


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
    max_requests: int | None = None
    """Most requests under way in the pool at a time, the rest is answered 429; None is no limit."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of whole numbers."""

    at_least: int = 0
    below: int | None = None
    """None is without end."""


@dataclass(frozen=True, slots=True)
class ClassRoute:
    """How the requests of one class are recognised, admitted and spread over pools.

    Recognised without its header is what meets all of `body_match`, `path_prefix`, `max_tokens`, `body_bytes` and, if
    they are `models_match`ed, `models`; a class for which none of these is given is never recognised so.
    """

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
    idle_timeout_s: float = 0.0
    """Longest silence, before the first byte or between two; 0 is no limit."""
    body_match: Mapping[str, str] = field(default_factory=dict)
    """JSON fields of the body (dots descend) and the value each must have."""
    path_prefix: str | None = None
    max_tokens: Span | None = None
    """Which `max_tokens` (or `max_completion_tokens`) a request must ask for; one that asks for none is outside."""
    body_bytes: Span | None = None
    """How long a request's body must be."""
    models: tuple[str, ...] = ()
    """Names by which requests ask for the class's model; empty where all classes share one model."""
    models_match: bool = False
    """Asking for one of `models` makes a request one of this class; otherwise it only may be."""
    ttft_ms: float | None = None
    """The class's own target, by which the class nearest to a request's own targets is found; None has none."""
    tpot_ms: float | None = None
    affinity_header: str | None = None
    """Requests that are alike in this header go to the same replica of a pool, as long as it has room."""

    @property
    def recognised(self) -> bool:
        """There is a way to tell its requests without a header."""
        spans = (self.max_tokens, self.body_bytes)
        return bool(self.body_match or self.path_prefix or any(spans) or (self.models and self.models_match))


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All that Envoy must know, at one moment.

    Raises:
        ValueError: a name, share or number that cannot be, named.
    """

    classes: tuple[ClassRoute, ...]
    pools: tuple[PoolBackends, ...]
    default_class: str
    """Of requests that tell no class; where classes have `models`, of those that ask for an unknown one."""
    slow_start_s: float = 0.0
    """For so long a fresh replica's share grows to its full one; 0 gives it the full one at once. Not in pools that serve
    a class with an affinity header."""
    affinity_load: float = 1.25
    """Where requests stick to replicas, none takes more than this many times the mean of its pool."""

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse later and less clearly."""
        pools = _unique("pools", (p.name for p in self.pools))
        classes = _unique("classes", (c.name for c in self.classes))
        if self.default_class not in classes:
            raise ValueError(f"default_class {self.default_class!r} is none of the classes {', '.join(classes)}")
        if not 0 <= self.slow_start_s < math.inf:
            raise ValueError(f"slow_start_s is {self.slow_start_s}, wanted 0 or more")
        if not 1 <= self.affinity_load < math.inf:
            raise ValueError(f"affinity_load is {self.affinity_load}, wanted 1 or more")
        for c in self.classes:
            _check_class(c, pools)

    @property
    def sticky_pools(self) -> frozenset[str]:
        """Pools that serve a class with an affinity header."""
        return frozenset(pool for c in self.classes if c.affinity_header for pool, _ in c.weights)


def discovery(kind: str, resources: Iterable[Json]) -> Json:
    """A discovery answer, the form of a file for Envoy's file subscription; its version is the hash of what it holds, so that it can be read back."""
    held = list(resources)
    digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": digest, "type_url": TYPE + "config." + kind, "resources": held}


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


def chain(c: ClassRoute, pool: str) -> tuple[str, ...]:
    """The pool, then the class's others in their order, starting after it: a dead pool's load spreads."""
    names = [name for name, _ in c.weights]
    at = names.index(pool)
    return (*names[at:], *names[:at])


def chain_name(pools: Sequence[str]) -> str:
    """The cluster name of a chain. It says all that the cluster holds, so that it never changes under its name."""
    return _CHAIN_MARK.join(("", *pools))


def address(host: str, port: int) -> Json:
    """A TCP socket address."""
    return {"socket_address": {"address": host, "port_value": port}}


def duration(seconds: float) -> str:
    """Seconds as protobuf's JSON has them."""
    return f"{seconds:.3f}s"


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
        if not 0 <= share < math.inf:
            raise ValueError(f"class {c.name}: weight of {pool} is {share}, wanted 0 or more")
    _unique(f"class {c.name} weights", (pool for pool, _ in c.weights))
    if not 0 <= c.admit_frac <= 1:
        raise ValueError(f"class {c.name}: admit_frac is {c.admit_frac}, wanted 0..1")
    for name in ("timeout_s", "idle_timeout_s", "retry_after_s"):
        if not 0 <= getattr(c, name) < math.inf:
            raise ValueError(f"class {c.name}: {name} is {getattr(c, name)}, wanted 0 or more")
    for name in ("ttft_ms", "tpot_ms"):
        value = getattr(c, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"class {c.name}: {name} is {value}, wanted more than 0")
    for name in ("max_tokens", "body_bytes"):
        span = getattr(c, name)
        if span is not None and not 0 <= span.at_least < (math.inf if span.below is None else span.below):
            raise ValueError(f"class {c.name}: {name} is {span.at_least}..{span.below}, wanted 0 <= at_least < below")
    if c.affinity_header is not None and not _HEADER.fullmatch(c.affinity_header):
        raise ValueError(f"class {c.name}: affinity_header is {c.affinity_header!r}, wanted a header's name")
