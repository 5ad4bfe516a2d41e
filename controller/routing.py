"""From an action and the replicas that are ready to what Envoy must know. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..env.contract import Action
from ..env.scenario import Scenario
from .actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable


def routing_table(scenario: Scenario, action: Action, ready: Mapping[str, tuple[Endpoint, ...]]) -> RoutingTable:
    """The table that an action asks for, with the endpoints of `ready` by pool.

    Requests that tell no class are of the first class of the scenario.
    """
    serves = scenario.serves()
    classes = []
    for c, (name, requests) in enumerate(scenario.classes.items()):
        weights = [(pool, float(action.route[c, p])) for p, pool in enumerate(scenario.pool_names) if serves[c, p]]
        classes.append(
            ClassRoute(
                name=name,
                # The heaviest first: that is where requests go when a pool drops out.
                weights=tuple(sorted(weights, key=lambda item: -item[1])),
                admit_frac=float(action.admit[c]),
                retry_after_s=max(1, math.ceil(scenario.world.retry_after_s)),
                body_match=requests.match.body,
                path_prefix=requests.match.path_prefix,
            )
        )
    pools = tuple(PoolBackends(name, ready.get(name, ())) for name in scenario.pool_names)
    return RoutingTable(classes=tuple(classes), pools=pools, default_class=scenario.class_names[0])
