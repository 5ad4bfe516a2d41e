"""What Envoy is told of an action: classes with weights over the pools that serve them, pools with what is ready."""

from dataclasses import replace

import numpy as np
import pytest

from poolpilot.controller.actuators.envoy_config import Endpoint, Span
from poolpilot.controller.routing import routing_table
from poolpilot.env.contract import Action
from poolpilot.env.scenario import Scenario, load_scenario, shipped_scenarios

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


def with_changes(scenario: Scenario, **changes: object) -> Scenario:
    """The scenario with some fields of its first class changed."""
    document = scenario.model_dump(by_alias=True)
    first = scenario.class_names[0]
    document["classes"][first] = {**document["classes"][first], **changes}
    return Scenario.model_validate(document)


def test_what_the_proxy_is_to_do_with_a_class() -> None:
    match = {"max_tokens": {"below": 100}, "body_bytes": {"at_least": 9000}, "model": ["mine"]}
    own = {"timeout_s": 120.0, "idle_timeout_s": 30.0, "affinity_header": "x-user"}
    scenario = with_changes(load_scenario("mixed-chat"), match=match, routing=own, target={"ttft_s": 2.0})
    action = an_action(len(scenario.class_names), len(scenario.pool_names))
    first, *others = routing_table(scenario, action, {}, speed_up=10.0).classes
    assert (first.timeout_s, first.idle_timeout_s, first.affinity_header) == (12.0, 3.0, "x-user")
    assert (first.max_tokens, first.body_bytes) == (Span(0, 100), Span(9000, None))
    assert (first.models, first.models_match) == (("mine",), True)
    assert (first.ttft_ms, first.tpot_ms) == (200.0, None)
    assert all(c.timeout_s == 0 and c.affinity_header is None and c.models == () for c in others)


def test_classes_of_several_models_know_their_names() -> None:
    scenario = load_scenario("two-models")
    table = routing_table(scenario, an_action(2, len(scenario.pool_names)), {})
    assert [(c.name, c.models, c.models_match) for c in table.classes] == [
        ("chat", ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"), False),
        ("code", ("qwen2.5-32b", "Qwen/Qwen2.5-32B"), False),
    ]


def test_slow_start_is_in_the_proxys_seconds() -> None:
    scenario = load_scenario("mixed-chat")
    action = an_action(len(scenario.class_names), len(scenario.pool_names))
    assert routing_table(scenario, action, {}, speed_up=4.0).slow_start_s == scenario.routing.slow_start_s / 4.0 > 0


@pytest.mark.parametrize(
    ("cap_by", "cap", "ready", "most"),
    [("engine", 4, 2, None), ("proxy", 4, 2, 8), ("proxy", 128, 2, None), ("proxy", 4, 0, None), ("proxy", 1, 3, 3)],
    ids=["engines take it", "for each replica", "the engines' own is none", "nobody is there", "least"],
)
def test_the_proxy_caps_what_engines_do_not(cap_by: str, cap: int, ready: int, most: int | None) -> None:
    scenario = load_scenario("mixed-chat")
    name = scenario.pool_names[0]
    pools = {**scenario.pools, name: scenario.pools[name].model_copy(update={"cap_by": cap_by})}
    scenario = scenario.model_copy(update={"pools": pools})
    action = replace(an_action(len(scenario.classes), len(pools)), batch_cap=np.full(len(pools), float(cap)))
    endpoints = tuple(Endpoint("127.0.0.1", 8000 + n) for n in range(ready))
    table = routing_table(scenario, action, {name: endpoints})
    assert table.pools[0].max_requests == most
