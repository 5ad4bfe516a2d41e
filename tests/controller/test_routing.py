"""What Envoy is told of an action: classes with weights over the pools that serve them, pools with what is ready."""

import numpy as np
import pytest

from poolpilot.controller.actuators.envoy_config import Endpoint
from poolpilot.controller.routing import routing_table
from poolpilot.env.contract import Action
from poolpilot.env.scenario import load_scenario, shipped_scenarios

READY = (Endpoint("127.0.0.1", 9001), Endpoint("127.0.0.1", 9002))


def an_action(classes: int, pools: int, seed: int = 0) -> Action:
    rng = np.random.default_rng(seed)
    route = rng.random((classes, pools))
    return Action(
        route=route / route.sum(axis=1, keepdims=True),
        admit=rng.random(classes),
        batch_cap=np.full(pools, 8.0),
        token_budget=np.full(pools, 512.0),
        replicas=np.ones(pools),
    )


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_every_class_goes_to_the_pools_that_serve_it_heaviest_first(name: str) -> None:
    scenario = load_scenario(name)
    classes, pools = len(scenario.class_names), len(scenario.pool_names)
    action, serves = an_action(classes, pools), scenario.serves()
    table = routing_table(scenario, action, {scenario.pool_names[0]: READY})
    assert tuple(route.name for route in table.classes) == scenario.class_names
    assert table.default_class == scenario.class_names[0]
    for c, route in enumerate(table.classes):
        weights = dict(route.weights)
        assert set(weights) == {pool for p, pool in enumerate(scenario.pool_names) if serves[c, p]}
        assert list(weights.values()) == sorted(weights.values(), reverse=True)
        for pool, weight in weights.items():
            assert weight == action.route[c, scenario.pool_names.index(pool)]
        assert route.admit_frac == action.admit[c]
        assert route.retry_after_s >= max(1, scenario.world.retry_after_s)
        match = scenario.classes[route.name].match
        assert (route.body_match, route.path_prefix) == (match.body, match.path_prefix)


def test_pools_hold_what_is_ready_and_nothing_else() -> None:
    scenario = load_scenario("mixed-chat")
    first, *others = scenario.pool_names
    table = routing_table(scenario, an_action(len(scenario.class_names), 1 + len(others)), {first: READY})
    assert [(pool.name, pool.endpoints) for pool in table.pools] == [(first, READY), *((name, ()) for name in others)]
