"""From an action and the replicas that are ready to what Envoy must know. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..env.catalog.models import model
from ..env.contract import Action
from ..env.scenario import Scenario
from ..env.scenario.classes import RequestClass
from ..env.scenario.pools import Pool
from ..env.scenario.routing import WholeRange
from .actuators.envoy_config import ClassRoute, Endpoint, PoolBackends, RoutingTable, Span

_MS_PER_S = 1000.0


def routing_table(
    scenario: Scenario, action: Action, ready: Mapping[str, tuple[Endpoint, ...]], speed_up: float = 1.0
) -> RoutingTable:
    """The table that an action asks for, with the endpoints of `ready` by pool.

    Requests that tell no class are of the first class of the scenario, or of the first of the model that they ask for.

    Args:
        scenario: classes, pools, and how the proxy is to treat them.
        action: shares, admission.
        ready: replicas that serve, by pool.
        speed_up: the scenario's seconds in one of the proxy's. Retry-After stays in the scenario's: emulated clients read it so.
    """
    serves = scenario.serves()
    classes = []
    for c, (name, requests) in enumerate(scenario.classes.items()):
        weights = [(pool, float(action.route[c, p])) for p, pool in enumerate(scenario.pool_names) if serves[c, p]]
        own, match, target = requests.routing, requests.match, requests.target
        classes.append(
            ClassRoute(
                name=name,
                # The heaviest first: that is where requests go when a pool drops out.
                weights=tuple(sorted(weights, key=lambda item: -item[1])),
                admit_frac=float(action.admit[c]),
                retry_after_s=max(1, math.ceil(scenario.world.retry_after_s)),
                timeout_s=(own.timeout_s or 0.0) / speed_up,
                idle_timeout_s=(own.idle_timeout_s or 0.0) / speed_up,
                body_match=match.body,
                path_prefix=match.path_prefix,
                max_tokens=_span(match.max_tokens),
                body_bytes=_span(match.body_bytes),
                models=_names_of_model(scenario, requests),
                models_match=bool(match.model),
                ttft_ms=None if target.ttft_s is None else target.ttft_s * _MS_PER_S / speed_up,
                tpot_ms=None if target.tpot_s is None else target.tpot_s * _MS_PER_S / speed_up,
                affinity_header=own.affinity_header,
            )
        )
    return RoutingTable(
        classes=tuple(classes),
        pools=tuple(
            PoolBackends(
                name,
                ready.get(name, ()),
                _admission_cap(scenario.pools[name], float(action.batch_cap[p]), len(ready.get(name, ()))),
            )
            for p, name in enumerate(scenario.pool_names)
        ),
        default_class=scenario.class_names[0],
        slow_start_s=scenario.routing.slow_start_s / speed_up,
        affinity_load=scenario.routing.affinity_load,
    )


def _admission_cap(pool: Pool, batch_cap: float, ready: int) -> int | None:
    """Requests that the proxy lets through to a pool at a time, where its engines take no cap.

    A cap as high as the engines' own is none: then they queue, as they do by themselves.
    """
    if pool.cap_by == "engine" or not ready or batch_cap >= pool.engine.max_num_seqs:
        return None
    return max(1, int(batch_cap)) * ready


def _span(wanted: WholeRange | None) -> Span | None:
    return None if wanted is None else Span(wanted.at_least or 0, wanted.below)


def _names_of_model(scenario: Scenario, requests: RequestClass) -> tuple[str, ...]:
    """How requests ask for the class's model: as the file says, else by the catalogue's name where there are several."""
    if requests.match.model:
        return requests.match.model
    written = [c.model or scenario.model for c in scenario.classes.values()]
    if len({model(name).name for name in written}) == 1:
        return ()
    own = requests.model or scenario.model
    return tuple(dict.fromkeys((own, model(own).name)))
